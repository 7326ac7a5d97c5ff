"""What a job is: its class, its name, its arguments, its wire form. No I/O happens here."""

from __future__ import annotations
