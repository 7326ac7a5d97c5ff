"""Publishing with confirms: the channel, and what waits for the broker's word on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trio

from ..base import (
    BrokerError,
    ConnectionLost,
    Message,
    MessageTooLarge,
    PublishRefused,
    QueueMissing,
)
from . import frames
from .channels import NOT_FOUND, Channel
from .transport import Transport

_ACCESS_REFUSED: Final = 403
_PRECONDITION_FAILED: Final = 406
_RETURNS: Final = 3
"""Times a message that no queue took is sent again after its queue was declared anew."""


class Confirmation:
    """What the broker said to a batch of publishes; one waiter."""

    __slots__ = ("_done", "_missing", "failures")

    def __init__(self, count: int) -> None:
        self._missing = count
        self._done = trio.Event()
        self.failures: dict[int, BrokerError] = {}
        """Position in the batch → why that message was not kept."""

    def settle(self, position: int, error: BrokerError | None) -> None:
        """Note the broker's word for one message of the batch."""
        if error is not None:
            self.failures.setdefault(position, error)
        self._missing -= 1
        if not self._missing:
            self._done.set()

    async def wait(self) -> None:
        """Wait for the broker's word on every message."""
        await self._done.wait()


class _Pending:
    """A published message without the broker's word yet."""

    __slots__ = ("body", "confirmation", "destination", "message_id", "position", "returned")

    def __init__(
        self,
        confirmation: Confirmation,
        position: int,
        destination: tuple[str, str],
        message_id: bytes,
        body: bytes,
    ) -> None:
        self.confirmation = confirmation
        self.position = position
        self.destination = destination
        self.message_id = message_id
        self.body = body
        self.returned: BrokerError | None = None

    @property
    def exchange(self) -> str:
        """The exchange it went to, as the broker's errors call it."""
        return self.destination[0] or "amq.default"


def _size(pending: _Pending) -> int:
    return len(pending.body)


