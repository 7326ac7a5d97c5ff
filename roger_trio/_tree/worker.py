"""The worker: one delivery, one outcome, one settlement."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, assert_never

import attrs
import trio

from .._brokers.base import Broker, BrokerError, ConnectionLost, Delivery, Message
from .._errors import RogerError
from .._jobs import buried, outcome as o, wire
from .._jobs.callbacks import Callbacks, overridden
from .._jobs.context import AmbientClient, current_client, current_envelope
from .._jobs.envelope import Envelope, JobError
from .._jobs.job import Job
from .._logs import log_job
from .._topology import QueueNames
from .performing import Running, is_failure, perform

logger = logging.getLogger("roger_trio.jobs")

SETTLE_TIMEOUT: Final = 10.0
"""Seconds that what must follow a job may take to be confirmed, also while the node stops."""


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
        self.survived: set[str] = set()
        """Ids of jobs whose delivery was lost with a connection while this process lived on."""

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

    async def _run(self, delivery: Delivery, running: Running) -> None:
        envelope = running.envelope
        self.running.add(running)
        try:
            job_type, outcome, state = await self._reach_outcome(delivery, running)
            await self._conclude(delivery, envelope, job_type, outcome, state)
        finally:
            self.running.discard(running)

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
            except RogerError as exc:
                return None, o.NotRunnable(exc), state
            job_type = type(job)
            running.in_thread = job_type.runs_in_thread
            started = monotonic()
            outcome = await perform(job, running, self._threads)
        except trio.Cancelled:
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
        _log_end(envelope, outcome, settlement)
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
                await self._limit_buried()

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
                message = _message(again)
                return await self._publish(delivery, envelope, names.work, message, delay)
            case o.PutAway(error):
                message = _message(envelope, buried.error_of(error))
                return await self._publish(delivery, envelope, names.buried, message)
            case o.Finish() | o.LeaveAlone() | o.GiveBack():
                return True
            case _:
                assert_never(settlement)

    async def _publish(
        self,
        delivery: Delivery,
        envelope: Envelope,
        queue: str,
        message: Message,
        delay: float = 0.0,
    ) -> bool:
        """Publish within `SETTLE_TIMEOUT`, else give the delivery back: nothing is lost."""
        trouble: object = f"it was not confirmed within {SETTLE_TIMEOUT:g} s"
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
            try:
                await self._settings.broker.publish(queue, message, delay=delay)
            except BrokerError as exc:
                trouble = exc
            else:
                return True
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
        elif await self._publish(delivery, envelope, delivery.queue, _message(envelope)):
            self._ack(delivery, envelope)

    # What was handed out before, or is no job...

    async def _admit(self, delivery: Delivery, envelope: Envelope) -> bool:
        """Decide whether a redelivered job may start; if not, see to it."""
        redelivered = self._settings.names.redelivered
        admission = o.admit(
            redelivered=delivery.redelivered,
            in_redelivered_queue=delivery.queue == redelivered,
            deaths=envelope.deaths,
            survived=envelope.id in self.survived,
            max_deliveries=self._settings.max_deliveries,
        )
        self.survived.discard(envelope.id)
        match admission:
            case o.Run():
                return True
            case o.Requeue(deaths):
                message = _message(attrs.evolve(envelope, deaths=deaths))
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
        headers = {buried.ERROR_HEADER: buried.dump_error(buried.error_of(error))}
        message = Message(delivery.body, envelope.id, headers)
        log_job(logger, logging.ERROR, envelope, "buried, as it is not a job: %s", error.reason)
        if await self._publish(delivery, envelope, settings.names.buried, message):
            try:
                await self._call("on_buried", envelope, error, None)
            finally:
                self._ack(delivery, envelope)
            await self._limit_buried()

    async def _limit_buried(self) -> None:
        """Drop the oldest buried jobs beyond `max_buried`."""
        limit, queue = self._settings.max_buried, self._settings.names.buried
        if limit is None:
            return
        broker = self._settings.broker
        dropped = 0
        try:
            excess = (await broker.count(queue)).messages - limit
            if excess > 0:
                async with broker.browse(queue, excess) as oldest:
                    for delivery in oldest:
                        delivery.ack()
                        dropped += 1
        except BrokerError as exc:
            logger.warning("queue %r could not be kept to %d jobs: %s", queue, limit, exc)
        if dropped:
            text = "dropped %d of the oldest buried jobs of %s/%s: max_buried is %d"
            where = (self._settings.partition, self._settings.queue)
            logger.warning(text, dropped, *where, limit)


def _log_end(envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement) -> None:
    """Log how an attempt ended, where it did not succeed."""
    match outcome, settlement:
        case o.Succeeded(), _:
            pass
        case (
            o.Failed(error) | o.NotRunnable(error) | o.RetryRequested(error),
            o.RunAgain(delay, count),
        ):
            kind = type(error).__name__
            text = "attempt %d failed, the next one is in %g s: %s: %s"
            log_job(logger, logging.WARNING, envelope, text, count, delay, kind, error)
        case _, o.PutAway(error):
            text = "buried after %d retries: %s: %s"
            kind = type(error).__name__
            count = envelope.retry_count
            log_job(logger, logging.ERROR, envelope, text, count, kind, error, error=error)
        case o.Failed(error), _:
            kind = type(error).__name__
            text = "failed: %s: %s"
            log_job(logger, logging.ERROR, envelope, text, kind, error, error=error)
        case o.Snoozed(seconds), _:
            log_job(logger, logging.INFO, envelope, "snoozed for %g s", seconds)
        case o.Discarded(reason), _:
            log_job(logger, logging.INFO, envelope, "discarded: %s", reason or "no reason given")
        case o.Interrupted(), _:
            log_job(logger, logging.WARNING, envelope, "interrupted as the node stops; given back")
        case o.DeliveryLost(), _:
            text = "cancelled, as the connection that brought it is gone; the broker redelivers it"
            log_job(logger, logging.WARNING, envelope, text)
        case _:
            pass


def _message(envelope: Envelope, error: JobError | None = None) -> Message:
    headers = {buried.ERROR_HEADER: buried.dump_error(error)} if error is not None else None
    return Message(wire.dump(envelope), envelope.id, headers)
