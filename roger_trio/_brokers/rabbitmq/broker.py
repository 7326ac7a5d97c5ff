"""RabbitMQ as a `Broker`: two links, one to consume and one to publish.

They are two because the broker stops reading from a connection that publishes while it is short
of memory or disk; acknowledgements must still get through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NoReturn

import attrs
import trio
import trio_asyncio
from pamqp import commands as spec

from ..._config import AmqpConfig
from ..base import (
    BrokerError,
    Channel,
    ConnectionLost,
    Delivery,
    Message,
    PublishRefused,
    QueueCount,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from . import topology
from .connection import Connection
from .getting import Browse
from .link import Link
from .publishing import Batch, Confirmation, write_all
from .topics import Topics
from .watch import ConsumerWatch

logger = logging.getLogger(__name__)

QUEUE_HEADER: Final = "roger-queue"
"""Header of a delayed message that names the queue it is for."""
_MOURNING: Final = 0.5
"""Seconds between a queue's death being noticed and its being made anew."""
_SETTLE_TIMEOUT: Final = 30.0
_RETURN_TIME: Final = 0.1
_RETURN_TIME_EACH: Final = 0.002
"""Seconds that messages which are given back have to be back; consumers may take them first."""
_PAUSE: Final = 0.05
"""Seconds before what a lost channel or connection left unconfirmed is sent again."""


