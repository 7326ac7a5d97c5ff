"""The worker: one delivery, one outcome, one settlement."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, Final, assert_never

import attrs
import trio

from .._brokers.base import (
    Broker,
    BrokerError,
    ConnectionLost,
    Delivery,
    Message,
    PublishRefused,
)
from .._config import MAX_DELAY
from .._jobs import buried, outcome as o, wire
from .._jobs.callbacks import Callbacks, overridden
from .._jobs.context import AmbientClient, current_client, current_envelope
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._logs import log_job
from .._topology import QueueNames
from .burial import BuriedLimit
from .ending import log_end, message_of
from .performing import Running, is_failure, perform

logger = logging.getLogger("roger_trio.jobs")

SETTLE_TIMEOUT: Final = 10.0
"""Seconds that what must follow a job may take to be confirmed, also while the node stops."""

_MAX_SURVIVORS: Final = 10_000
"""Ids of lost deliveries that are remembered at most; forgetting one counts a death too many."""


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """What all workers of a queue share."""

    partition: str
    queue: str
    names: QueueNames
    broker: Broker
    client: AmbientClient
    callbacks: Callbacks
    retry_levels: tuple[float, ...]
    max_deliveries: int
    max_buried: int | None


class Worker:
    """Turns deliveries of one queue into outcomes and settles each exactly once.

    One object serves all workers of the queue; `running` says what they do.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._hooks = overridden(settings.callbacks)
        # Plain functions run in as many threads as there are workers; that is their limit.
        self._threads = trio.CapacityLimiter(math.inf)
        self.running: set[Running] = set()
        """The jobs that run now."""
        self._ended = trio.lowlevel.ParkingLot()
        self._limit = BuriedLimit(settings.broker, settings.names.buried, settings.max_buried)
        self._survived: set[str] = set()

    async def handle(self, delivery: Delivery, session: object) -> None:
        """Turn a delivery into an outcome and settle it.

        Args:
            delivery: The delivery.
            session: What brought it; kept with the running job.

        Cancellation: a job that did not end is given back, and `trio.Cancelled` goes on.
        """
        settings = self._settings
        came_back = delivery.redelivered or delivery.queue == settings.names.redelivered
        try:
            envelope = wire.load(
                delivery.body,
                partition=settings.partition,
                queue=settings.queue,
                redelivered=came_back,
                started_at=datetime.now(UTC),
            )
        except wire.NotAJob as exc:
            await self._bury_foreign(delivery, exc)
            return
        current_envelope.set(envelope)
        current_client.set(settings.client)
        if not delivery.redelivered or await self._admit(delivery, envelope):
            await self._run(delivery, Running(envelope, session))

    # Running...

    def note_survivors(self, ids: Iterable[str]) -> None:
        """Note jobs whose delivery was lost with a connection while this process lives on."""
        if len(self._survived) > _MAX_SURVIVORS:  # Other nodes took them.
            self._survived.clear()
        self._survived.update(ids)

    async def return_untouched(self, deliveries: Iterable[Delivery]) -> None:
        """Give back deliveries that no worker has taken, without counting a death.

        Cancellation: they are given back all the same.
        """
        suspects: list[Delivery] = []
        for each in deliveries:
            if each.queue == self._settings.names.redelivered and not each.redelivered:
                suspects.append(each)
            else:
                self._give_back(each)
        if not suspects:
            return
        # What comes back from there counts as a death, so it is sent there anew instead.
        sent = False
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True), suppress(BrokerError):
            again = [Message(each.body, each.message_id) for each in suspects]
            await self._settings.broker.publish_many(self._settings.names.redelivered, again)
            sent = True
        with suppress(ConnectionLost):  # Then the broker takes them back by itself.
            for each in suspects:
                each.ack() if sent else each.give_back()

    async def _run(self, delivery: Delivery, running: Running) -> None:
        envelope = running.envelope
        if envelope.redelivered and self._copies(running):
            running.wait_turn = partial(self._wait_turn, running)
        self.running.add(running)
        try:
            job_type, outcome, state = await self._reach_outcome(delivery, running)
            await self._conclude(delivery, envelope, job_type, outcome, state)
        finally:
            self.running.discard(running)
            self._ended.unpark_all()

    def _copies(self, running: Running) -> list[Running]:
        """Find the same job, still running here though its delivery was lost."""
        id = running.envelope.id
        return [each for each in self.running if each.envelope.id == id and each is not running]

    async def _wait_turn(self, running: Running) -> None:
        while any(each.wait_turn is None for each in self._copies(running)):
            await self._ended.park()
        running.wait_turn = None

    async def _reach_outcome(
        self, delivery: Delivery, running: Running
    ) -> tuple[type[Job] | None, o.Outcome, Any]:
        """Perform the job; return its class, what became of it, and the callbacks' state."""
        envelope = running.envelope
        state: Any = None
        try:
            if "before_run" in self._hooks:
                state = await self._call("before_run", envelope)
            try:
                job = envelope.load()
            except Exception as exc:  # noqa: BLE001 -- the user's own checks may raise anything
                return None, o.NotRunnable(exc), state
            job_type = type(job)
            started = monotonic()
            outcome = await perform(job, running, self._threads)
        except BaseException:
            await self._abandon(delivery, envelope)
            raise
        if logger.isEnabledFor(logging.INFO) and isinstance(outcome, o.Succeeded):
            seconds = monotonic() - started
            log_job(logger, logging.INFO, envelope, "succeeded in %.3f s", seconds)
        return job_type, outcome, state

    # Concluding...

    async def _conclude(
        self,
        delivery: Delivery,
        envelope: Envelope,
        job_type: type[Job] | None,
        outcome: o.Outcome,
        state: Any,
    ) -> None:
        """Do what follows from an outcome: publish, call back, settle. In this order.

        So a crash on the way repeats a callback or a job rather than skipping it. Once what must
        follow is confirmed, nothing keeps the delivery from being settled.
        """
        settlement = self._decide(envelope, job_type, outcome)
        log_end(envelope, outcome, settlement)
        if isinstance(settlement, o.GiveBack):
            await self._abandon(delivery, envelope)
        elif isinstance(settlement, o.LeaveAlone):
            pass
        elif await self._publish_what_follows(delivery, envelope, settlement):
            try:
                await self._call_back(envelope, outcome, settlement, state)
            finally:
                self._ack(delivery, envelope)
            if isinstance(settlement, o.PutAway):
                await self._limit.enforce()

    def _decide(
        self, envelope: Envelope, job_type: type[Job] | None, outcome: o.Outcome
    ) -> o.Settlement:
        levels = job_type.options.retry_levels if job_type is not None else None
        return o.decide(
            outcome,
            retryable=job_type is not None and job_type.options.retryable,
            retry_count=envelope.retry_count,
            levels=self._settings.retry_levels if levels is None else levels,
        )

    async def _publish_what_follows(
        self, delivery: Delivery, envelope: Envelope, settlement: o.Settlement
    ) -> bool:
        """Publish the retry or the burial; return whether the delivery may be settled."""
        names = self._settings.names
        match settlement:
            case o.RunAgain(delay, retry_count):
                again = attrs.evolve(envelope, retry_count=retry_count, deaths=0)
                message, wait = message_of(again), min(delay, MAX_DELAY)
                return await self._publish(delivery, envelope, names.work, message, delay=wait)
            case o.PutAway(error):
                forms = [message_of(envelope, each) for each in buried.errors_of(error)]
                return await self._publish(delivery, envelope, names.buried, *forms)
            case o.Finish() | o.LeaveAlone() | o.GiveBack():
                return True
            case _:
                assert_never(settlement)

    async def _publish(
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
                    await self._settings.broker.publish(queue, message, delay=delay)
                    return True
                except PublishRefused as exc:
                    trouble = exc
                except BrokerError as exc:
                    trouble = exc
                    break
        text = "cannot go on to queue %r (%s); it is given back and runs again"
        log_job(logger, logging.ERROR, envelope, text, queue, trouble)
        self._give_back(delivery)
        return False

    async def _call_back(
        self, envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement, state: Any
    ) -> None:
        match outcome, settlement:
            case o.Succeeded(result), _:
                await self._call("after_run", envelope, result, state)
            case _, o.PutAway(error):
                await self._call("on_buried", envelope, error, state)
            case (o.Failed(error) | o.NotRunnable(error) | o.RetryRequested(error), _):
                await self._call("on_error", envelope, error, state)
            case _:
                pass  # Snoozed and discarded jobs neither succeeded nor failed.

    async def _call(self, hook: str, envelope: Envelope, *args: Any) -> Any:
        """Call one of the user's callbacks; its exceptions change nothing else."""
        if hook not in self._hooks:
            return None
        callback: Callable[..., Any] = getattr(self._settings.callbacks, hook)
        try:
            return await callback(envelope.partition, envelope, *args)
        except BaseException as exc:
            if not is_failure(exc):
                raise
            log_job(logger, logging.ERROR, envelope, "the callback %s failed", hook, error=exc)
            return None

    # Settling...

    def _ack(self, delivery: Delivery, envelope: Envelope) -> None:
        try:
            delivery.ack()
        except ConnectionLost:
            text = "its connection is gone before it could be settled, so it will run again"
            log_job(logger, logging.WARNING, envelope, text)

    def _give_back(self, delivery: Delivery) -> None:
        with suppress(ConnectionLost):  # Then the broker takes it back by itself.
            delivery.give_back()

    async def _abandon(self, delivery: Delivery, envelope: Envelope) -> None:
        """Give back a job that did not end, without spending an attempt or counting a death."""
        if delivery.queue != self._settings.names.redelivered:
            self._give_back(delivery)
        elif await self._publish(delivery, envelope, delivery.queue, message_of(envelope)):
            self._ack(delivery, envelope)

    # What was handed out before, or is no job...

    async def _admit(self, delivery: Delivery, envelope: Envelope) -> bool:
        """Decide whether a redelivered job may start; if not, see to it."""
        redelivered = self._settings.names.redelivered
        admission = o.admit(
            redelivered=delivery.redelivered,
            in_redelivered_queue=delivery.queue == redelivered,
            deaths=envelope.deaths,
            survived=envelope.id in self._survived,
            max_deliveries=self._settings.max_deliveries,
        )
        self._survived.discard(envelope.id)
        match admission:
            case o.Run():
                return True
            case o.Requeue(deaths):
                message = message_of(attrs.evolve(envelope, deaths=deaths))
                if await self._publish(delivery, envelope, redelivered, message):
                    self._ack(delivery, envelope)
            case o.PutAway(error):
                await self._conclude(delivery, envelope, None, o.BuryRequested(error), None)
            case _:
                assert_never(admission)
        return False

    async def _bury_foreign(self, delivery: Delivery, error: wire.NotAJob) -> None:
        """Bury a payload that is not a job, as it is, with the reason beside it."""
        settings = self._settings
        envelope = buried.foreign(
            delivery.message_id, partition=settings.partition, queue=settings.queue
        )
        forms = [
            Message(delivery.body, envelope.id, buried.headers_of(each))
            for each in buried.errors_of(error)
        ]
        log_job(logger, logging.ERROR, envelope, "buried, as it is not a job: %s", error.reason)
        if await self._publish(delivery, envelope, settings.names.buried, *forms):
            try:
                await self._call("on_buried", envelope, error, None)
            finally:
                self._ack(delivery, envelope)
            await self._limit.enforce()
