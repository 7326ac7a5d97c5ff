"""What the embedded broker does in its database: SQL, one function for each thing.

Every method runs inside a transaction that its caller opened, checks before it writes, and
neither blocks nor knows of tasks, threads or clocks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import attrs

from ..base import HeaderValue, Message, QueueCount, QueueMissing, QueueRefused, QueueSpec

_PROMOTED_AT_ONCE: Final = 1000
"""Delayed messages moved in one transaction; the rest follow in the next."""


class Row(NamedTuple):
    """A message on loan."""

    id: int
    body: bytes
    message_id: str
    headers: str | None
    deliveries: int


class Waiting(NamedTuple):
    """A message that waits, for a consumer or for its time."""

    queue: str
    message: Message
    due: float | None


@attrs.frozen
class Promotion:
    """What became ready, and when the next does."""

    queues: frozenset[int]
    next_due: float | None


class Engine:
    """The queues of one database.

    Args:
        connection: The database, in autocommit mode; only the caller's thread uses it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._ids: dict[str, int] = {}

    def forget(self) -> None:
        """Forget what was read in a transaction that was rolled back."""
        self._ids.clear()

    # Queues...

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """Make queues that are not there; refuse those that are there and differ."""
        for queue in queues:
            wanted = json.dumps(attrs.asdict(queue), sort_keys=True)
            self._db.execute(
                "INSERT OR IGNORE INTO queues (name, single_active, spec) VALUES (?, ?, ?)",
                (queue.name, int(queue.single_active), wanted),
            )
            select = "SELECT spec FROM queues WHERE name = ?"
            (found,) = self._db.execute(select, (queue.name,)).fetchone()
            if found != wanted:
                raise QueueRefused(
                    f"queue {queue.name!r} is not what roger_trio needs: it was declared as "
                    f"{found}, and roger_trio declares it as {wanted}"
                )

    def queue_id(self, name: str) -> int:
        """Return a queue's number.

        Raises:
            QueueMissing: There is no such queue.
        """
        known = self._ids.get(name)
        if known is not None:
            return known
        found = self._db.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise QueueMissing(f"there is no queue {name!r}")
        self._ids[name] = int(found[0])
        return self._ids[name]

    def count(self, name: str) -> QueueCount:
        """Count the messages that are ready and the consumers."""
        queue = self.queue_id(name)
        ready = "SELECT count(*) FROM messages WHERE queue = ? AND channel IS NULL"
        (messages,) = self._db.execute(ready, (queue,)).fetchone()
        consuming = "SELECT count(*) FROM consumers WHERE queue = ?"
        (consumers,) = self._db.execute(consuming, (queue,)).fetchone()
        return QueueCount(messages=messages, consumers=consumers)

    def purge(self, name: str) -> int:
        """Delete what is ready."""
        queue = self.queue_id(name)
        delete = "DELETE FROM messages WHERE queue = ? AND channel IS NULL"
        return self._db.execute(delete, (queue,)).rowcount

    # Messages...

    def publish(self, name: str, messages: Iterable[Message], due: float | None) -> int:
        """Keep messages: ready at once, or at `due`; return the queue's number."""
        queue = self.queue_id(name)
        rows = ((queue, each.message_id, _dump_headers(each), each.body, due) for each in messages)
        if due is None:
            self._db.executemany(
                "INSERT INTO messages (queue, message_id, headers, body) VALUES (?1, ?2, ?3, ?4)",
                (row[:4] for row in rows),
            )
        else:
            self._db.executemany(
                "INSERT INTO delayed (queue, message_id, headers, body, due) "
                "VALUES (?1, ?2, ?3, ?4, ?5)",
                rows,
            )
        return queue

    def promote(self, now: float) -> Promotion:
        """Put delayed messages whose time has come at the tail of their queues, in order."""
        due = self._db.execute(
            "SELECT id, queue FROM delayed WHERE due <= ? ORDER BY due, id LIMIT ?",
            (now, _PROMOTED_AT_ONCE),
        ).fetchall()
        for number, _ in due:
            self._db.execute(
                "INSERT INTO messages (queue, message_id, headers, body) "
                "SELECT queue, message_id, headers, body FROM delayed WHERE id = ?",
                (number,),
            )
            self._db.execute("DELETE FROM delayed WHERE id = ?", (number,))
        (next_due,) = self._db.execute("SELECT min(due) FROM delayed").fetchone()
        return Promotion(frozenset(queue for _, queue in due), next_due)

    def claim(self, channel: int, queue: int, limit: int) -> list[Row]:
        """Deliver messages from the head of a queue to a channel that consumes it.

        Of a queue with a single active consumer only the one that came first gets any.

        Args:
            channel: The borrower.
            queue: The queue's number.
            limit: The most to lend.
        """
        active = (
            "SELECT channel = ?2 FROM consumers WHERE queue = ?1 AND "
            "(SELECT single_active FROM queues WHERE id = ?1) ORDER BY id LIMIT 1"
        )
        answer = self._db.execute(active, (queue, channel)).fetchone()
        if answer is not None and not answer[0]:
            return []
        return self._lend(channel, queue, limit, deliveries=1)

    def take(self, channel: int, queue: int, limit: int) -> list[Row]:
        """Lend messages from the head of a queue for a look, which is no delivery."""
        return self._lend(channel, queue, limit, deliveries=0)

    def _lend(self, channel: int, queue: int, limit: int, *, deliveries: int) -> list[Row]:
        rows = self._db.execute(
            "UPDATE messages SET channel = ?1, deliveries = deliveries + ?2 "
            "WHERE id IN (SELECT id FROM messages WHERE queue = ?3 AND channel IS NULL "
            "ORDER BY id LIMIT ?4) RETURNING id, body, message_id, headers, deliveries",
            (channel, deliveries, queue, limit),
        ).fetchall()
        rows.sort()  # RETURNING promises no order; ids are in order of arrival.
        return [Row(*row) for row in rows]

    def settle(self, channel: int, acked: Sequence[int], returned: Sequence[int]) -> frozenset[int]:
        """Forget messages, and put others back; return the queues that got some back.

        Only what is still on loan to `channel` is touched.
        """
        self._db.executemany(
            "DELETE FROM messages WHERE id = ? AND channel = ?",
            ((number, channel) for number in acked),
        )
        give_back = (
            "UPDATE messages SET channel = NULL WHERE id = ? AND channel = ? RETURNING queue"
        )
        queues: set[int] = set()
        for number in returned:
            queues.update(
                row[0] for row in self._db.execute(give_back, (number, channel)).fetchall()
            )
        return frozenset(queues)

    # Who borrows...

    def open_channel(self, process: str) -> int:
        """Note a channel of a process; return its number."""
        opened = self._db.execute("INSERT INTO channels (process) VALUES (?)", (process,))
        return int(opened.lastrowid or 0)

    def consume(self, channel: int, name: str) -> int:
        """Note that a channel consumes a queue; return the queue's number."""
        queue = self.queue_id(name)
        add = "INSERT OR IGNORE INTO consumers (queue, channel) VALUES (?, ?)"
        self._db.execute(add, (queue, channel))
        return queue

    def stop_consuming(self, channel: int) -> frozenset[int]:
        """Note that a channel consumes nothing any more; return the queues it consumed."""
        stop = "DELETE FROM consumers WHERE channel = ? RETURNING queue"
        return frozenset(row[0] for row in self._db.execute(stop, (channel,)).fetchall())

    def close_channel(self, channel: int) -> frozenset[int]:
        """Take back all that is on loan to a channel; return the queues that others may serve."""
        consumed = self.stop_consuming(channel)
        self._db.execute("DELETE FROM channels WHERE id = ?", (channel,))
        back = "UPDATE messages SET channel = NULL WHERE channel = ? RETURNING queue"
        returned = self._db.execute(back, (channel,)).fetchall()
        return consumed.union(row[0] for row in returned)

    def close_process(self, process: str) -> frozenset[int]:
        """Take back all that is on loan to a process that is no more."""
        find = "SELECT id FROM channels WHERE process = ?"
        queues: set[int] = set()
        for (channel,) in self._db.execute(find, (process,)).fetchall():
            queues |= self.close_channel(channel)
        return frozenset(queues)

    def processes(self) -> frozenset[str]:
        """Return the processes that have channels."""
        return frozenset(row[0] for row in self._db.execute("SELECT process FROM channels"))

    def consuming_processes(self, queues: Iterable[int]) -> frozenset[str]:
        """Return the processes that consume one of these queues."""
        find = (
            "SELECT DISTINCT process FROM channels JOIN consumers ON channel = channels.id "
            "WHERE queue = ?"
        )
        return frozenset(row[0] for queue in queues for row in self._db.execute(find, (queue,)))

    # What tests ask...

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
            "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND channel IS NULL) "
            "OR EXISTS (SELECT 1 FROM delayed WHERE queue = ?1)"
        )
        return not self._db.execute(on_loan).fetchone()[0] and not any(
            self._db.execute(waits, (queue,)).fetchone()[0] for queue in consumed
        )

    def waiting(self) -> list[Waiting]:
        """Return all that is ready, in order of arrival, then all that is delayed."""
        rows = self._db.execute(
            "SELECT name, body, message_id, headers, due FROM "
            "(SELECT 0 AS kind, id, queue, body, message_id, headers, NULL AS due FROM messages "
            "WHERE channel IS NULL UNION ALL "
            "SELECT 1, id, queue, body, message_id, headers, due FROM delayed) AS found "
            "JOIN queues ON queues.id = found.queue ORDER BY kind, found.id"
        ).fetchall()
        return [
            Waiting(name, Message(body, message_id, _load_headers(headers)), due)
            for name, body, message_id, headers, due in rows
        ]


def _load_headers(headers: str | None) -> dict[str, HeaderValue] | None:
    found: dict[str, HeaderValue] | None = json.loads(headers) if headers else None
    return found


def _dump_headers(message: Message) -> str | None:
    return json.dumps(dict(message.headers)) if message.headers else None
