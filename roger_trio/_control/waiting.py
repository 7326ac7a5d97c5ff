"""The jobs of a partition that wait for an execution key, as the coordinator holds them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from .._brokers.base import Broker, Channel, Delivery, PublishRefused
from .._state.decisions import Forward, Move
from .._topology import PartitionNames

logger = logging.getLogger(__name__)

EXECUTION_KEY: Final = "roger-execution-key"
"""The header of a waiting job that says what it waits for."""
QUEUE: Final = "roger-queue"
"""The header of a waiting job that says which queue it is of."""
_PREFETCH: Final = 65535


@attrs.frozen
class Arrival:
    """A waiting job that has come in."""

    job: str
    queue: str
    execution_key: str


class WaitingJobs:
    """Holds the waiting jobs' deliveries, without their bodies, until the ledger moves them.

    Args:
        broker: Where they are.
        channel: The coordinator's.
        names: The partition's queues.
        on_arrival: Called when one has come in.
    """

    def __init__(
        self,
        broker: Broker,
        channel: Channel,
        names: PartitionNames,
        on_arrival: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._channel = channel
        self._names = names
        self._on_arrival = on_arrival
        self._arrived: list[Delivery] = []
        self._held: dict[str, Delivery] = {}
        self._surplus: list[Delivery] = []

    @property
    def has_arrivals(self) -> bool:
        """Whether some have come in that were not looked at."""
        return bool(self._arrived)

    async def subscribe(self) -> None:
        """Have them come in, before the first is told to wait."""
        # It was there when the node began; somebody may have deleted it since.
        await self._broker.declare([self._names.waiting_spec()], afresh=True)
        await self._channel.subscribe(
            self._names.waiting, prefetch=_PREFETCH, on_delivery=self._take
        )

    def _take(self, delivery: Delivery) -> None:
        delivery.drop_body()
        self._arrived.append(delivery)
        self._on_arrival()

    def arrivals(self) -> list[Arrival]:
        """Return what has come in; of two deliveries of one job, the second is dropped later."""
        arrived, self._arrived = self._arrived, []
        found: list[Arrival] = []
        for delivery in arrived:
            job = delivery.message_id
            key, queue = delivery.headers.get(EXECUTION_KEY), delivery.headers.get(QUEUE)
            if not isinstance(key, str) or not isinstance(queue, str):
                # Somebody else's: it stays where it is, and is nobody's turn.
                logger.warning("queue %r: what is there is no job of ours", self._names.waiting)
            elif job in self._held:
                self._surplus.append(delivery)
            else:
                self._held[job] = delivery
                found.append(Arrival(job, queue, key))
        return found

    def move(self, moves: Iterable[Move]) -> None:
        """Send jobs on, or settle them: what they follow from is saved.

        Raises:
            ConnectionLost: The channel is gone, and all comes in again.
        """
        for move in moves:
            delivery = self._held.pop(move.job, None)
            if delivery is None:
                continue  # It comes in later, and is asked about then.
            if isinstance(move, Forward):
                self._forward(delivery)
            else:
                delivery.ack()
        surplus, self._surplus = self._surplus, []
        for delivery in surplus:
            delivery.ack()

    def _forward(self, delivery: Delivery) -> None:
        try:
            delivery.forward()
        except PublishRefused as exc:
            logger.error("job %s cannot leave the waiting ones: %s", delivery.message_id, exc)
