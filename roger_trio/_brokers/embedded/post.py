"""Broadcasts in the database: who listens, and what waits to be collected."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from .values import Audience, Broadcast

_MAX_POST: Final = 1000
"""Broadcasts that wait for a process; one that collects no more loses the newest."""


class Post:
    """The broadcasts of one database. Every method runs inside a transaction of the engine's.

    Args:
        connection: The database.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.called: set[str] = set()
        """Processes that have something to collect since the transaction began."""

    def listen(self, topics: Sequence[str], process: str) -> None:
        """Note that a process listens to topics."""
        add = "INSERT OR IGNORE INTO listeners (topic, process) VALUES (?, ?)"
        self._db.executemany(add, ((topic, process) for topic in topics))

    def stop_listening(self, topics: Sequence[str], process: str) -> None:
        """Note that a process listens to topics no more."""
        remove = "DELETE FROM listeners WHERE topic = ? AND process = ?"
        self._db.executemany(remove, ((topic, process) for topic in topics))

    def broadcast(self, topic: str, body: bytes) -> Audience:
        """Have every process that listens now collect `body`; return which ones listen."""
        find = "SELECT process FROM listeners WHERE topic = ?"
        waiting = "SELECT count(*) FROM broadcasts WHERE process = ?"
        listening = [process for (process,) in self._db.execute(find, (topic,))]
        overdue: list[str] = []
        for process in listening:
            (unread,) = self._db.execute(waiting, (process,)).fetchone()
            if unread >= _MAX_POST:
                overdue.append(process)
                continue
            self._db.execute(
                "INSERT INTO broadcasts (process, topic, body) VALUES (?, ?, ?)",
                (process, topic, body),
            )
            self.called.add(process)
        return Audience(listening, overdue)

    def collect(self, process: str) -> list[Broadcast]:
        """Return what was said to a process since it collected last, in order."""
        find = "SELECT id, topic, body FROM broadcasts WHERE process = ? ORDER BY id"
        rows = self._db.execute(find, (process,)).fetchall()
        if rows:
            remove = "DELETE FROM broadcasts WHERE process = ? AND id <= ?"
            self._db.execute(remove, (process, rows[-1][0]))
        return [Broadcast(topic, body) for _, topic, body in rows]

    def forget(self, process: str) -> None:
        """Forget a process, and what it did not collect."""
        self._db.execute("DELETE FROM listeners WHERE process = ?", (process,))
        self._db.execute("DELETE FROM broadcasts WHERE process = ?", (process,))
