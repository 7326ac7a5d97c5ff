"""What happened, a line of JSON each, in files that only grow; a line is whole or not there.

The time is that of ``CLOCK_MONOTONIC``, which all processes of a machine share and nobody can set.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs

_FILE_SIZE: Final = 20_000
"""Bytes after which another file is begun: a limit on the size of files, which plays the full
disk, must not strike the journal."""


@attrs.frozen
class Event:
    """Something that happened.

    Args:
        time: When, in seconds; comparable in all processes.
        who: Who says so: a process of the run, or ``suite``.
        what: What it was.
        job: The id of the job it is about, or ''.
        data: All else.
    """

    time: float
    who: str
    what: str
    job: str
    data: dict[str, Any]

    def __str__(self) -> str:
        more = " ".join(f"{key}={value}" for key, value in self.data.items())
        return f"{self.time:.3f} {self.who} {self.what} {self.job} {more}".rstrip()


class Journal:
    """Writes what one process has to say.

    Args:
        folder: Where the files go.
        who: The name of the process, unique in the run.
    """

    def __init__(self, folder: Path, who: str) -> None:
        self._folder = folder
        self._who = who
        self._number = -1
        self._file = -1
        self._size = _FILE_SIZE
        self._lock = threading.Lock()

    def note(self, what: str, job: str = "", **data: object) -> float:
        """Write that something happened now; return when that is."""
        now = time.monotonic()
        self.note_at(now, what, job, **data)
        return now

    def note_at(self, moment: float, what: str, job: str = "", **data: object) -> None:
        """Write that something happened."""
        line = json.dumps([moment, self._who, what, job, data]).encode() + b"\n"
        with self._lock:
            if self._size >= _FILE_SIZE:
                self._open_next()
            written = os.write(self._file, line)
            self._size += written
        if written != len(line):
            raise OSError(f"the journal of {self._who}: {written} of {len(line)} bytes written")

    def _open_next(self) -> None:
        if self._number >= 0:
            os.close(self._file)
        self._number += 1
        path = self._folder / f"{self._who}.{self._number:04}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._size = 0


class Reader:
    """Reads the journals of a folder as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def read(self) -> list[Event]:
        """Return what is new, in the order in which it happened."""
        found: list[Event] = []
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            found += [Event(*json.loads(line)) for line in whole.splitlines()]
        return in_order(found)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Sort events by their time."""
    return sorted(events, key=lambda each: each.time)
