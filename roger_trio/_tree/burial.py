"""How many buried jobs are kept."""

from __future__ import annotations

import logging
from typing import Final

import trio

from .._brokers.base import Broker, BrokerError

logger = logging.getLogger(__name__)

_PAGE: Final = 100
"""Buried jobs dropped at a time."""


class BuriedLimit:
    """Keeps a queue's buried jobs to the newest so many.

    Args:
        broker: Where they are.
        queue: The broker queue that holds them.
        limit: The most to keep; None keeps all.
    """

    def __init__(self, broker: Broker, queue: str, limit: int | None) -> None:
        self._broker = broker
        self._queue = queue
        self._limit = limit
        self._enforcing = trio.Lock()

    async def enforce(self) -> None:
        """Drop the oldest beyond the limit, and say how many that were."""
        if self._limit is None:
            return
        dropped = 0
        try:
            async with self._enforcing:  # Two that count at the same time would drop twice.
                dropped = await self._drop(self._limit)
        except BrokerError as exc:
            text = "queue %r could not be kept to %d jobs: %s"
            logger.warning(text, self._queue, self._limit, exc)
        if dropped:
            text = "dropped %d of the oldest jobs of %r: max_buried is %d"
            logger.warning(text, dropped, self._queue, self._limit)

    async def _drop(self, limit: int) -> int:
        # Counted once: RabbitMQ 4 tells a queue's length with some delay.
        excess = (await self._broker.count(self._queue)).messages - limit
        dropped = 0
        while dropped < excess:
            page = min(excess - dropped, _PAGE)
            async with self._broker.browse(self._queue, page) as oldest:
                for delivery in oldest:
                    delivery.ack()
            dropped += len(oldest)
            if len(oldest) < page:
                break
        return dropped
