"""Writing whole lines to a stream that other processes write to as well."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TextIO


class SharedStreamHandler(logging.StreamHandler[TextIO]):
    """Writes a record's line without another process's in the middle of it.

    A pipe takes at most 4096 bytes at once when its reader is behind, and a traceback has more.
    So who writes to a pipe or a socket locks it for that moment. The kernel writes to files and
    terminals one after the other by itself.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with _turn(self.stream):
            super().emit(record)


@contextmanager
def _turn(stream: TextIO) -> Generator[None]:
    number = _lockable(stream)
    if number is None:
        yield
        return
    with suppress(OSError):  # Where a pipe cannot be locked, lines may be mixed; better than none.
        fcntl.lockf(number, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(number, fcntl.LOCK_UN)


def _lockable(stream: TextIO) -> int | None:
    """Return the descriptor of a pipe or socket; None for anything else."""
    try:
        number = stream.fileno()
        mode = os.fstat(number).st_mode
    except (OSError, ValueError):  # closed, or in memory
        return None
    return number if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
