"""The program of a node: ``python -m tests.chaos.node '{"who": …}'``, until it is ended."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import trio

import roger_trio as roger

from . import jobs
from .journal import Journal
from .load import PARTITIONS

AN_HOUR: Final = 3600.0
SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that jobs get when the node stops: less than the long ones take."""


class SettableClock:
    """Sets the clock of this process alone: SIGUSR1 puts it an hour on, SIGUSR2 an hour back.

    What decides by the time of day reads ``time.time``; the times shown of jobs do not come from
    there, and stay as they are.
    """

    def __init__(self) -> None:
        self._true = time.time
        self._offset = 0.0
        time.time = self._now
        signal.signal(signal.SIGUSR1, self._set)
        signal.signal(signal.SIGUSR2, self._set)

    def _now(self) -> float:
        return self._true() + self._offset

    def _set(self, number: int, _: Any) -> None:
        self._offset += AN_HOUR if number == signal.SIGUSR1 else -AN_HOUR


def make_config(options: dict[str, Any]) -> roger.Config:
    """Make the configuration of a node, or of a client."""
    state = options.get("state")
    return roger.Config(
        broker=options["broker"],
        partitions=PARTITIONS,
        callbacks=jobs.Telling(),
        persister=roger.FilePersister(state) if state else roger.FilePersister(),
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        enqueue_timeout=options.get("enqueue_timeout", 10.0),
    )


class _Ready(logging.Handler):
    """Writes down when the node is ready: a program of its own is told so by its log alone."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.INFO)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        if "is ready" in record.getMessage():
            self._journal.note("ready")


def main() -> None:
    """Serve until a signal."""
    options = json.loads(sys.argv[1])
    SettableClock()
    journal = Journal(Path(options["folder"]), options["who"])
    shown = logging.StreamHandler()
    shown.setLevel(options["log"])
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level="INFO", format=form, handlers=[shown, _Ready(journal)])
    jobs.write_to(journal)
    journal.note("begin")
    trio.run(roger.serve, make_config(options))
    journal.note("finish")


if __name__ == "__main__":
    main()
