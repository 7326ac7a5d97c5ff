"""Deciding what becomes of a process that ended though nobody stopped it. No effects here."""

from __future__ import annotations

import signal
from typing import Final

from .._tree.supervise import RestartCount, RestartPolicy

POLICY: Final = RestartPolicy(first_delay=0.5, max_delay=30.0, max_restarts=None, within=300.0)
"""Half a second after the first death within five minutes; each further one doubles it."""
FAILED_STARTS: Final = 5
"""So often may one process end before it is ready, if none of them ever was."""


class Restarts:
    """The deaths of all processes, and what follows from the next."""

    def __init__(self) -> None:
        self._deaths: dict[int, RestartCount] = {}
        self._failed_starts: dict[int, int] = {}
        self._was_any_ready = False

    def note_ready(self, number: int) -> None:
        """Take note that a process is ready: a configuration that works once is not given up."""
        self._was_any_ready = True
        self._failed_starts.pop(number, None)

    def note_death(self, number: int, now: float, *, was_ready: bool) -> float | None:
        """Take note that a process ended by itself.

        Args:
            number: Which one.
            now: When, in seconds of any steady clock.
            was_ready: Whether it was ready before.

        Returns:
            Seconds until it is started again; None: give up, none of them can start.
        """
        if not was_ready:
            self._failed_starts[number] = self.failed_starts(number) + 1
        if not self._was_any_ready and self.failed_starts(number) >= FAILED_STARTS:
            return None
        return self._deaths.setdefault(number, RestartCount(POLICY)).next_delay(now)

    def failed_starts(self, number: int) -> int:
        """Tell how often in a row a process ended before it was ready."""
        return self._failed_starts.get(number, 0)


def manner(status: int) -> str:
    """Say how a process ended.

    Args:
        status: As Python has it: negative for a signal.
    """
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def has_stopped_well(status: int, *, was_ready: bool) -> bool:
    """Decide whether a process that was told to stop did what it was told.

    What was not ready yet had no job, and may be killed by the signal that reaches it while it is
    still importing.
    """
    return status == 0 or not was_ready