class PublishChannel(Channel):
    """Publishes with confirms, at most a window of them without the broker's word."""

    WINDOW: Final = 2000
    """Messages without the broker's word above which publishers wait."""

    def __init__(self, transport: Transport, number: int, frame_max: int) -> None:
        super().__init__(transport, number)
        self._frame_max = frame_max
        self._sequence = 0
        self._lowest = 1  # Every lower delivery tag has been confirmed.
        self._pending: dict[int, _Pending] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._methods: dict[tuple[str, str], bytes] = {}

    async def wait_room(self) -> None:
        """Wait for room in the window of unconfirmed messages.

        Raises:
            ConnectionLost: The channel is gone.
        """
        while len(self._pending) >= self.WINDOW and self.closed is None:
            await self._room.park()
        await self.transport.wait_room()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        message_id: bytes,
        headers: Mapping[str, str | int] | None,
        *,
        confirmation: Confirmation,
        position: int,
    ) -> None:
        """Write one mandatory, persistent message.

        The broker's word arrives at `confirmation` under `position`.

        Raises:
            ConnectionLost: The channel is gone; nothing was written.
            MessageTooLarge: The headers do not fit into a frame; nothing was written.
        """
        destination = (exchange, routing_key)
        method = self._methods.get(destination)
        if method is None:
            method = self._remember(destination)
        content = frames.content(self.number, body, message_id, headers, self._frame_max)
        self.write(method + content)
        self._sequence += 1
        self._pending[self._sequence] = _Pending(
            confirmation, position, destination, message_id, body
        )

    def _remember(self, destination: tuple[str, str]) -> bytes:
        if len(self._methods) >= self.WINDOW:
            self._methods.clear()
        made = frames.publish_method(self.number, *destination)
        self._methods[destination] = made
        return made

    def on_method(self, method: int, payload: bytes) -> bool:
        """Take confirms and returns."""
        if method == frames.BASIC_ACK:
            self._confirm(payload, refused=False)
        elif method == frames.BASIC_NACK:
            self._confirm(payload, refused=True)
        elif method == frames.BASIC_RETURN:
            self.expect_content(payload)
        else:
            return False
        return True

    def _confirm(self, payload: bytes, *, refused: bool) -> None:
        tag, multiple = frames.tag_and_flag.unpack_from(payload, 4)
        error = PublishRefused("the broker refused the message") if refused else None
        if multiple & 1:
            for number in range(self._lowest, min(tag, self._sequence) + 1):
                self._settle(number, error)
            self._lowest = max(self._lowest, min(tag, self._sequence) + 1)
        else:
            self._settle(tag, error)
            while self._lowest <= self._sequence and self._lowest not in self._pending:
                self._lowest += 1
        self._room.unpark_all()

    def _settle(self, tag: int, error: BrokerError | None) -> None:
        pending = self._pending.pop(tag, None)
        if pending is not None:
            pending.confirmation.settle(pending.position, error or pending.returned)

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Note a message that no queue took; its confirm follows and settles it."""
        message_id = (frames.properties(header).properties.message_id or "").encode()
        returned = frames.returned(method)
        for pending in self._pending.values():
            if (
                pending.returned is None
                and pending.destination == returned.destination
                and pending.message_id == message_id
                and pending.body == body
            ):
                where = returned.exchange or returned.key
                pending.returned = QueueMissing(f"{returned.reason}: queue {where!r}")
                return

    def close_error(self, reason: frames.CloseReason) -> BrokerError:
        """Find the messages that are the reason; all others go out again."""
        error = ConnectionLost(f"the broker closed the channel: {reason}")
        pending = list(self._pending.values())
        ours = [each for each in pending if f"'{each.exchange}'" in reason.text]
        if reason.code == _PRECONDITION_FAILED and "message size" in reason.text:
            for each in sorted(pending, key=_size)[-1:]:
                each.returned = MessageTooLarge(str(reason))
        elif reason.code == NOT_FOUND:
            for each in ours:
                each.returned = QueueMissing(str(reason))
        elif reason.code == _ACCESS_REFUSED:
            for each in ours:
                each.returned = PublishRefused(str(reason))
        else:
            return PublishRefused(str(error))
        return error

    def on_end(self, error: BrokerError) -> None:
        """Tell every waiter that no word will come."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.confirmation.settle(each.position, each.returned or error)
        self._room.unpark_all()


class Batch:
    """Messages to publish in order: those without the broker's word yet."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.left = messages
        self.refusal: BrokerError | None = None
        """Why the broker would not take the first of those that it refused."""
        self.missing: QueueMissing | None = None
        """Why messages came back, if they did the last time."""
        self._returns = 0

    def note(self, failures: Mapping[int, BrokerError]) -> None:
        """Keep what has to go out again.

        Args:
            failures: Position in `left` → why the message was not kept.

        Raises:
            QueueMissing: Messages came back too often.
        """
        self.missing = None
        again: list[int] = []
        for position, error in sorted(failures.items()):
            match error:
                case QueueMissing():
                    self.missing = self.missing or error
                    again.append(position)
                case ConnectionLost():
                    again.append(position)
                case _:
                    self.refusal = self.refusal or error
        self.left = [self.left[position] for position in again]
        if self.missing is not None:
            self._returns += 1
            if self._returns > _RETURNS:
                raise self.missing


async def write_all(
    publisher: PublishChannel,
    exchange: str,
    key: str,
    messages: Sequence[Message],
    confirmation: Confirmation,
) -> None:
    """Write messages as the window allows; those that cannot be written count as lost.

    Args:
        publisher: The channel to write on.
        exchange: Where all of them go.
        key: The routing key of those that are not to go onward; that of others is where they go.
        messages: The messages.
        confirmation: Is told of each.
    """
    for position, message in enumerate(messages):
        try:
            await publisher.wait_room()
            publisher.publish(
                exchange,
                message.onward or key,
                message.body,
                message.message_id.encode(),
                message.headers,
                confirmation=confirmation,
                position=position,
            )
        except PublishRefused as exc:
            confirmation.settle(position, exc)
        except ConnectionLost as exc:
            for unwritten in range(position, len(messages)):
                confirmation.settle(unwritten, exc)
            return
