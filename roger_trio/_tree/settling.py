"""How a worker settles deliveries, and publishes what must follow before it does."""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from .._brokers.base import Broker, BrokerError, ConnectionLost, Message, PublishRefused
from .._jobs.copies import instance_of
from .._logs import log_job
from .._topology import QueueNames
from .control import SETTLE_TIMEOUT
from .ending import message_of, moved
from .loans import Done, Lately
from .performing import Running

logger = logging.getLogger("roger_trio.jobs")


class Settler:
    """Settles the deliveries of one queue: all that a job has, each on what brought it.

    A job whose deliveries are lost has none: then there is nothing to settle, and the broker gives
    it to somebody.

    Args:
        broker: Where what follows is published.
        names: The queue's broker queues.
        done: Takes what is settled, and may come back.
    """

    def __init__(self, broker: Broker, names: QueueNames, done: Lately[Done]) -> None:
        self._broker = broker
        self._names = names
        self._done = done

    async def publish(
        self, running: Running, queue: str, *messages: Message, delay: float = 0.0
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
        self.give_up(running, f"cannot go on to queue {queue!r} ({trouble})")
        return False

    def give_up(self, running: Running, trouble: str) -> None:
        """Give a job back, as what must come before its settlement could not be done."""
        text = "%s; it is given back and runs again"
        log_job(logger, logging.ERROR, running.envelope, text, trouble)
        self.give_back(running)

    def ack(self, running: Running) -> bool:
        """Settle: it is done with. Return whether that is on its way to the broker."""
        running.is_settled = True
        is_on_its_way = bool(running.loans)
        for loan in running.loans:
            try:
                loan.delivery.ack()
            except ConnectionLost:
                is_on_its_way = False
        return is_on_its_way

    def finish(self, running: Running) -> None:
        """Settle: this copy has ended, and whoever still gets it must not start it again."""
        self._settle(running, running.copy)

    def pass_on(self, running: Running) -> None:
        """Settle: this copy has moved on to another message, in whichever queue."""
        self._settle(running, instance_of(running.envelope))

    def _settle(self, running: Running, done: Done) -> None:
        if self.ack(running):
            for loan in running.loans:
                loan.origin.note_settled(done)
            return
        self._done.add(done)
        text = "its connection went before it could be settled: that is done when it comes back"
        log_job(logger, logging.INFO, running.envelope, text)

    def give_back(self, running: Running) -> None:
        """Settle: the broker takes it back."""
        running.is_settled = True
        for loan in running.loans:
            with suppress(ConnectionLost):  # Then the broker takes it back by itself.
                loan.delivery.give_back()

    async def abandon(self, running: Running) -> None:
        """Give back a job that did not end, without spending an attempt or counting a death."""
        running.is_settled = True  # It must not be given the copy that is about to be published.
        again = self._names.redelivered
        if not any(loan.delivery.queue == again for loan in running.loans):
            self.give_back(running)
        elif await self.publish(running, again, message_of(moved(running.envelope))):
            self.pass_on(running)
