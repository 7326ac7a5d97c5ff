"""What a broker is to the rest of roger_trio: a few verbs over queue names and bytes.

Everything above this seam speaks these protocols only. They are private and may change; the
conformance suite in ``tests/conformance`` says what an implementation must do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

import attrs
import trio

HeaderValue = str | int


class BrokerError(Exception):
    """The broker, or the way to it, failed. Not for users: the layers above translate it."""


class ConnectionLost(BrokerError):
    """The connection or the channel is gone; unsettled deliveries come back by themselves."""


class ConnectionRefused(BrokerError):
    """The broker answered, and will not have us: trying again alone does not help.

    A wrong password, virtual host, certificate or protocol.
    """


class QueueRefused(BrokerError):
    """The broker will not let us have the queue: declared otherwise, no permission, locked."""


class QueueMissing(BrokerError):
    """The queue does not exist, or was deleted under its consumer."""


class SubscriptionRenewed(BrokerError):
    """The subscription is to be made anew, though nothing is known to be wrong with it."""


class TooManyMessages(BrokerError):
    """A look asks for more messages than can be held at a time."""


class PublishRefused(BrokerError):
    """The broker did not take a message it was sent."""


class MessageTooLarge(PublishRefused):
    """The message is larger than the broker allows."""


class AlreadySettled(BrokerError):
    """A delivery was settled twice: a bug in roger_trio, never the user's."""


@attrs.frozen(kw_only=True)
class QueueSpec:
    """A queue as it must be declared; a queue of the same name and another spec is an error."""

    name: str
    dead_letter: str | None = None
    """Queue that gets a message which came back more often than the broker bears."""
    takes_delayed: bool = False
    """Whether delayed publishes may end in this queue."""
    single_active: bool = False
    """Whether one consumer gets all deliveries, until it goes and the next one does."""
    forwards: bool = False
    """Whether `Delivery.forward` may send its messages on, each to its own `Message.onward`."""


@attrs.frozen
class Message:
    """What is published: a body and what the broker keeps beside it."""

    body: bytes
    message_id: str = ""
    headers: Mapping[str, HeaderValue] | None = None
    onward: str = ""
    """In a queue that forwards: the existing queue that `Delivery.forward` sends it to."""


@attrs.frozen(kw_only=True)
class QueueCount:
    """What a queue holds now."""

    messages: int
    """Messages ready for delivery; those on loan are not counted."""
    consumers: int
    """Consumers that get messages; of a single-active queue's only the active one is counted."""


class Delivery(Protocol):
    """One message on loan from the broker. Settle it exactly once.

    Settling does not block: it is written with whatever else leaves in the same tick. It raises
    `ConnectionLost` when the channel that brought the delivery is gone (the broker then gives the
    message to somebody else) and `AlreadySettled` the second time.
    """

    @property
    def queue(self) -> str:
        """The queue it came from."""
        ...

    @property
    def body(self) -> bytes:
        """The message's body."""
        ...

    @property
    def message_id(self) -> str:
        """The publisher's id for it, or ''."""
        ...

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher put beside the body."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether the broker has handed it out before: to a consumer, or on RabbitMQ for a look."""
        ...

    def ack(self) -> None:
        """Settle: the broker forgets the message."""
        ...

    def give_back(self) -> None:
        """Settle: the broker puts the message back where it was."""
        ...

    def forward(self) -> None:
        """Settle: the broker moves the message to the queue its publisher named as `onward`.

        Only for queues declared with `QueueSpec.forwards`. The broker keeps the message until the
        other queue has it; it may arrive twice, and not be lost.

        Raises:
            PublishRefused: Its publisher named none, and it stays on loan.
        """
        ...

    def drop_body(self) -> None:
        """Let go of the body, which is then empty: for a delivery that is held for long."""
        ...


