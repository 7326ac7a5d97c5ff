"""Channels of the embedded broker, and the deliveries they bring.

Nothing here touches the database: what was settled is noted, and the pump sees to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from secrets import randbits
from typing import NoReturn, Protocol

import attrs
import trio

from ..base import AlreadySettled, ConnectionLost, Delivery, PublishRefused
from .headers import unpack
from .values import Broadcast, Row

logger = logging.getLogger(__name__)

_NUMBER_BITS = 62  # SQLite's integers have 63 and a sign.


@attrs.define
class Pile:
    """What a channel has to tell the database."""

    acked: list[int] = attrs.Factory(list)
    returned: list[int] = attrs.Factory(list)
    forwarded: list[int] = attrs.Factory(list)
    said: list[Broadcast] = attrs.Factory(list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.acked or self.returned or self.forwarded or self.said)

    def precede(self, later: Pile) -> None:
        """Put this in front of what came later."""
        later.acked[:0] = self.acked
        later.returned[:0] = self.returned
        later.forwarded[:0] = self.forwarded
        later.said[:0] = self.said


class Subscription:
    """A queue that a channel consumes."""

    def __init__(
        self, queue: str, number: int, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        self.queue = queue
        self.number = number
        self.prefetch = prefetch
        self.on_delivery = on_delivery
        self.lent = 0
        self.may_have_more = True
        """Whether the queue may hold messages that were not delivered for lack of room."""

    @property
    def room(self) -> int:
        """How many messages to ask for now."""
        return max(0, self.prefetch - self.lent) if self.may_have_more else 0


class EmbeddedDelivery:
    """One message on loan; see `Delivery` in ``base.py``."""

    __slots__ = ("_channel", "_row", "_settled", "_subscription", "queue")

    def __init__(
        self, channel: EmbeddedChannel, row: Row, queue: str, subscription: Subscription | None
    ) -> None:
        self._channel = channel
        self._row = row
        self._subscription = subscription
        self._settled = False
        self.queue = queue

    @property
    def body(self) -> bytes:
        """The message's body."""
        return self._row.body

    @property
    def message_id(self) -> str:
        """The publisher's id for it, or ''."""
        return self._row.message_id

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher put beside the body."""
        return unpack(self._row.headers)[1]

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before; a look at it does not count."""
        return self._row.deliveries > 1

    def ack(self) -> None:
        """Settle: the broker forgets the message."""
        self._settle(self._channel.pile.acked)

    def give_back(self) -> None:
        """Settle: the broker puts the message back where it was."""
        self._settle(self._channel.pile.returned)

    def forward(self) -> None:
        """Settle: the broker moves the message to the queue its publisher named.

        Raises:
            PublishRefused: Its queue does not forward; it is not settled.
        """
        onward, _ = unpack(self._row.headers)
        if not onward:
            text = f"queue {self.queue!r} forwards nothing: it was not declared to"
            raise PublishRefused(text)
        self._settle(self._channel.pile.forwarded)

    def drop_body(self) -> None:
        """Let go of the body, which is then empty."""
        self._row = self._row._replace(body=b"")

    def _settle(self, pile: list[int]) -> None:
        if self._settled:
            raise AlreadySettled(f"message {self._row.id} of queue {self.queue!r}")
        self._settled = True
        if self._subscription is not None:
            self._subscription.lent -= 1
        self._channel.settle(pile, self._row.id)


class Servant(Protocol):
    """What a channel asks of the broker; see ``broker.py`` and ``pump.py``."""

    def stir(self, channel: EmbeddedChannel) -> None:
        """A channel has something to tell, or room for more."""
        ...

    def note_subscription(self, channel: EmbeddedChannel, subscription: Subscription) -> None:
        """A channel consumes one more queue."""
        ...

    def check_size(self, body: bytes) -> None:
        """Raise `MessageTooLarge` if the database would not keep such a body."""
        ...

    def full_topic(self, topic: str) -> str:
        """Return what the database knows a topic by."""
        ...

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is committed."""
        ...

    async def consume(self, channel: int, queue: str) -> int:
        """Note that a channel consumes a queue; return the queue's number."""
        ...

    async def stop_consuming(self, channel: int) -> None:
        """Note that a channel consumes nothing any more."""
        ...