class RabbitBroker:
    """A `Broker` (see ``base.py``) that is RabbitMQ, 3.10 up to 4.x.

    Args:
        config: Where it is and as whom we come.
        prefix: Put in front of the names of what belongs to the whole cluster.
        name: Names our connections on the broker's management page.
        consumes: Whether to keep a second connection, to consume on.
    """

    def __init__(self, config: AmqpConfig, *, prefix: str, name: str, consumes: bool) -> None:
        self._config = config
        self._prefix = prefix
        self._publishing = Link(config, f"{name} publishing")
        self._consuming = Link(config, f"{name} consuming") if consumes else self._publishing
        self._links = tuple(dict.fromkeys((self._publishing, self._consuming)))
        self._topics = Topics(prefix, self._publishing, self._consuming)
        self._watch = ConsumerWatch(self.count, self._may_idle)
        self._specs: dict[str, QueueSpec] = {}
        self._declared: dict[str, float] = {}
        """Name → the time from which it is crash-safe."""
        self._declared_at: tuple[int, ...] = ()
        self._declaring = trio.Lock()
        self._levels_doubted = False
        """Whether a level of delays was seen to be missing although the marker is there."""

    # Running...

    @property
    def is_connected(self) -> bool:
        """Whether it can be reached right now."""
        return all(link.is_up for link in self._links)

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, or ''."""
        if not self._publishing.is_up:
            return f"no connection to {self._config.display}"
        blocked = self._publishing.blocked
        return f"the broker takes no messages: {blocked}" if blocked is not None else ""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep the links open until cancelled; started after the first attempts.

        Raises:
            ConnectionRefused: A first attempt was refused for good.
        """
        refusal: list[BrokerError] = []
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(_log_stray_error)
            async with trio.open_nursery() as transports, trio.open_nursery() as links:
                self._topics.nursery = links
                links.start_soon(self._watch.run)
                for link in self._links:
                    links.start_soon(link.run, loop, transports, name=str(link))
                try:
                    for link in self._links:
                        await link.wait_tried()
                except BrokerError as exc:
                    refusal.append(exc)
                    links.cancel_scope.cancel()
                else:
                    task_status.started()
                    await self._prepare_delays()
                    await trio.sleep_forever()
        raise refusal[0]

    async def _prepare_delays(self) -> None:
        """Make the levels of delays ahead of need, where jobs will be retried."""
        if self._consuming is self._publishing:
            return
        try:
            await self.declare_delays()
        except BrokerError as exc:
            logger.warning("the queues for delays could not be made: %s", exc)

    async def wait_connected(self) -> None:
        """Wait until all links are up."""
        while not self.is_connected:
            for link in self._links:
                await link.wait_up()

    # Declaring...

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> None:
        """Make sure that `queues` exist and are crash-safe.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
        """
        self._forget_after_reconnect()
        if afresh:
            for each in queues:
                self._declared.pop(each.name, None)
        if any(each.name not in self._declared for each in queues):
            async with self._declaring:
                for each in queues:
                    if each.name not in self._declared:
                        is_new = await self._declare(each)
                        self._specs[each.name] = each
                        self._note_declared(each.name, is_new=is_new)
        await self._wait_crash_safe([each.name for each in queues])

    def _forget_after_reconnect(self) -> None:
        """A connection may have been lost because the broker was replaced by an empty one."""
        generations = tuple(link.generation for link in self._links)
        if generations != self._declared_at:
            self._declared_at = generations
            self._declared.clear()

    def _note_declared(self, name: str, *, is_new: bool) -> None:
        settling = self._config.queue_settle_time if is_new else 0.0
        self._declared[name] = trio.current_time() + settling

    async def _wait_crash_safe(self, names: Iterable[str]) -> None:
        """Wait out the first second of a quorum queue, in which a killed broker forgets it."""
        safe_at = max((self._declared.get(name, 0.0) for name in names), default=0.0)
        if safe_at > trio.current_time():
            await trio.sleep_until(safe_at)

    async def _declare(self, queue: QueueSpec) -> bool:
        """Declare a queue; return whether it is new."""
        arguments = topology.queue_arguments(queue)
        connection = await self._consuming.wait_up()
        is_new = await _declare_quorum(connection, queue.name, arguments)
        if is_new:
            self._watch.queue_was_missing(queue.name)
        if queue.takes_delayed:
            await self._declare_last(connection)
            pattern = topology.destination_pattern(queue.name)
            last = topology.last_exchange(self._prefix)
            await connection.control(
                spec.Queue.Bind(queue=queue.name, exchange=last, routing_key=pattern)
            )
        return is_new

    async def declare_delays(self) -> None:
        """Make sure that the levels of delays exist.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
            ConnectionLost: The connection was lost on the way.
        """
        marker = topology.marker_exchange(self._prefix)
        self._forget_after_reconnect()
        if marker not in self._declared:
            async with self._declaring:
                if marker not in self._declared:
                    await self._declare_levels_once(marker)
        await self._wait_crash_safe([marker])

    async def _declare_levels_once(self, marker: str) -> None:
        connection = await self._consuming.wait_up()
        is_new = not await _exists(connection, spec.Exchange.Declare(exchange=marker, passive=True))
        if is_new or self._levels_doubted:
            await self._declare_levels(connection)
            await connection.control(spec.Exchange.Declare(exchange=marker, durable=True))
        self._levels_doubted = False
        self._note_declared(marker, is_new=is_new)

    async def _declare_levels(self, connection: Connection) -> None:
        await self._declare_last(connection)
        for level in range(topology.LEVELS):
            name = topology.level_name(self._prefix, level)
            await connection.control(
                spec.Exchange.Declare(exchange=name, exchange_type="topic", durable=True)
            )
            await _declare_quorum(connection, name, topology.level_arguments(self._prefix, level))
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
        is_new = await _declare_quorum(connection, other, arguments)
        await connection.control(
            spec.Exchange.Declare(exchange=other, exchange_type="fanout", durable=True)
        )
        await connection.control(spec.Queue.Bind(queue=other, exchange=other))
        await connection.control(
            spec.Exchange.Declare(
                exchange=last,
                exchange_type="topic",
                durable=True,
                arguments=dict(topology.last_arguments(self._prefix)),
            )
        )
        self._note_declared(last, is_new=is_new)

    # Publishing...

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish and wait for the broker's word that it is kept; see `Broker`."""
        await self.publish_many(queue, (message,), delay=delay)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish all, pipelined and in order; return when all are confirmed."""
        batch = Batch(_addressed(queue, messages) if delay > 0 else messages)
        while batch.left:
            try:
                await self._publish_once(queue, delay, batch)
            except ConnectionLost:
                await trio.sleep(_PAUSE)
        if batch.refusal is not None:
            raise batch.refusal

    async def _publish_once(self, queue: str, delay: float, batch: Batch) -> None:
        """Publish what is left of a batch, and note what has to go out again."""
        if batch.missing is not None:
            await self._declare_again(queue, batch.missing)
        exchange, key = await self._route(queue, delay)
        connection = await self._publishing.wait_up()
        publisher = await connection.publisher()
        confirmation = Confirmation(len(batch.left))
        await write_all(publisher, exchange, key, batch.left, confirmation)
        await confirmation.wait()
        batch.note(confirmation.failures)

    async def _route(self, queue: str, delay: float) -> tuple[str, str]:
        """Decide the exchange and routing key; make sure of all that a delayed message passes."""
        if not delay > 0:
            return "", queue
        if delay > topology.MAX_DELAY:
            raise PublishRefused(f"expected a delay of at most {topology.MAX_DELAY} s, got {delay}")
        known = self._specs.get(queue)
        if known is None:
            await self.count(queue)  # The levels would take it, and lose it at their end.
        elif not known.takes_delayed:
            raise PublishRefused(f"queue {queue!r} takes no delayed messages")
        else:
            await self.declare((known,))
        await self.declare_delays()
        return topology.delay_route(self._prefix, queue, delay)

    async def _declare_again(self, queue: str, missing: QueueMissing) -> None:
        """Make good a queue that was deleted behind our back, and what goes with it."""
        known = self._specs.get(queue)
        if known is None:
            raise missing
        logger.warning("queue %r: %s; declaring it again", queue, missing)
        # Not before the broker has told its consumers: RabbitMQ 3.10 would give the new queue's
        # first messages to consumers of the old one, who never see them.
        await trio.sleep(_MOURNING)
        target = self._specs.get(known.dead_letter or "")
        specs = (known,) if target is None else (target, known)
        ways = (topology.marker_exchange(self._prefix), topology.last_exchange(self._prefix))
        for name in (*(each.name for each in specs), *ways):
            self._declared.pop(name, None)
        self._levels_doubted = True
        await self.declare(specs)

    # Consuming, looking, counting...

    def _may_idle(self, queue: str) -> bool:
        known = self._specs.get(queue)
        return known is not None and known.single_active

    @asynccontextmanager
    async def open_channel(self) -> AsyncGenerator[Channel]:
        """Open a channel to consume on."""
        connection = await self._consuming.wait_up()
        async with connection.open_consumer() as channel:
            with self._watch.watching(channel.data):
                yield channel

    @asynccontextmanager
    async def browse(self, queue: str, limit: int) -> AsyncGenerator[Sequence[Delivery]]:
        """Take up to `limit` messages from the head; what is unsettled at exit goes back."""
        connection = await self._consuming.wait_up()
        browse = Browse(connection.open_getter, queue)
        try:
            await browse.take(limit)
            yield browse.taken[:limit]
        finally:
            with trio.move_on_after(_SETTLE_TIMEOUT, shield=True):
                await self._wait_returned(queue, await browse.settle())

    async def _wait_returned(self, queue: str, count: int) -> None:
        """Let what went back be there for the next who looks; consumers may take it first."""
        patience = _RETURN_TIME + _RETURN_TIME_EACH * count
        with trio.move_on_after(patience), contextlib.suppress(BrokerError):
            while (await self.count(queue)).messages < count:  # noqa: ASYNC110
                await trio.sleep(_RETURN_TIME / 20)

    async def purge(self, queue: str) -> int:
        """Delete all that is ready in the queue; return how many that was."""
        answer = await self._control(spec.Queue.Purge(queue=queue))
        return int(answer.message_count or 0)

    async def count(self, queue: str) -> QueueCount:
        """Count what the queue holds.

        Raises:
            QueueMissing: There is no such queue.
        """
        answer = await self._control(spec.Queue.Declare(queue=queue, passive=True))
        return QueueCount(
            messages=int(answer.message_count or 0), consumers=int(answer.consumer_count or 0)
        )

    async def broadcast(self, topic: str, body: bytes) -> None:
        """Hand `body` to everybody who listens to `topic` now; see `Broker`."""
        await self._topics.broadcast(topic, body)

    def listen(self, topic: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is broadcast to `topic` from now on; see `Broker`."""
        return self._topics.listen(topic)

    async def _control(self, frame: Any) -> Any:
        connection = await self._consuming.wait_up()
        return await connection.control(frame)


def _addressed(queue: str, messages: Sequence[Message]) -> Sequence[Message]:
    """Write on delayed messages where they go, which their routing key does not say in words."""
    return [
        attrs.evolve(each, headers={**(each.headers or {}), QUEUE_HEADER: queue})
        for each in messages
    ]


async def _declare_quorum(connection: Connection, name: str, arguments: topology.Arguments) -> bool:
    """Declare a durable queue; return whether it is new."""
    declare = spec.Queue.Declare(queue=name, durable=True, arguments=dict(arguments))
    try:
        is_new = not await _exists(connection, spec.Queue.Declare(queue=name, passive=True))
        await connection.control(declare)
    except QueueRefused as exc:
        raise QueueRefused(
            f"queue {name!r} is not what roger_trio needs: {exc}; "
            f"roger_trio declares it durable with {arguments}; "
            "delete or rename the queue that is there, or choose another prefix"
        ) from exc
    return is_new


async def _exists(connection: Connection, passive: Any) -> bool:
    try:
        await connection.control(passive)
    except QueueMissing:
        return False
    return True


def _log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Note an error that no aiormq call reported; the links notice what it broke."""
    logger.debug(
        "stray asyncio error: %s", context.get("message"), exc_info=context.get("exception")
    )