class Channel(Protocol):
    """One queue consumer's lane to the broker; its deliveries are settled on it alone."""

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries of `queue` handed to `on_delivery`, at most `prefetch` unsettled.

        `on_delivery` is called synchronously and must neither block nor raise; if it raises, that
        is logged and ends the channel.

        Raises:
            QueueMissing: There is no such queue.
            ConnectionLost: The channel is gone.
        """
        ...

    async def unsubscribe(self) -> Sequence[Delivery]:
        """End all subscriptions. What was delivered stays on loan and can be settled.

        When it returns, nothing more is delivered, and every settlement so far has reached its
        queue, as `wait_settled` says.

        Returns:
            As `wait_settled`.

        Raises:
            ConnectionLost: The channel is gone.
        """
        ...

    async def wait_settled(self) -> Sequence[Delivery]:
        """Wait until every settlement so far has reached its queue: closing loses none of them.

        Not those in a queue with a single active consumer, nor in one that was deleted.

        Returns:
            Deliveries that came on no subscription, on loan: RabbitMQ proves it by handing out
            what is next in the queue.

        Raises:
            ConnectionLost: The channel is gone; what is unsettled comes back by itself.
        """
        ...

    async def wait_interrupted(self) -> NoReturn:
        """Wait until a subscription ends by itself, or the channel does; raise why.

        Raises:
            QueueMissing: The queue was deleted; what was delivered can still be settled.
            ConnectionLost: The channel is gone; what is unsettled comes back by itself.
        """
        ...

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone.

        Raises:
            ConnectionLost: It is; what is unsettled comes back by itself.
        """
        ...

    def say(self, topic: str, body: bytes) -> None:
        """Broadcast on this channel, without the broker's word on it; does not block.

        Only on a channel that was opened to speak.

        Whoever hears it knows that the channel was alive when the broker took it, and so that a
        single-active subscription on this channel was still ours. It keeps its order with the
        settlements and the other broadcasts of this channel. With nobody listening it is gone.

        Raises:
            ConnectionLost: The channel is gone; nobody hears it.
        """
        ...

    async def flush(self) -> None:
        """Wait until every settlement so far has been handed to the operating system."""
        ...


class Broker(Protocol):
    """Where jobs live."""

    @property
    def is_connected(self) -> bool:
        """Whether it can be reached right now."""
        ...

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, in words; '' if nothing does."""
        ...

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep the way to the broker open until cancelled.

        `task_status.started()` is called after the first attempt.

        Raises:
            ConnectionRefused: The first attempt was refused for good.
        """
        ...

    async def wait_connected(self) -> None:
        """Wait until the broker can be reached."""
        ...

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        """Make sure that `queues` exist, in this order, and survive what the broker promises.

        Args:
            queues: The queues.
            afresh: Whether to ask the broker even if they were declared before: one may have been
                deleted since.

        Returns:
            The names of those that were not there and were made by this call, or by an earlier
            one that failed half way. Of several that declare a queue at once, each may be told.

        Raises:
            QueueRefused: One exists with other arguments; the message names both sides.
        """
        ...

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish and wait for the broker's word that it is kept.

        Waits while the broker cannot be reached; callers bound it with a deadline.

        Args:
            queue: An existing queue.
            message: The message, made persistent.
            delay: Seconds before the queue gets it: never less, and at most a second more.

        Raises:
            QueueMissing: There is no such queue, and it was never declared here.
            MessageTooLarge: The message, or what is beside its body, is too large.
            PublishRefused: The broker said no, or the queue takes no delayed messages; the queue
                forwards and the message says not where to, or says it and the queue does not.
            QueueRefused: The queue had to be declared again, and the broker would not have it.
        """
        ...

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish all, pipelined and in order; return when all are confirmed.

        Raises:
            QueueMissing: As `publish`.
            PublishRefused: The broker said no to some of them; all others are kept.
        """
        ...

    def open_channel(self, *, speaks: bool = False) -> AbstractAsyncContextManager[Channel]:
        """Open a channel to consume on; what is unsettled at exit goes back.

        Args:
            speaks: Whether `Channel.say` will be used on it. A broker short of memory or disk may
                stop reading from who speaks; settlements on other channels get through then.

        Raises:
            QueueRefused: The broker allows no further channel.
            ConnectionLost: The connection was lost on the way.
        """
        ...

    def browse(self, queue: str, limit: int) -> AbstractAsyncContextManager[Sequence[Delivery]]:
        """Take up to `limit` messages from the head; what is unsettled at exit goes back in order.

        Raises:
            QueueMissing: There is no such queue.
            TooManyMessages: There are so many, and they cannot all be held at a time.
        """
        ...

    async def purge(self, queue: str) -> int:
        """Delete all that is ready in the queue; return how many that was.

        Raises:
            QueueMissing: There is no such queue.
        """
        ...

    async def count(self, queue: str) -> QueueCount:
        """Count what the queue holds.

        Raises:
            QueueMissing: There is no such queue.
        """
        ...

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Hand `body` to everybody who listens to `topic` now, in all processes.

        It is kept for nobody: who listens later, or loses the connection, misses it.

        Args:
            topic: Letters, digits, ``_``, ``-`` and ``.``; need not exist.
            body: What to say.

        Returns:
            Whether anybody listens: a process that is frozen still does, one that died does not.

        Raises:
            PublishRefused: The broker said no.
        """
        ...

    def listen(
        self, *topics: str, on_again: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is broadcast to any of `topics` from now on, in the order it was said.

        They begin to be heard in the order given, at the start and after a lost connection: hearing
        anything on the last one means that nothing said later on the others is missed.

        The channel is bounded: who leaves too much unread loses the newest, and a WARNING says so
        once. What is said while the connection is lost is missed.

        Args:
            topics: What to listen to.
            on_again: Called each time that it is heard again what is said, and something may have
                been missed before. Synchronously: it must neither block nor raise.
        """
        ...
