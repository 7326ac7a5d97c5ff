"""What rides on a data channel: deliveries and gets; publishes are in ``publishing.py``.

A channel is opened, tuned and subscribed by aiormq; the classes here handle the frames that carry
jobs. They are called by the transport's reading task, must not block, and hold no task of their
own. When a channel ends, `closed` tells why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

import trio

from ..base import (
    AlreadySettled,
    BrokerError,
    ConnectionLost,
    Delivery,
    QueueMissing,
)
from . import frames
from .transport import Transport

logger = logging.getLogger(__name__)

NOT_FOUND: Final = 404
_GET_TIMEOUT: Final = 30.0
_LOOK_AHEAD: Final = 16
"""Messages asked for at once where there are more than the broker had counted."""


class Channel:
    """The part that all data channels share: content over several frames, and the end."""

    def __init__(self, transport: Transport, number: int) -> None:
        self.number = number
        self.transport = transport
        self.closed: BrokerError | None = None
        """Why nothing can be sent any more, once that is so."""
        self.ended = False
        """Whether the broker knows the channel no more."""
        self.on_loan = 0
        """Deliveries that are not settled."""
        self._interruption: BrokerError | None = None
        self._interrupted = trio.Event()
        self._lost = trio.Event()
        # The content being read: its method's payload, its header, and the body so far.
        self._method = b""
        self._header = b""
        self._missing = 0
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Queue bytes of this channel.

        Raises:
            ConnectionLost: The channel or the connection is gone.
        """
        if self.closed is not None:
            raise ConnectionLost(str(self.closed))
        self.transport.write(data)

    async def wait_interrupted(self) -> NoReturn:
        """Wait until the channel, or a subscription on it, ends by itself; raise why."""
        await self._interrupted.wait()
        raise self._interruption or ConnectionLost("closed")

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone; raise why."""
        await self._lost.wait()
        raise ConnectionLost(str(self.closed))

    def interrupt(self, error: BrokerError) -> None:
        """Nothing new will come; what was delivered can still be settled."""
        if self._interruption is None:
            self._interruption = error
            self._interrupted.set()

    def close(self, error: BrokerError) -> None:
        """Send nothing more: we are about to close the channel.

        It goes on swallowing what the broker still sends. A settlement that reached the broker
        after its word that the channel is closed would cost the whole connection.
        """
        if self.closed is None:
            self.closed = error
            self.interrupt(error)
            self._lost.set()
            self.on_close()

    def end(self, error: BrokerError) -> None:
        """Take the channel for gone."""
        if not self.ended:
            self.ended = True
            self.transport.detach(self.number, self)
            self.close(error)
            self.on_end(error)

    def connection_lost(self, error: ConnectionLost) -> None:
        """The connection is gone, and the channel with it."""
        self.end(error)

    def handle(self, kind: int, payload: bytes) -> bool:
        """Handle one frame of this channel; False leaves it to aiormq."""
        if kind == frames.BODY:
            return self._on_body(payload)
        if kind == frames.HEADER:
            return self._on_header(payload)
        if kind != frames.METHOD:
            return False
        (method,) = frames.method_id.unpack_from(payload)
        if method == frames.CHANNEL_CLOSE:
            self.end(self.close_error(frames.close_reason(payload)))
            return False  # aiormq answers it, and frees the number.
        return self.on_method(method, payload)

    def _on_header(self, payload: bytes) -> bool:
        if not self._method:
            return False
        self._header = payload
        (self._missing,) = frames.body_size.unpack_from(payload, 4)
        if not self._missing:
            self._finish(b"")
        return True

    def _on_body(self, payload: bytes) -> bool:
        if not self._header:
            return False
        self._missing -= len(payload)
        if self._missing > 0:
            self._parts.append(payload)
        elif self._parts:
            self._parts.append(payload)
            self._finish(b"".join(self._parts))
        else:
            self._finish(payload)
        return True

    def _finish(self, body: bytes) -> None:
        method, header = self._method, self._header
        self._method = self._header = b""
        if self._parts:
            self._parts = []
        self.on_content(method, header, body)

    def expect_content(self, method_payload: bytes) -> None:
        """The frames that follow carry the content of this method."""
        self._method = method_payload

    # What the kinds of channel add...

    def on_method(self, method: int, payload: bytes) -> bool:
        """Handle a method frame; False leaves it to aiormq."""
        return False

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Handle a method whose content is complete."""

    def on_close(self) -> None:
        """React to the end of sending."""

    def on_end(self, error: BrokerError) -> None:
        """React to the end of the channel."""

    def close_error(self, reason: frames.CloseReason) -> BrokerError:
        """Turn the broker's reason to close the channel into an error."""
        return channel_error(reason)


