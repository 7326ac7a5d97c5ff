"""What the embedded broker does in its database: SQL, one function for each thing.

Every method runs inside a transaction that its caller opened, checks before it writes, and
neither blocks nor knows of tasks, threads or clocks. What others should know of a transaction
gathers in its `News`, to be told once it is committed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..base import (
    ConnectionLost,
    Message,
    PublishRefused,
    QueueCount,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from .headers import pack, unpack
from .post import Post
from .values import News, Row, Stuck

_PROMOTED_AT_ONCE: Final = 1000
"""Delayed messages moved in one transaction; the rest follow in the next."""

TAKEN_FOR_DEAD: Final = "this process was taken for dead; what it had went to others"
"""Why a channel is gone that its process did not close."""


class _Known(NamedTuple):
    """A queue that is there: nothing of this ever changes."""

    id: int
    forwards: bool


class Engine:
    """The queues of one database.

    Args:
        connection: The database, in autocommit mode; only the caller's thread uses it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._known: dict[str, _Known] = {}
        self._stirred: set[int] = set()
        self.post: Post = Post(connection)

    # Transactions...

    def begin(self) -> None:
        """Begin a transaction.

        Raises:
            sqlite3.OperationalError: Another process has been writing for too long.
        """
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> News:
        """Make it last; return what there is to tell."""
        consumers = (each for queue in self._stirred for each in self._consuming_processes(queue))
        news = News(frozenset(self._stirred), frozenset((*consumers, *self.post.called)))
        self._db.execute("COMMIT")
        self._stirred.clear()
        self.post.called.clear()
        return news

    def roll_back(self) -> None:
        """Undo it, and forget what was read in it."""
        self._known.clear()
        self._stirred.clear()
        self.post.called.clear()
        if self._db.in_transaction:  # SQLite undoes it by itself after some errors.
            self._db.execute("ROLLBACK")

    # Queues...

    def declare(self, queues: Sequence[QueueSpec]) -> frozenset[str]:
        """Make queues that are not there, and return those; refuse those that differ.

        Raises:
            QueueRefused: One exists with other properties, and none is made.
        """
        self._check_properties(queues)
        made: set[str] = set()
        for queue in queues:
            inserted = self._db.execute(
                "INSERT OR IGNORE INTO queues (name, single_active, spec) VALUES (?, ?, ?)",
                (queue.name, int(queue.single_active), _properties(queue)),
            )
            if inserted.rowcount:
                made.add(queue.name)
            if queue.takes_delayed:
                allow = "UPDATE queues SET takes_delayed = 1 WHERE name = ? AND NOT takes_delayed"
                self._db.execute(allow, (queue.name,))
        return frozenset(made)

    def _check_properties(self, queues: Sequence[QueueSpec]) -> None:
        new: dict[str, str] = {}
        for queue in queues:
            wanted = _properties(queue)
            select = "SELECT spec FROM queues WHERE name = ?"
            row = self._db.execute(select, (queue.name,)).fetchone()
            found = row[0] if row else new.setdefault(queue.name, wanted)
            if found != wanted:
                raise QueueRefused(
                    f"queue {queue.name!r} is not what roger_trio needs: it was declared with "
                    f"{found}, and roger_trio declares it with {wanted}"
                )

    def queue_id(self, name: str) -> int:
        """Return a queue's number.

        Raises:
            QueueMissing: There is no such queue.
        """
        known = self._find(name)
        if known is None:
            raise QueueMissing(f"there is no queue {name!r}")
        return known.id

    def _find(self, name: str) -> _Known | None:
        known = self._known.get(name)
        if known is None:
            find = "SELECT id, spec FROM queues WHERE name = ?"
            found = self._db.execute(find, (name,)).fetchone()
            if found is not None:
                number, spec = found
                known = self._known[name] = _Known(number, "forwards" in json.loads(spec))
        return known

    def count(self, name: str) -> QueueCount:
        """Count the messages that are ready, and the consumers that get any."""
        queue = self.queue_id(name)
        ready = "SELECT count(*) FROM messages WHERE queue = ? AND channel IS NULL"
        (messages,) = self._db.execute(ready, (queue,)).fetchone()
        consuming = (
            "SELECT count(*), (SELECT single_active FROM queues WHERE id = ?) "
            "FROM consumers WHERE queue = ?"
        )
        consumers, single_active = self._db.execute(consuming, (queue, queue)).fetchone()
        active = min(1, consumers) if single_active else consumers
        return QueueCount(messages=messages, consumers=active)

    def purge(self, name: str, limit: int) -> int:
        """Delete up to `limit` of what is ready; return how many that was."""
        queue = self.queue_id(name)
        delete = (
            "DELETE FROM messages WHERE id IN "
            "(SELECT id FROM messages WHERE queue = ? AND channel IS NULL ORDER BY id LIMIT ?)"
        )
        return self._db.execute(delete, (queue, limit)).rowcount

    # Messages...

    def publish(self, name: str, messages: Sequence[Message], due: float | None) -> None:
        """Keep messages: ready at once, or at `due`.

        Raises:
            PublishRefused: The queue was not declared to take delayed messages; or it forwards
                and a message does not say where to, or the other way round.
        """
        queue = self.queue_id(name)
        if due is not None:
            self._check_takes_delayed(queue, name)
        self._check_onward(name, messages)
        rows = (
            (queue, each.message_id, pack(each.headers, each.onward), each.body, due)
            for each in messages
        )
        if due is None:
            self._db.executemany(
                "INSERT INTO messages (queue, message_id, headers, body) VALUES (?, ?, ?, ?)",
                (row[:4] for row in rows),
            )
        else:
            self._db.executemany(
                "INSERT INTO delayed (queue, message_id, headers, body, due) "
                "VALUES (?, ?, ?, ?, ?)",
                rows,
            )
        self._stirred.add(queue)

    def _check_takes_delayed(self, queue: int, name: str) -> None:
        find = "SELECT takes_delayed FROM queues WHERE id = ?"
        (takes_delayed,) = self._db.execute(find, (queue,)).fetchone()
        if not takes_delayed:
            raise PublishRefused(f"queue {name!r} is not one that takes delayed messages")

    def _check_onward(self, name: str, messages: Sequence[Message]) -> None:
        forwards = self._known[name].forwards
        for each in messages:
            if bool(each.onward) is not forwards:
                rule = "forwards, and the message does not say where to"
                if not forwards:
                    rule = f"forwards nothing, and the message is to be sent on to {each.onward!r}"
                raise PublishRefused(f"queue {name!r} {rule}")

    def promote(self, now: float) -> float | None:
        """Put delayed messages whose time has come at the tail of their queues, in order.

        Returns:
            When the next one is due: in the past if there are more than one transaction moves.
        """
        due = self._db.execute(
            "SELECT id, queue FROM delayed WHERE due <= ? ORDER BY due, id LIMIT ?",
            (now, _PROMOTED_AT_ONCE),
        ).fetchall()
        for number, queue in due:
            self._db.execute(
                "INSERT INTO messages (queue, message_id, headers, body) "
                "SELECT queue, message_id, headers, body FROM delayed WHERE id = ?",
                (number,),
            )
            self._db.execute("DELETE FROM delayed WHERE id = ?", (number,))
            self._stirred.add(queue)
        (next_due,) = self._db.execute("SELECT min(due) FROM delayed").fetchone()
        return None if next_due is None else float(next_due)

    def claim(self, channel: int, queue: int, limit: int) -> list[Row]:
        """Deliver messages from the head of a queue to a channel that consumes it.

        Of a queue with a single active consumer only the one that came first gets any; and a
        channel that was taken back gets none.

        Args:
            channel: The borrower.
            queue: The queue's number.
            limit: The most to lend.
        """
        active = (
            "SELECT single_active AND ? IS NOT "
            "(SELECT channel FROM consumers WHERE queue = queues.id ORDER BY id LIMIT 1) "
            "FROM queues WHERE id = ?"
        )
        (waits_its_turn,) = self._db.execute(active, (channel, queue)).fetchone()
        if waits_its_turn:
            return []
        return self._lend(channel, queue, limit, deliveries=1)

    def take(self, channel: int, queue: int, limit: int) -> list[Row]:
        """Lend messages from the head of a queue for a look, which is no delivery.

        Raises:
            ConnectionLost: The channel was taken back.
        """
        self._check_open(channel)
        return self._lend(channel, queue, limit, deliveries=0)

    def _lend(self, channel: int, queue: int, limit: int, *, deliveries: int) -> list[Row]:
        # What a channel borrows that is not there, nobody takes back when its process dies.
        rows = self._db.execute(
            "UPDATE messages SET channel = ?, deliveries = deliveries + ? "
            "WHERE id IN (SELECT id FROM messages WHERE queue = ? AND channel IS NULL "
            "AND EXISTS (SELECT 1 FROM channels WHERE id = ?) "
            "ORDER BY id LIMIT ?) RETURNING id, body, message_id, headers, deliveries",
            (channel, deliveries, queue, channel, limit),
        ).fetchall()
        rows.sort()  # RETURNING promises no order; ids are in order of arrival.
        return [Row(*row) for row in rows]

    def settle(self, channel: int, acked: Sequence[int], returned: Sequence[int]) -> None:
        """Forget messages, and put others back where they were.

        Only what is still on loan to `channel` is touched.
        """
        self._db.executemany(
            "DELETE FROM messages WHERE id = ? AND channel = ?",
            ((number, channel) for number in acked),
        )
        give_back = (
            "UPDATE messages SET channel = NULL WHERE id = ? AND channel = ? RETURNING queue"
        )
        for number in returned:
            found = self._db.execute(give_back, (number, channel)).fetchall()
            self._stirred.update(queue for (queue,) in found)

    def forward(self, channel: int, numbers: Sequence[int]) -> list[Stuck]:
        """Send messages on, each to the tail of the queue that its publisher named.

        Only what is still on loan to `channel` is touched.

        Returns:
            Those whose queue is not there; they stay on loan.
        """
        stuck: list[Stuck] = []
        for number in numbers:
            find = "SELECT headers FROM messages WHERE id = ? AND channel = ?"
            found = self._db.execute(find, (number, channel)).fetchone()
            if found is None:
                continue
            onward, headers = unpack(found[0])
            target = self._find(onward)
            if target is None:
                stuck.append(Stuck(number, onward))
                continue
            self._db.execute(
                "INSERT INTO messages (queue, message_id, headers, body) "
                "SELECT ?, message_id, ?, body FROM messages WHERE id = ?",
                (target.id, pack(headers, ""), number),
            )
            self._db.execute("DELETE FROM messages WHERE id = ?", (number,))
            self._stirred.add(target.id)
        return stuck

    # Who borrows...

    def open_channel(self, channel: int, process: str) -> None:
        """Note a channel of a process.

        Args:
            channel: Its number, which the process has drawn at random.
            process: Whose it is: when that one dies, what is on loan to the channel goes back.
        """
        self._db.execute("INSERT INTO channels (id, process) VALUES (?, ?)", (channel, process))

    def consume(self, channel: int, name: str) -> int:
        """Note that a channel consumes a queue; return the queue's number.

        Raises:
            QueueMissing: There is no such queue.
            ConnectionLost: The channel was taken back.
        """
        queue = self.queue_id(name)
        self._check_open(channel)
        add = "INSERT OR IGNORE INTO consumers (queue, channel) VALUES (?, ?)"
        self._db.execute(add, (queue, channel))
        return queue

    def stop_consuming(self, channel: int) -> None:
        """Note that a channel consumes nothing any more."""
        stop = "DELETE FROM consumers WHERE channel = ? RETURNING queue"
        found = self._db.execute(stop, (channel,)).fetchall()
        self._stirred.update(queue for (queue,) in found)

    def is_open(self, channel: int) -> bool:
        """Tell whether a channel is still there, and its process was not taken for dead."""
        find = "SELECT EXISTS (SELECT 1 FROM channels WHERE id = ?)"
        return bool(self._db.execute(find, (channel,)).fetchone()[0])

    def _check_open(self, channel: int) -> None:
        if not self.is_open(channel):
            raise ConnectionLost(TAKEN_FOR_DEAD)

    def close_channel(self, channel: int) -> None:
        """Take back all that is on loan to a channel, and forget it."""
        self.stop_consuming(channel)
        self._db.execute("DELETE FROM channels WHERE id = ?", (channel,))
        back = "UPDATE messages SET channel = NULL WHERE channel = ? RETURNING queue"
        found = self._db.execute(back, (channel,)).fetchall()
        self._stirred.update(queue for (queue,) in found)

    def close_process(self, process: str) -> int:
        """Take back all that is on loan to a process, and forget it; return its open channels."""
        find = "SELECT id FROM channels WHERE process = ?"
        channels = self._db.execute(find, (process,)).fetchall()
        for (channel,) in channels:
            self.close_channel(channel)
        self.post.forget(process)
        return len(channels)

    def close_strays(self) -> int:
        """Take back what is on loan to channels that are not there; return how many those are.

        Nobody else would: the processes they belonged to are not known any more.
        """
        find = (
            "SELECT channel FROM messages WHERE channel IS NOT NULL "
            "AND channel NOT IN (SELECT id FROM channels) "
            "UNION SELECT channel FROM consumers WHERE channel NOT IN (SELECT id FROM channels)"
        )
        channels = self._db.execute(find).fetchall()
        for (channel,) in channels:
            self.close_channel(channel)
        return len(channels)

    def processes(self) -> frozenset[str]:
        """Return the processes that have channels or listen."""
        find = "SELECT process FROM channels UNION SELECT process FROM listeners"
        return frozenset(row[0] for row in self._db.execute(find))

    def _consuming_processes(self, queue: int) -> list[str]:
        find = (
            "SELECT DISTINCT process FROM channels JOIN consumers ON channel = channels.id "
            "WHERE queue = ?"
        )
        return [row[0] for row in self._db.execute(find, (queue,))]


def _properties(queue: QueueSpec) -> str:
    """Tell what must be the same whenever a queue is declared; what it has not is left out."""
    properties = {
        "dead_letter": queue.dead_letter,
        "single_active": queue.single_active,
        "forwards": queue.forwards,
    }
    return json.dumps({name: value for name, value in properties.items() if value})
