"""RabbitMQ as a `Broker`: a link to consume and one to publish, and one for channels that do both.

They are apart because the broker stops reading from a connection that publishes while it is short
of memory or disk; acknowledgements must still get through. The third is opened when it is needed:
what is said on a channel that consumes is a publish too.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NoReturn

import attrs
import trio
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
    QueueSpec,
)
from . import topology
from .declaring import Declarations
from .getting import Browse
from .link import Link, Reach
from .loop import open_loop
from .publishing import Batch, Confirmation, write_all
from .topics import Topics
from .versions import timeout_warning
from .watch import ConsumerWatch

logger = logging.getLogger(__name__)

QUEUE_HEADER: Final = "roger-queue"
"""Header of a delayed message that names the queue it is for."""
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
        reach = Reach()
        self._publishing = Link(config, f"{name} publishing", reach)
        self._consuming = Link(config, f"{name} consuming", reach) if consumes else self._publishing
        self._links = tuple(dict.fromkeys((self._publishing, self._consuming)))
        self._speaking = Link(config, f"{name} speaking", reach)
        self._speaks = False
        """Whether that link is open, or being opened."""
        self._start: Callable[[Link], None] | None = None
        """Opens a link; set while the broker runs."""
        self._topics = Topics(prefix, self._publishing, self._consuming)
        self._watch = ConsumerWatch(self.count, self._may_idle, self._may_be_deaf)
        self._given_back: dict[str, int] = {}
        """How many messages the last look at a queue gave back."""
        self._declarations = Declarations(
            prefix,
            config.queue_settle_time,
            self._consuming,
            self._links,
            self._watch.queue_was_missing,
        )

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
        async with (
            open_loop() as loop,
            trio.open_nursery() as transports,
            trio.open_nursery() as links,
        ):
            self._topics.nursery = links
            links.start_soon(self._watch.run)

            def start(link: Link) -> None:
                links.start_soon(link.run, loop, transports, name=str(link))

            self._start = start
            for link in self._links:
                start(link)
            try:
                for link in self._links:
                    await link.wait_tried()
            except BrokerError as exc:
                refusal.append(exc)
                links.cancel_scope.cancel()
            else:
                task_status.started()
                if self._consuming is not self._publishing:
                    await self._warn_of_version()
                    await self._prepare_delays()
                await trio.sleep_forever()
        raise refusal[0]

    async def _warn_of_version(self) -> None:
        """Say once what only the broker's operator can do about long jobs."""
        connection = await self._consuming.wait_up()
        text = timeout_warning(connection.server)
        if text:
            logger.warning("%s", text)

    async def _prepare_delays(self) -> None:
        """Make the levels of delays ahead of need, where jobs will be retried."""
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

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        """Make sure that `queues` exist and are crash-safe; return the names of the new ones.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
        """
        return await self._declarations.declare(queues, afresh=afresh)

    async def declare_delays(self) -> None:
        """Make sure that the levels of delays exist.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
            ConnectionLost: The connection was lost on the way.
        """
        await self._declarations.declare_delays()

    # Publishing...

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish and wait for the broker's word that it is kept; see `Broker`."""
        await self.publish_many(queue, (message,), delay=delay)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish all, pipelined and in order; return when all are confirmed."""
        self._check_onward(queue, messages, delay)
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
            await self._declarations.declare_again(queue, batch.missing)
        exchange, key = await self._route(queue, delay, batch.left)
        connection = await self._publishing.wait_up()
        publisher = await connection.publisher()
        confirmation = Confirmation(len(batch.left))
        await write_all(publisher, exchange, key, batch.left, confirmation)
        await confirmation.wait()
        batch.note(confirmation.failures)

    def _check_onward(self, queue: str, messages: Sequence[Message], delay: float) -> None:
        """Refuse messages that could not be forwarded, or say that they are and are not."""
        known = self._declarations.known(queue)
        onward = [each.onward for each in messages]
        forwards = any(onward) if known is None else known.forwards
        if forwards and not all(onward):
            raise PublishRefused(
                f"queue {queue!r} forwards: each message must say where to (onward), got none"
            )
        if forwards and delay > 0:
            raise PublishRefused(f"queue {queue!r} takes no delayed messages")
        if not forwards and any(onward):
            raise PublishRefused(
                f"queue {queue!r} does not forward, got a message for {max(onward)!r}"
            )

    async def _route(
        self, queue: str, delay: float, messages: Sequence[Message]
    ) -> tuple[str, str]:
        """Decide the exchange and routing key; make sure of all that a delayed message passes."""
        if any(each.onward for each in messages[:1]):
            return queue, ""  # The key is each message's own.
        if not delay > 0:
            return "", queue
        if delay > topology.MAX_DELAY:
            raise PublishRefused(f"expected a delay of at most {topology.MAX_DELAY} s, got {delay}")
        known = self._declarations.known(queue)
        if known is None:
            await self.count(queue)  # The levels would take it, and lose it at their end.
        elif not known.takes_delayed:
            raise PublishRefused(f"queue {queue!r} takes no delayed messages")
        else:
            await self.declare((known,))
        await self.declare_delays()
        return topology.delay_route(self._prefix, queue, delay)

    # Consuming, looking, counting...

    def _may_idle(self, queue: str) -> bool:
        known = self._declarations.known(queue)
        return known is not None and known.single_active

    def _may_be_deaf(self) -> bool:
        server = self._consuming.server
        return server is not None and not server.tells_consumers

    def _can_get(self, queue: str) -> bool:
        known = self._declarations.known(queue)
        return known is not None and not known.single_active

    def _speaking_link(self) -> Link:
        """Return the link for channels that speak, opened when the first one asks for it."""
        if not self._speaks:
            if self._start is None:
                raise ConnectionLost("the broker is closed")
            self._speaks = True
            self._start(self._speaking)
        return self._speaking

    @asynccontextmanager
    async def open_channel(self, *, speaks: bool = False) -> AsyncGenerator[Channel]:
        """Open a channel to consume on; see `Broker`."""
        connection = await self._consuming.wait_up()
        if speaks:
            connection = await self._topics.prepare(self._speaking_link())
        exchange = self._topics.exchange if speaks else None
        async with connection.open_consumer(exchange, can_get=self._can_get) as channel:
            with self._watch.watching(channel.data):
                yield channel

    @asynccontextmanager
    async def browse(self, queue: str, limit: int) -> AsyncGenerator[Sequence[Delivery]]:
        """Take up to `limit` messages from the head; what is unsettled at exit goes back."""
        connection = await self._consuming.wait_up()
        if limit > connection.room_to_get:
            limit = min(limit, (await self.count(queue)).messages)
        browse = Browse(connection, queue, self._given_back.get(queue, 0))
        try:
            await browse.take(limit)
            yield browse.taken[:limit]
        finally:
            with trio.move_on_after(_SETTLE_TIMEOUT, shield=True):
                returned = await browse.settle()
                if browse.taken:  # Else what the look before gave back is still there.
                    self._given_back[queue] = returned
                await self._wait_returned(queue, returned)

    async def _wait_returned(self, queue: str, count: int) -> None:
        """Let what went back be there for the next who looks; consumers may take it first."""
        patience = _RETURN_TIME + _RETURN_TIME_EACH * count
        with trio.move_on_after(patience), contextlib.suppress(BrokerError):
            while (await self.count(queue)).messages < count:  # noqa: ASYNC110 -- it tells nobody
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

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Hand `body` to everybody who listens to `topic` now; return whether anybody does."""
        return await self._topics.broadcast(topic, body)

    def listen(
        self, *topics: str, on_again: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is broadcast to any of `topics` from now on; see `Broker`."""
        return self._topics.listen(*topics, on_again=on_again)

    async def _control(self, frame: Any) -> Any:
        connection = await self._consuming.wait_up()
        return await connection.control(frame)


def _addressed(queue: str, messages: Sequence[Message]) -> Sequence[Message]:
    """Write on delayed messages where they go, which their routing key does not say in words."""
    return [
        attrs.evolve(each, headers={**(each.headers or {}), QUEUE_HEADER: queue})
        for each in messages
    ]