class EmbeddedChannel:
    """A lane to the broker; see `Channel` in ``base.py``."""

    def __init__(self, servant: Servant) -> None:
        self._servant = servant
        self.number: int = randbits(_NUMBER_BITS)
        self.pile: Pile = Pile()
        self.subscriptions: list[Subscription] = []
        self.consumed: set[int] = set()
        """Numbers of the queues it consumes, or did."""
        self.lost: ConnectionLost | None = None
        """Why the channel is gone, once it is. The database is told by the pump."""
        self._ended = trio.Event()
        self.closed: trio.Event = trio.Event()
        """Set when the database has been told."""

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries of `queue` handed to `on_delivery`, at most `prefetch` unsettled."""
        self.check_open()
        number = await self._servant.consume(self.number, queue)
        self.check_open()
        subscription = Subscription(queue, number, prefetch, on_delivery)
        self.subscriptions.append(subscription)
        self.consumed.add(number)
        self._servant.note_subscription(self, subscription)

    async def unsubscribe(self) -> Sequence[Delivery]:
        """End all subscriptions. What was delivered stays on loan and can be settled."""
        self.check_open()
        self.subscriptions.clear()  # What is on its way to them goes back.
        await self._servant.stop_consuming(self.number)
        return ()

    async def wait_settled(self) -> Sequence[Delivery]:
        """Wait until every settlement so far is committed."""
        self.check_open()
        await self.flush()
        return ()

    def check_open(self) -> None:
        """Raise `ConnectionLost` if the channel is gone."""
        if self.lost is not None:
            raise ConnectionLost(str(self.lost))

    def settle(self, pile: list[int], number: int) -> None:
        """Note a settlement; the pump sees to it."""
        self.check_open()
        pile.append(number)
        self._servant.stir(self)

    def say(self, topic: str, body: bytes) -> None:
        """Broadcast with the settlements so far, unless the channel is taken back before.

        Raises:
            ConnectionLost: The channel is gone; nobody hears it.
            MessageTooLarge: So it is.
        """
        self.check_open()
        self._servant.check_size(body)
        self.pile.said.append(Broadcast(self._servant.full_topic(topic), body))
        self._servant.stir(self)

    def take_pile(self) -> Pile:
        """Take what there is to tell the database."""
        taken, self.pile = self.pile, Pile()
        return taken

    def receive(self, subscription: Subscription, rows: Sequence[Row]) -> None:
        """Hand over what was delivered; what comes too late goes back."""
        for row in rows:
            if subscription in self.subscriptions:
                subscription.lent += 1
                delivery = EmbeddedDelivery(self, row, subscription.queue, subscription)
                self._hand_over(delivery, subscription)
            elif self.lost is None:
                self.settle(self.pile.returned, row.id)

    def _hand_over(self, delivery: Delivery, subscription: Subscription) -> None:
        try:
            subscription.on_delivery(delivery)
        except Exception:  # A bug of one consumer must not cost all others the broker.
            logger.exception("queue %r: a delivery could not be handed over", delivery.queue)
            text = f"a delivery of queue {delivery.queue!r} could not be handed over"
            self.lose(ConnectionLost(text))

    def lose(self, error: ConnectionLost) -> None:
        """Take the channel for gone; what was settled before holds."""
        if self.lost is None:
            self.lost = error
            self.subscriptions.clear()
            self._ended.set()
            self._servant.stir(self)

    async def wait_interrupted(self) -> NoReturn:
        """Wait until the channel is gone: a queue never goes under a subscription."""
        await self.wait_lost()

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone; raise why."""
        await self._ended.wait()
        raise ConnectionLost(str(self.lost))

    async def flush(self) -> None:
        """Wait until every settlement so far is committed; on a lost channel there are none."""
        if self.lost is not None:
            await trio.lowlevel.checkpoint()
            return
        await self._servant.wait_settled()
