"""The command line, ``roger``: what an operator types.

app        the commands put together, and what errors become
options    the arguments and options that commands share
loading    from ``app:config`` to a `Config`
session    a client for the length of a command
output     tables, JSON, and what a person reads
logs       the log of ``roger serve``
shared     writing a log that several processes write
serve demo enqueue cluster looking keys control replay purge    the commands
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