def channel_error(reason: frames.CloseReason) -> BrokerError:
    """Turn the broker's reason to close a channel into an error."""
    if reason.code == NOT_FOUND:
        return QueueMissing(str(reason))
    return ConnectionLost(f"the broker closed the channel: {reason}")


class RabbitDelivery:
    """One message on loan; see `Delivery` in ``base.py``."""

    __slots__ = ("_channel", "_header", "_settled", "_tag", "body", "queue", "redelivered")

    def __init__(
        self,
        channel: Channel,
        tag: int,
        queue: str,
        redelivered: bool,  # noqa: FBT001 -- as above
        header: bytes,
        body: bytes,
    ) -> None:
        self._channel = channel
        self._tag = tag
        self._header = header
        self._settled = False
        self.queue = queue
        self.redelivered = redelivered
        self.body = body

    @property
    def message_id(self) -> str:
        """The publisher's id for it, or ''."""
        return frames.properties(self._header).properties.message_id or ""

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher put beside the body."""
        return frames.properties(self._header).properties.headers or {}

    def ack(self) -> None:
        """Settle: the broker forgets the message."""
        self._settle(frames.ack)

    def give_back(self) -> None:
        """Settle: the broker puts the message back where it was."""
        self._settle(frames.nack)

    def _settle(self, make: Callable[[int, int], bytes]) -> None:
        if self._settled:
            raise AlreadySettled(f"delivery {self._tag} of queue {self.queue!r}")
        self._settled = True
        self._channel.on_loan -= 1
        self._channel.write(make(self._channel.number, self._tag))

    @property
    def is_settled(self) -> bool:
        """Whether it has been settled."""
        return self._settled

    @property
    def tag(self) -> int:
        """The channel's number for the delivery."""
        return self._tag


