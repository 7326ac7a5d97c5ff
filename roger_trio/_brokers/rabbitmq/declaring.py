"""Making sure of the queues and exchanges that messages pass, and remembering that they are there.

What was declared is asked for again after a reconnect, as the broker may have been replaced by an
empty one; and a new quorum queue is not relied on until it is safe from a crash of the broker.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio
from pamqp import commands as spec

from ..base import QueueMissing, QueueRefused, QueueSpec
from . import topology
from .connection import Connection
from .link import Link

logger = logging.getLogger(__name__)

_MOURNING: Final = 0.5
"""Seconds between a queue's death being noticed and its being made anew: the broker has to tell its
consumers first. RabbitMQ 3.10 would give the new queue's first messages to consumers of the old
one, who never see them."""


class Declarations:
    """What has been declared, and on which connections.

    Args:
        prefix: Put in front of the names of what belongs to the whole cluster.
        settle_time: Seconds in which a broker that is killed forgets a new quorum queue.
        link: The link to declare on.
        links: All links; a new connection on any of them puts everything in doubt.
        on_made: Told the name of each queue that was not there.
    """

    def __init__(
        self,
        prefix: str,
        settle_time: float,
        link: Link,
        links: Sequence[Link],
        on_made: Callable[[str], None],
    ) -> None:
        self._prefix = prefix
        self._settle_time = settle_time
        self._link = link
        self._links = links
        self._on_made = on_made
        self._specs: dict[str, QueueSpec] = {}
        self._declared: dict[str, float] = {}
        """Name → the time from which it is crash-safe."""
        self._declared_at: tuple[int, ...] = ()
        self._made: set[str] = set()
        """Queues that we made, and nobody who declared them has been told."""
        self._lock = trio.Lock()
        self._levels_doubted = False
        """Whether a level of delays was seen to be missing although the marker is there."""

    def known(self, queue: str) -> QueueSpec | None:
        """Return how a queue was declared here, if it ever was."""
        return self._specs.get(queue)

    # Queues...

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        """Make sure that `queues` exist and are crash-safe; return those that were made.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
        """
        self._forget_after_reconnect()
        if not afresh and not self._made and self._are_safe(queues):
            return frozenset()  # The way of each enqueue.
        if afresh:
            for each in queues:
                self._declared.pop(each.name, None)
        # Who has no time for a new queue to settle has none to mourn an old one.
        if not await self._declare_all(queues, may_make=not self._settle_time):
            await trio.sleep(_MOURNING)
            await self._declare_all(queues, may_make=True)
        names = frozenset(each.name for each in queues)
        await self._wait_crash_safe(names)
        made = names & self._made
        self._made -= made
        return made

    async def declare_again(self, queue: str, missing: QueueMissing) -> None:
        """Make good a queue that was deleted behind our back, and what goes with it.

        Raises:
            QueueMissing: It was never declared here.
            QueueRefused: It exists with other arguments by now.
        """
        known = self._specs.get(queue)
        if known is None:
            raise missing
        logger.warning("queue %r: %s; declaring it again", queue, missing)
        if not self._settle_time:
            await trio.sleep(_MOURNING)
        target = self._specs.get(known.dead_letter or "")
        specs = (known,) if target is None else (target, known)
        ways = (topology.marker_exchange(self._prefix), topology.last_exchange(self._prefix))
        names = [each.name for each in specs]
        for name in (*names, *ways):
            self._declared.pop(name, None)
        self._levels_doubted = True
        self._made |= await self.declare(specs)

    async def _declare_all(self, queues: Sequence[QueueSpec], *, may_make: bool) -> bool:
        """Declare the queues that are in doubt.

        Returns:
            False at the first one that is missing, unless it may be made: somebody may have
            deleted it just now.
        """
        if all(each.name in self._declared for each in queues):
            return True
        async with self._lock:
            for each in queues:
                if each.name in self._declared:
                    continue
                is_new = await self._declare(each, may_make=may_make)
                if is_new is None:
                    return False
                self._specs[each.name] = each
                self._note_declared(each.name, is_new=is_new)
        return True

    def _forget_after_reconnect(self) -> None:
        """A connection may have been lost because the broker was replaced by an empty one."""
        generations = tuple([link.generation for link in self._links])
        if generations != self._declared_at:
            self._declared_at = generations
            self._declared.clear()

    def _note_declared(self, name: str, *, is_new: bool) -> None:
        settling = self._settle_time if is_new else 0.0
        self._declared[name] = trio.current_time() + settling

    def _are_safe(self, queues: Sequence[QueueSpec]) -> bool:
        """Whether all are declared, and survive a broker that is killed."""
        now = trio.current_time()
        return all(self._declared.get(each.name, math.inf) <= now for each in queues)

    async def _wait_crash_safe(self, names: Iterable[str]) -> None:
        """Wait out the first second of a quorum queue, in which a killed broker forgets it."""
        safe_at = max((self._declared.get(name, 0.0) for name in names), default=0.0)
        if safe_at > trio.current_time():
            await trio.sleep_until(safe_at)

    async def _declare(self, queue: QueueSpec, *, may_make: bool) -> bool | None:
        """Declare a queue and what it is bound to; return whether it is new, or None: missing."""
        arguments = topology.queue_arguments(queue)
        connection = await self._link.wait_up()
        is_new = await self._declare_shared(connection, queue.name, arguments, may_make=may_make)
        if is_new is None:
            return None
        if queue.forwards:
            await _declare_exchange(connection, queue.name, "fanout")
            await connection.control(spec.Queue.Bind(queue=queue.name, exchange=queue.name))
        if queue.takes_delayed:
            await self._declare_last(connection)
            pattern = topology.destination_pattern(queue.name)
            last = topology.last_exchange(self._prefix)
            await connection.control(
                spec.Queue.Bind(queue=queue.name, exchange=last, routing_key=pattern)
            )
        return is_new

    async def _declare_shared(
        self, connection: Connection, name: str, arguments: topology.Arguments, *, may_make: bool
    ) -> bool | None:
        """Declare a queue that others declare too; return whether it was not there.

        The broker's answer does not say who made it: of two at the same time, both think so.
        None: it is not there, and was not to be made.
        """
        with _explaining(name, arguments):
            is_new = not await _queue_exists(connection, name)
            if is_new and not may_make:
                return None
            if is_new:
                self._made.add(name)  # Before: the answer may be lost.
            await _declare_queue(connection, name, arguments)
        if is_new:
            self._on_made(name)
        return is_new

    # Delays...

    async def declare_delays(self) -> None:
        """Make sure that the levels of delays exist.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
            ConnectionLost: The connection was lost on the way.
        """
        marker = topology.marker_exchange(self._prefix)
        self._forget_after_reconnect()
        if marker not in self._declared:
            async with self._lock:
                if marker not in self._declared:
                    await self._declare_levels_once(marker)
        await self._wait_crash_safe([marker])

    async def _declare_levels_once(self, marker: str) -> None:
        connection = await self._link.wait_up()
        is_new = not await _exists(connection, spec.Exchange.Declare(exchange=marker, passive=True))
        if is_new or self._levels_doubted:
            await self._declare_levels(connection)
            await _declare_exchange(connection, marker, "direct")
        self._levels_doubted = False
        self._note_declared(marker, is_new=is_new)

    async def _declare_levels(self, connection: Connection) -> None:
        await self._declare_last(connection)
        for level in range(topology.LEVELS):
            name = topology.level_name(self._prefix, level)
            await _declare_exchange(connection, name, "topic")
            await _declare_own(connection, name, topology.level_arguments(self._prefix, level))
            through = topology.level_pattern(level, through=True)
            past = topology.level_pattern(level, through=False)
            below = topology.exchange_below(self._prefix, level)
            await connection.control(
                spec.Queue.Bind(queue=name, exchange=name, routing_key=through)
            )
            await connection.control(
                spec.Exchange.Bind(destination=below, source=name, routing_key=past)
            )

    async def _declare_last(self, connection: Connection) -> None:
        """Declare where delayed messages end, and the queue for those that have no other."""
        last, other = topology.last_exchange(self._prefix), topology.unroutable(self._prefix)
        if last in self._declared:
            return
        arguments = topology.queue_arguments(QueueSpec(name=other))
        is_new = await _declare_own(connection, other, arguments)
        await _declare_exchange(connection, other, "fanout")
        await connection.control(spec.Queue.Bind(queue=other, exchange=other))
        await _declare_exchange(connection, last, "topic", topology.last_arguments(self._prefix))
        self._note_declared(last, is_new=is_new)


async def _declare_own(connection: Connection, name: str, arguments: topology.Arguments) -> bool:
    """Declare a queue of our own; return whether it was not there."""
    with _explaining(name, arguments):
        is_new = not await _queue_exists(connection, name)
        await _declare_queue(connection, name, arguments)
    return is_new


@contextmanager
def _explaining(name: str, arguments: topology.Arguments) -> Generator[None]:
    """Say to the broker's refusal of a queue what we wanted, and what can be done."""
    try:
        yield
    except QueueRefused as exc:
        raise QueueRefused(
            f"queue {name!r} is not what roger_trio needs: {exc}; "
            f"roger_trio declares it durable with {arguments}; "
            "delete or rename the queue that is there, or choose another prefix"
        ) from exc


async def _declare_queue(connection: Connection, name: str, arguments: topology.Arguments) -> None:
    await connection.control(
        spec.Queue.Declare(queue=name, durable=True, arguments=dict(arguments))
    )


async def _declare_exchange(
    connection: Connection, name: str, kind: str, arguments: topology.Arguments | None = None
) -> None:
    await connection.control(
        spec.Exchange.Declare(
            exchange=name, exchange_type=kind, durable=True, arguments=dict(arguments or {})
        )
    )


async def _queue_exists(connection: Connection, name: str) -> bool:
    return await _exists(connection, spec.Queue.Declare(queue=name, passive=True))


async def _exists(connection: Connection, passive: Any) -> bool:
    try:
        await connection.control(passive)
    except QueueMissing:
        return False
    return True
