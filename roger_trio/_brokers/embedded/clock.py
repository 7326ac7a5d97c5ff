"""The clock that delays in a file run by: the same for all processes, and never set.

The wall clock is set now and then, by people and by NTP: forward, and delays would end early;
back, and they would not end. The time since the machine started is not, but begins anew with each
start. So the file keeps what to add to it, taken from the wall clock by the first process after
each start of the machine.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SharedClock:
    """Seconds on the clock that all processes share which use one database.

    Where the system does not tell its starts apart, it is the wall clock.
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    def now(self) -> float:
        """Return the time, in seconds."""
        return time.time() if self._offset is None else _uptime() + self._offset

    def synchronise(self, connection: sqlite3.Connection) -> None:
        """Take over the clock of a database; to be called in a transaction."""
        boot = _boot_id()
        if boot is None:
            return
        row = connection.execute("SELECT ahead FROM clock WHERE boot = ?", (boot,)).fetchone()
        if row is None:
            self._offset = time.time() - _uptime()
            connection.execute("DELETE FROM clock")
            add = "INSERT INTO clock (boot, ahead) VALUES (?, ?)"
            connection.execute(add, (boot, self._offset))
        else:
            self._offset = float(row[0])


def _boot_id() -> str | None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # Counts suspended time too.