class ConsumeChannel(Channel):
    """Receives deliveries and hands them to the subscription they belong to."""

    def __init__(self, transport: Transport, number: int) -> None:
        super().__init__(transport, number)
        self._subscriptions: dict[bytes, tuple[str, Callable[[Delivery], None]]] = {}
        self._prefetch = 0
        self.arrived = 0
        """Deliveries there have been."""

    def add(
        self, tag: str, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Hand deliveries of consumer `tag`, `prefetch` at a time, to `on_delivery`."""
        self._subscriptions[tag.encode()] = (queue, on_delivery)
        self._prefetch = prefetch

    @property
    def queues(self) -> list[str]:
        """The queues it consumes."""
        return [queue for queue, _ in self._subscriptions.values()]

    @property
    def has_room(self) -> bool:
        """Whether the broker may deliver more."""
        return self.on_loan < self._prefetch

    def on_close(self) -> None:
        """Hand over nothing more."""
        self._subscriptions.clear()

    @property
    def tags(self) -> list[str]:
        """The consumer tags of the subscriptions there are."""
        return [tag.decode() for tag in self._subscriptions]

    def forget(self, tag: str) -> None:
        """Give deliveries of consumer `tag` that are still on their way back to the broker."""
        self._subscriptions.pop(tag.encode(), None)

    def on_method(self, method: int, payload: bytes) -> bool:
        """Take deliveries, and notice when the broker ends a subscription."""
        if method == frames.BASIC_DELIVER:
            self.expect_content(payload)
            return True
        if method == frames.BASIC_CANCEL:
            queue, _ = self._subscriptions.get(payload[5 : 5 + payload[4]], ("", None))
            self.interrupt(QueueMissing(f"the broker ended the consumer of queue {queue!r}"))
        return False

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Hand a whole delivery over."""
        tag_end = 5 + method[4]
        number, redelivered = frames.tag_and_flag.unpack_from(method, tag_end)
        found = self._subscriptions.get(method[5:tag_end])
        if found is None:
            if self.closed is None:
                self.transport.write(frames.nack(self.number, number))
            return
        queue, on_delivery = found
        self.arrived += 1
        self.on_loan += 1
        try:
            on_delivery(RabbitDelivery(self, number, queue, bool(redelivered & 1), header, body))
        except Exception:  # A bug of one consumer must not cost all others the connection.
            logger.exception("queue %r: a delivery could not be handed over", queue)
            self.close(ConnectionLost(f"a delivery of queue {queue!r} could not be handed over"))


class GetChannel(Channel):
    """Takes messages from the head of a queue by pipelined ``basic.get``."""

    def __init__(self, transport: Transport, number: int) -> None:
        super().__init__(transport, number)
        self._queue = ""
        self._awaited = 0
        self._taken: list[RabbitDelivery] = []
        self._answered = trio.Event()

    async def look(self, queue: str, limit: int, guess: int) -> list[RabbitDelivery]:
        """Take up to `limit` messages from the head of a queue.

        Args:
            queue: The queue.
            limit: The most to take.
            guess: How many there may be; the broker's count lags behind.

        Raises:
            QueueMissing: There is no such queue; the channel is gone.
            ConnectionLost: The channel or connection is gone.
        """
        taken: list[RabbitDelivery] = []
        asked = max(1, guess)
        while len(taken) < limit:
            asked = min(limit - len(taken), asked)
            got = await self._take(queue, asked)
            taken += got
            if len(got) < asked:
                break
            asked = _LOOK_AHEAD
        return taken

    async def _take(self, queue: str, limit: int) -> list[RabbitDelivery]:
        """Take up to `limit` messages, at least 1; fewer when the queue has no more ready."""
        self._queue, self._awaited, self._taken = queue, limit, []
        self._answered = trio.Event()
        self.write(frames.get(self.number, queue) * limit)
        # To the end even when cancelled: what is given back by closing the channel under it
        # would change its place in the queue.
        with trio.move_on_after(_GET_TIMEOUT, shield=True):
            await self._answered.wait()
        if self.closed is not None:
            raise self.closed
        if self._awaited:
            raise ConnectionLost(f"the broker did not answer within {_GET_TIMEOUT:g} s")
        return self._taken

    def on_method(self, method: int, payload: bytes) -> bool:
        """Take the answers to a get."""
        if method == frames.BASIC_GET_OK:
            self.expect_content(payload)
            return True
        if method == frames.BASIC_GET_EMPTY:
            self._count()
            return True
        return False

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Keep a message that was got."""
        number, redelivered = frames.tag_and_flag.unpack_from(method, 4)
        self._taken.append(
            RabbitDelivery(self, number, self._queue, bool(redelivered & 1), header, body)
        )
        self._count()

    def on_end(self, error: BrokerError) -> None:
        """Wake who waits for answers."""
        self._answered.set()

    def _count(self) -> None:
        self._awaited -= 1
        if self._awaited == 0:
            self._answered.set()

    def give_back(self, deliveries: Sequence[RabbitDelivery]) -> None:
        """Give back what is unsettled, in one stroke where nothing was settled: order is kept."""
        unsettled = [each for each in deliveries if not each.is_settled]
        if self.closed is not None or not unsettled:
            return
        if len(unsettled) == len(deliveries):
            self.write(frames.nack(self.number, unsettled[-1].tag, multiple=True))
        else:
            for each in unsettled:
                each.give_back()
