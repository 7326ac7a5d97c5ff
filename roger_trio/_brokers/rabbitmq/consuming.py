"""The channel that consumes: deliveries and single gets in, settlements out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import trio

from ..base import BrokerError, ConnectionLost, Delivery, QueueMissing
from . import frames
from .acks import Acks
from .channels import Channel, RabbitDelivery
from .transport import Transport

logger = logging.getLogger(__name__)


class ConsumeChannel(Channel):
    """Receives deliveries and hands them to the subscription they belong to."""

    def __init__(self, transport: Transport, number: int) -> None:
        super().__init__(transport, number)
        self._subscriptions: dict[bytes, tuple[str, Callable[[Delivery], None]]] = {}
        self._prefetch = 0
        self._acks = Acks()
        self.arrived = 0
        """Deliveries there have been."""
        self._awaited: deque[str] = deque()
        """The queues whose answers to a get have not come yet."""
        self._taken: list[Delivery] = []
        self._answered = trio.Event()

    def add(
        self, tag: str, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Hand deliveries of consumer `tag`, `prefetch` at a time, to `on_delivery`."""
        self._subscriptions[tag.encode()] = (queue, on_delivery)
        self._prefetch = prefetch

    @property
    def settled(self) -> int:
        """Deliveries that have been settled."""
        return self.arrived - self.on_loan

    @property
    def is_interrupted(self) -> bool:
        """Whether a subscription ended by itself, or the channel did."""
        return self._interrupted.is_set()

    @property
    def queues(self) -> list[str]:
        """The queues it consumes."""
        return [queue for queue, _ in self._subscriptions.values()]

    @property
    def has_room(self) -> bool:
        """Whether the broker may deliver more."""
        return self.on_loan < self._prefetch

    def on_close(self) -> None:
        """Hand over nothing more; what was settled before is sent, if it can be."""
        if not self.ended and self.transport.lost is None:
            self.write_late()
        self._subscriptions.clear()

    def write(self, data: bytes) -> None:
        """Queue bytes, behind all settlements so far; see `Channel`."""
        self.check_open()
        self.write_late()
        self.transport.write(data)

    def write_settlement(self, tag: int, make: Callable[[int, int], bytes]) -> None:
        """Queue the settlement of a delivery; acknowledgements leave together. See `Channel`."""
        if make is frames.ack:
            self.check_open()
            self._acks.settle(tag)
            self._acks.add(tag)
            self.transport.write_late(self)
        else:
            # Until its own frame is on its way, no acknowledgement of those behind it is for it.
            self.write(make(self.number, tag))
            self._acks.settle(tag)

    def write_late(self) -> None:
        """Queue the acknowledgements that have come up."""
        made = self._acks.take(self.number)
        if made:
            self.transport.write(made)

    @property
    def tags(self) -> list[str]:
        """The consumer tags of the subscriptions there are."""
        return [tag.decode() for tag in self._subscriptions]

    def forget(self, tag: str) -> None:
        """Give deliveries of consumer `tag` that are still on their way back to the broker."""
        self._subscriptions.pop(tag.encode(), None)

    async def get_each(self, queues: Sequence[str]) -> list[Delivery]:
        """Take one message of each queue, where there is one; they are on loan.

        To be waited for to the end: what it takes after that stays on loan to the channel.

        Raises:
            ConnectionLost: The channel is gone.
        """
        self._awaited.extend(queues)
        self._taken, self._answered = [], trio.Event()
        self.write(b"".join(frames.get(self.number, each) for each in queues))
        await self._answered.wait()
        self.check_open()
        return self._taken

    def on_method(self, method: int, payload: bytes) -> bool:
        """Take deliveries and answers, and notice when the broker ends a subscription."""
        if method in {frames.BASIC_DELIVER, frames.BASIC_GET_OK}:
            self.expect_content(payload)
            return True
        if method == frames.BASIC_GET_EMPTY:
            self._note_answer()
            return True
        if method == frames.BASIC_CANCEL:
            queue, _ = self._subscriptions.get(payload[5 : 5 + payload[4]], ("", None))
            self.interrupt(QueueMissing(f"the broker ended the consumer of queue {queue!r}"))
        return False

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Hand a whole delivery over."""
        if self._awaited and frames.method_id.unpack_from(method) == (frames.BASIC_GET_OK,):
            number, redelivered = frames.tag_and_flag.unpack_from(method, frames.method_id.size)
            queue = self._note_answer()
            self._count(number)
            self._taken.append(
                RabbitDelivery(self, number, queue, bool(redelivered & 1), method, header, body)
            )
            return
        tag_end = 5 + method[4]
        number, redelivered = frames.tag_and_flag.unpack_from(method, tag_end)
        found = self._subscriptions.get(method[5:tag_end])
        if found is None:
            if self.closed is None:
                self.transport.write(frames.nack(self.number, number))
            return
        queue, on_delivery = found
        self._count(number)
        try:
            on_delivery(
                RabbitDelivery(self, number, queue, bool(redelivered & 1), method, header, body)
            )
        except Exception:  # A bug of one consumer must not cost all others the connection.
            logger.exception("queue %r: a delivery could not be handed over", queue)
            self.close(ConnectionLost(f"a delivery of queue {queue!r} could not be handed over"))

    def _count(self, tag: int) -> None:
        self.arrived += 1
        self.on_loan += 1
        self._acks.arrive(tag)

    def on_end(self, error: BrokerError) -> None:
        """Send nothing more; wake who waits for answers."""
        self._acks.clear()
        self._answered.set()

    def _note_answer(self) -> str:
        """Return the queue that has answered, and wake who waits if it was the last one."""
        queue = self._awaited.popleft()
        if not self._awaited:
            self._answered.set()
        return queue
