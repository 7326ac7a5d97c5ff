"""`BrokerState`: a partition's state, kept as messages in a queue of the broker.

Who reads them consumes the queue, which has a single active consumer, for a moment, and then gives
all back by closing the channel. So nobody reads while messages are on loan to another reader, not
even to one that has just died, and readers come one after the other.
"""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Final, TypeVar

import attrs
import trio

from .._brokers.base import (
    Broker,
    BrokerError,
    Channel,
    ConnectionLost,
    Delivery,
    QueueMissing,
    QueueSpec,
)
from .._errors import PersisterError
from .._topology import PartitionNames
from .entries import Entry, Found, Version, assemble, is_obsolete, read_entry

logger = logging.getLogger(__name__)
T = TypeVar("T")

CHUNK: Final = 1024 * 1024
"""The largest body of a message."""
_PREFETCH: Final = 65535
_PAUSE: Final = 0.1


@attrs.define
class _Held:
    """What was written in the term that this process has begun."""

    version: Version
    appended: int = 0


class BrokerState:
    """A journal persister over a broker.

    Args:
        broker: Where the state is kept.
        prefix: The cluster's prefix.
    """

    stays_on_host: Final = False
    most_appends: Final = 2000
    """Each is a message that `load` has to fetch."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._held: dict[str, _Held] = {}

    def queues(self, partition: str) -> Sequence[QueueSpec]:
        """Say which queue a partition's state is kept in."""
        return (self._spec(partition),)

    async def load(self, partition: str) -> bytes | None:
        """Return what is kept, and begin a new term; what older ones still write is void."""
        spec = self._spec(partition)
        token = secrets.token_hex(8)

        async def claim(look: _Look) -> tuple[Found, int]:
            found = assemble(look.entries)
            term = found.highest_term + 1
            # Once it has come back to us, nobody else has read before it, or will without it.
            await look.publish(Entry("claim", Version(term, token)))
            return found, term

        found, term = await self._looking(spec, claim)
        if found.lost:
            logger.error(
                "partition %r: %d changes of its state are lost, as queue %r lacks what they "
                "belong to: was it purged or deleted?",
                partition,
                found.lost,
                spec.name,
            )
        self._held[partition] = _Held(Version(term, token))
        return found.data

    async def save(self, partition: str, data: bytes) -> None:
        """Publish the whole state, then remove what it replaces."""
        held = self._of(partition)
        held.version = version = attrs.evolve(held.version, number=held.version.number + 1)
        held.appended = 0
        spec = self._spec(partition)
        pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)] or [b""]
        await self._publish(
            spec.name,
            [Entry("save", version, part, len(pieces), piece) for part, piece in enumerate(pieces)],
        )

        async def clean(look: _Look) -> bool:
            if any(entry.version.term > version.term for entry in look.entries):
                return False
            await look.drop(version)
            return True

        if not await self._looking(spec, clean):
            raise PersisterError(
                f"queue {spec.name}: the state was taken over by another process; this one has to "
                "load it again before it can save"
            )

    async def append(self, partition: str, data: bytes) -> None:
        """Publish what is added."""
        held = self._of(partition)
        queue = PartitionNames.of(self._prefix, partition).state
        if not held.version.number:
            raise PersisterError(f"queue {queue}: save the state before adding to it")
        # Counted even if this fails: a copy that gets through late must not look like another.
        held.appended += 1
        await self._publish(queue, [Entry("append", held.version, held.appended, 0, data)])

    def _spec(self, partition: str) -> QueueSpec:
        return PartitionNames.of(self._prefix, partition).state_spec()

    def _of(self, partition: str) -> _Held:
        if partition not in self._held:
            raise PersisterError(f"partition {partition!r}: load its state before saving it")
        return self._held[partition]

    async def _publish(self, queue: str, entries: Sequence[Entry]) -> None:
        try:
            await self._broker.publish_many(queue, [each.message() for each in entries])
        except BrokerError as error:
            raise PersisterError(f"queue {queue}: cannot keep the state: {error}") from error

    async def _looking(self, spec: QueueSpec, work: Callable[[_Look], Awaitable[T]]) -> T:
        """Work on all that is in the queue, however often it takes."""
        queue = spec.name
        while True:
            try:
                await self._broker.declare([spec], afresh=True)
                async with self._look(queue) as look:
                    return await work(look)
            except ConnectionLost:
                await trio.sleep(_PAUSE)
                await self._broker.wait_connected()
            except BrokerError as error:
                raise PersisterError(f"queue {queue}: cannot read the state: {error}") from error

    @asynccontextmanager
    async def _look(self, queue: str) -> AsyncGenerator[_Look]:
        async with self._broker.open_channel() as channel:
            look = _Look(self._broker, channel, queue)
            await channel.subscribe(queue, prefetch=_PREFETCH, on_delivery=look.take)
            await look.begin()
            yield look
            await look.end()


class _Look:
    """All messages of the queue, on loan."""

    def __init__(self, broker: Broker, channel: Channel, queue: str) -> None:
        self._broker = broker
        self._channel = channel
        self._queue = queue
        self._mark = Entry("mark", Version(0, secrets.token_hex(8)))
        self._taken: dict[Version, list[tuple[Entry, Delivery]]] = defaultdict(list)
        self._changed = trio.Event()

    @property
    def entries(self) -> list[Entry]:
        return [entry for entry, _ in chain.from_iterable(self._taken.values())]

    def take(self, delivery: Delivery) -> None:
        """Take a delivery."""
        entry = read_entry(delivery)
        if entry is None:
            delivery.ack()
            logger.error("queue %r: a message that is not part of the state; dropped", self._queue)
            return
        self._taken[entry.version].append((entry, delivery))
        self._changed.set()

    async def begin(self) -> None:
        """Wait until all that was in the queue has been taken."""
        await self.publish(self._mark)

    async def publish(self, entry: Entry) -> None:
        """Publish an entry of a new version; wait until it, and so all before it, is taken."""
        await self._broker.publish(self._queue, entry.message())
        await self._wait_taken(entry.version)

    async def drop(self, kept: Version) -> None:
        """Acknowledge all that means nothing any more, and wait until the broker knows."""
        for version, taken in list(self._taken.items()):
            if version != self._mark.version and is_obsolete(taken[0][0], kept):
                self._acknowledge(version)
        # A quorum queue is told of 32 settlements at most at a time, and never of what is left
        # when the channel closes. What is given back comes again once it has been told of all.
        for _, delivery in self._taken.pop(self._mark.version):
            delivery.give_back()
        await self._wait_taken(self._mark.version)

    async def end(self) -> None:
        """Leave nothing of the look behind."""
        self._acknowledge(self._mark.version)
        await self._channel.flush()

    def _acknowledge(self, version: Version) -> None:
        for _, delivery in self._taken.pop(version):
            delivery.ack()

    async def _wait_taken(self, version: Version) -> None:
        lost = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._channel.wait_interrupted)
                while version not in self._taken:
                    self._changed = trio.Event()
                    await self._changed.wait()
                nursery.cancel_scope.cancel()
        except* (ConnectionLost, QueueMissing) as group:
            # A queue that was deleted is made anew by the next publish.
            lost = ConnectionLost(str(group.exceptions[0]))
        if lost is not None:
            raise lost
