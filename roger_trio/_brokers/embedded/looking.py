"""What tests ask the database in memory; the questions change nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ..base import Message
from .engine import Engine
from .headers import unpack


class Waiting(NamedTuple):
    """A message that waits, for a consumer or for its time."""

    queue: str
    message: Message
    due: float | None


class MemoryEngine(Engine):
    """The `Engine` of a database in memory, which answers what only tests want to know."""

    def is_quiet(self, names: Collection[str]) -> bool:
        """Tell whether nothing is on loan, and nothing waits in queues that are consumed.

        Args:
            names: Queues that count as consumed although nobody consumes them right now.
        """
        consumed = {row[0] for row in self._db.execute("SELECT queue FROM consumers")}
        known = "SELECT id FROM queues WHERE name = ?"
        for name in names:
            consumed.update(self._db.execute(known, (name,)).fetchone() or ())
        on_loan = "SELECT EXISTS (SELECT 1 FROM messages WHERE channel IS NOT NULL)"
        waits = (
            "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ? AND channel IS NULL) "
            "OR EXISTS (SELECT 1 FROM delayed WHERE queue = ?)"
        )
        return not self._db.execute(on_loan).fetchone()[0] and not any(
            self._db.execute(waits, (queue, queue)).fetchone()[0] for queue in consumed
        )

    def waiting(self) -> list[Waiting]:
        """Return all that is ready, in order of arrival, then all that is delayed.

        What is in a queue that forwards waits there even while somebody holds it.
        """
        rows = self._db.execute(
            "SELECT name, body, message_id, headers, due FROM "
            "(SELECT 0 AS kind, id, queue, body, message_id, headers, NULL AS due FROM messages "
            "WHERE channel IS NULL OR queue IN "
            "(SELECT id FROM queues WHERE spec LIKE '%\"forwards\"%') UNION ALL "
            "SELECT 1, id, queue, body, message_id, headers, due FROM delayed) AS found "
            "JOIN queues ON queues.id = found.queue ORDER BY kind, found.id"
        ).fetchall()
        return [
            Waiting(name, _message(body, message_id, headers), due)
            for name, body, message_id, headers, due in rows
        ]


def _message(body: bytes, message_id: str, packed: str | None) -> Message:
    onward, headers = unpack(packed)
    return Message(body, message_id, headers or None, onward)
