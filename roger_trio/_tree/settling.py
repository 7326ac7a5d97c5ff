"""How a worker settles deliveries, and publishes what must follow before it does."""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from .._brokers.base import (
    Broker,
    BrokerError,
    ConnectionLost,
    Delivery,
    Message,
    PublishRefused,
)
from .._jobs.envelope import Envelope
from .._logs import log_job
from .._topology import QueueNames
from .control import SETTLE_TIMEOUT
from .ending import message_of

logger = logging.getLogger("roger_trio.jobs")


class Settler:
    """Settles the deliveries of one queue.

    Args:
        broker: Where what follows is published.
        names: The queue's broker queues.
    """

    def __init__(self, broker: Broker, names: QueueNames) -> None:
        self._broker = broker
        self._names = names

    async def publish(
        self,
        delivery: Delivery,
        envelope: Envelope,
        queue: str,
        *messages: Message,
        delay: float = 0.0,
    ) -> bool:
        """Publish within `SETTLE_TIMEOUT`, else give the delivery back: nothing is lost.

        Of several messages the first one counts that the broker takes.
        """
        trouble: object = f"it was not confirmed within {SETTLE_TIMEOUT:g} s"
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
            for message in messages:
                try:
                    await self._broker.publish(queue, message, delay=delay)
                    return True
                except PublishRefused as exc:
                    trouble = exc
                except BrokerError as exc:
                    trouble = exc
                    break
        self.give_up(delivery, envelope, f"cannot go on to queue {queue!r} ({trouble})")
        return False

    def give_up(self, delivery: Delivery, envelope: Envelope, trouble: str) -> None:
        """Give a delivery back, as what must come before its settlement could not be done."""
        text = "%s; it is given back and runs again"
        log_job(logger, logging.ERROR, envelope, text, trouble)
        self.give_back(delivery)

    def ack(self, delivery: Delivery, envelope: Envelope) -> None:
        """Settle: it is done with."""
        try:
            delivery.ack()
        except ConnectionLost:
            text = "its connection is gone before it could be settled, so it will run again"
            log_job(logger, logging.WARNING, envelope, text)

    def give_back(self, delivery: Delivery) -> None:
        """Settle: the broker takes it back."""
        with suppress(ConnectionLost):  # Then the broker takes it back by itself.
            delivery.give_back()

    async def abandon(self, delivery: Delivery, envelope: Envelope) -> None:
        """Give back a job that did not end, without spending an attempt or counting a death."""
        if delivery.queue != self._names.redelivered:
            self.give_back(delivery)
        elif await self.publish(delivery, envelope, delivery.queue, message_of(envelope)):
            self.ack(delivery, envelope)
