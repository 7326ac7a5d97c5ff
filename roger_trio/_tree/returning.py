"""Jobs that came back: whether one may start again, and what is known of those that had it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import assert_never

import attrs
import trio

from .._brokers.base import BrokerError, ConnectionLost, Delivery, Message
from .._control.fates import Fate
from .._jobs import outcome as o, wire
from .._jobs.copies import instance_of
from .concluding import Concluder
from .control import SETTLE_TIMEOUT
from .ending import message_of, moved, was_forwarded
from .performing import Running
from .settings import WorkerSettings
from .settling import Settler

logger = logging.getLogger("roger_trio.jobs")


class Returns:
    """Sees to the jobs of a queue that came back.

    Args:
        settings: Of the queue.
        settler: Settles and publishes.
        concluder: Does what follows from outcomes.
    """

    def __init__(self, settings: WorkerSettings, settler: Settler, concluder: Concluder) -> None:
        self._settings = settings
        self._settler = settler
        self._concluder = concluder
        self._moving: set[str] = set()
        """Ids of jobs on their way to the redelivered ones, until the old delivery is settled."""
        self._moved = trio.lowlevel.ParkingLot()

    async def judge(self, running: Running, delivery: Delivery) -> o.Admission:
        """Decide what to do with a job that came back.

        Of one that was handed out before the other nodes are asked: the one that had it may be
        running it still, without its delivery, or may have ended it. If it runs, the delivery
        goes back to the redelivered ones until that node gets it.

        Args:
            running: The job.
            delivery: How it came.
        """
        envelope = running.envelope
        in_redelivered_queue = delivery.queue == self._settings.names.redelivered
        while envelope.id in self._moving:
            await self._moved.park()
        if not (delivery.redelivered or envelope.orphaned):
            return o.Run()
        fate = here = self._settings.control.fate_of(instance_of(envelope))
        if not here.is_end:
            # Also of what was lost here: it may have come back from another node before.
            fate = await self._settings.control.find_fate(envelope, has=True)
        if fate is Fate.ABSENT:
            fate = here
        if fate.is_end:
            return o.Forget(is_over=fate is Fate.OVER)
        if fate is Fate.RUNS:
            return o.Requeue(envelope.deaths, orphaned=True)
        if not delivery.redelivered:
            return o.Run()
        return o.admit(
            in_redelivered_queue=in_redelivered_queue and not was_forwarded(delivery),
            deaths=envelope.deaths,
            survived=fate is Fate.SURVIVED,
            max_deliveries=self._settings.max_deliveries,
        )

    async def follow(self, running: Running, admission: o.Admission) -> bool:
        """Do what was decided; return whether leave to start is to be asked for.

        Also for a job that has ended: what another delivery of it took has to be freed.
        """
        match admission:
            case o.Run():
                return True
            case o.Requeue():
                await self._move(running, admission)
            case o.Forget():
                return True
            case o.PutAway(error):
                is_cancelled = running.envelope.id in self._settings.control.view.cancelled
                outcome = o.Cancelled() if is_cancelled else o.BuryRequested(error)
                await self._concluder.conclude(running, outcome)
            case _:
                assert_never(admission)
        return False

    async def _move(self, running: Running, admission: o.Requeue) -> None:
        """Publish a job to the redelivered ones, settle the old delivery, and let the new start.

        Not sooner: a job that kills this process while the settlement has not left it would be in
        the broker twice, each copy with deaths of its own.
        """
        envelope = running.envelope
        deaths, orphaned = admission.deaths, admission.orphaned
        message = message_of(moved(attrs.evolve(envelope, deaths=deaths, orphaned=orphaned)))
        self._moving.add(envelope.id)
        try:
            if await self._settler.publish(running, self._settings.names.redelivered, message):
                self._settler.pass_on(running)
                with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
                    for loan in running.loans:
                        await loan.origin.flush()
        finally:
            self._moving.discard(envelope.id)
            self._moved.unpark_all()

    def _moved_message(self, delivery: Delivery) -> Message:
        settings = self._settings
        try:
            envelope = wire.load(delivery.body, partition=settings.partition, queue=settings.queue)
        except wire.NotAJob:
            return Message(delivery.body, delivery.message_id)
        return message_of(moved(envelope))

    async def return_untouched(self, deliveries: Iterable[Delivery]) -> None:
        """Give back deliveries that no worker has taken, without counting a death.

        Cancellation: they are given back all the same.
        """
        suspects: list[Delivery] = []
        for each in deliveries:
            if each.queue == self._settings.names.redelivered and not each.redelivered:
                suspects.append(each)
            else:
                with suppress(ConnectionLost):  # Then the broker takes it back by itself.
                    each.give_back()
        if not suspects:
            return
        # What comes back from there counts as a death, so it is sent there anew instead.
        sent = False
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True), suppress(BrokerError):
            again = [self._moved_message(each) for each in suspects]
            await self._settings.broker.publish_many(self._settings.names.redelivered, again)
            sent = True
        with suppress(ConnectionLost):  # Then the broker takes them back by itself.
            for each in suspects:
                each.ack() if sent else each.give_back()
