"""What rides on a data channel; each kind of them has a module of its own.

A channel is opened, tuned and subscribed by aiormq; the classes here handle the frames that carry
jobs. They are called by the transport's reading task, must not block, and hold no task of their
own. When a channel ends, `closed` tells why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import trio

from ..base import (
    AlreadySettled,
    BrokerError,
    ConnectionLost,
    PublishRefused,
    QueueMissing,
)
from . import frames
from .transport import Transport

NOT_FOUND: Final = 404


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
        self._gone = trio.Event()
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
        self.check_open()
        self.transport.write(data)

    def write_settlement(self, tag: int, make: Callable[[int, int], bytes]) -> None:
        """Queue the settlement of a delivery.

        Raises:
            ConnectionLost: The channel or the connection is gone.
        """
        self.write(make(self.number, tag))

    def write_late(self) -> None:
        """Queue what was left to be put together."""

    def check_open(self) -> None:
        """Raise `ConnectionLost` if the channel or the connection is gone."""
        if self.closed is not None:
            raise ConnectionLost(str(self.closed))

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
            self._gone.set()

    async def end_in_order(self) -> None:
        """Close the channel, and wait until the broker knows it no more.

        Not by aiormq's own ``close``: what ends that call is a task which may miss the answer, and
        then it takes as long as a heartbeat.
        """
        self.close(ConnectionLost("closed by us"))
        if not self.ended:
            self.transport.write(frames.close_channel(self.number))
            await self._gone.wait()

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
            # Until it has the answer the broker may go on delivering: that is swallowed here.
            self.transport.attach(self.number, self)
            return False  # aiormq answers it, and frees the number.
        if method == frames.CHANNEL_OPEN_OK:
            self.transport.detach(self.number, self)
            return False  # The number is another channel's now.
        if method == frames.CHANNEL_CLOSE_OK:
            self._gone.set()
            return False  # aiormq frees the number.
        return self.on_method(method, payload)

    def _on_header(self, payload: bytes) -> bool:
        if not self._method:
            return False
        self._header = payload
        (self._missing,) = frames.body_size.unpack_from(payload, 4)
        if self._missing > frames.MAX_BODY:
            raise ValueError(f"a body of {self._missing} bytes was announced")
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

    __slots__ = (
        "_channel",
        "_header",
        "_method",
        "_settled",
        "_tag",
        "body",
        "queue",
        "redelivered",
    )

    def __init__(
        self,
        channel: Channel,
        tag: int,
        queue: str,
        redelivered: bool,  # noqa: FBT001 -- as above
        method: bytes,
        header: bytes,
        body: bytes,
    ) -> None:
        self._channel = channel
        self._tag = tag
        self._method = method
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

    def forward(self) -> None:
        """Settle: the broker dead-letters the message to the queue its publisher named.

        Raises:
            PublishRefused: Its publisher named none, and it stays on loan.
        """
        self.check_onward()
        self._settle(frames.reject)

    def check_onward(self) -> None:
        """Raise `PublishRefused` unless it can be forwarded: the broker would drop it."""
        if frames.delivered_through(self._method) != self.queue:
            raise PublishRefused(
                f"a message in queue {self.queue!r} cannot be forwarded: "
                "it was not published to a queue that forwards, with the queue it goes on to"
            )

    def drop_body(self) -> None:
        """Let go of the body, which is then empty."""
        self.body = b""

    def _settle(self, make: Callable[[int, int], bytes]) -> None:
        self.mark_settled()
        self._channel.write_settlement(self._tag, make)

    def mark_settled(self) -> None:
        """Note that it has been decided about.

        Raises:
            AlreadySettled: It had been before.
        """
        if self._settled:
            raise AlreadySettled(f"delivery {self._tag} of queue {self.queue!r}")
        self._settled = True
        self._channel.on_loan -= 1

    @property
    def tag(self) -> int:
        """The channel's number for the delivery."""
        return self._tag
