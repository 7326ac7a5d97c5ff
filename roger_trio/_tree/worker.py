"""The worker: one delivery, one outcome, one settlement."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol, assert_never

import attrs
import trio

from .._brokers.base import Broker, BrokerError, ConnectionLost, Delivery, Message
from .._config import MAX_DELAY
from .._jobs import buried, outcome as o, wire
from .._jobs.callbacks import Callbacks, overridden
from .._jobs.context import AmbientClient, current_client, current_envelope
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._logs import log_job
from .._state import operations as op
from .._topology import QueueNames
from .burial import BuriedLimit
from .control import SETTLE_TIMEOUT, Control, Verdict, new_attempt
from .ending import log_end, message_of, waiting_message, was_forwarded
from .performing import Running, StopReason, is_failure, perform, stopped
from .settling import Settler

logger = logging.getLogger("roger_trio.jobs")

_MAX_SURVIVORS: Final = 10_000
"""Ids of lost deliveries that are remembered at most; forgetting one counts a death too many."""


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """What all workers of a queue share."""

    partition: str
    queue: str
    names: QueueNames
    waiting: str
    """The broker queue of the jobs that wait for an execution key."""
    broker: Broker
    control: Control
    client: AmbientClient
    callbacks: Callbacks
    retry_levels: tuple[float, ...]
    max_deliveries: int
    max_buried: int | None


class Origin(Protocol):
    """What brings deliveries: a session."""

    async def flush(self) -> None:
        """Wait until every settlement so far has left this process."""
        ...


class Worker:
    """Turns deliveries of one queue into outcomes and settles each exactly once.

    One object serves all workers of the queue; `running` says what they do.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._control = settings.control
        self.view = settings.control.view
        """What is known of the partition."""
        self._settler = Settler(settings.broker, settings.names)
        self._hooks = overridden(settings.callbacks)
        # Plain functions run in as many threads as there are workers; that is their limit.
        self._threads = trio.CapacityLimiter(math.inf)
        self.running: set[Running] = set()
        """The jobs that run now, and those that wait for leave to."""
        self.is_paused = False
        """Whether no job must be started: those that wait for leave to are given back."""
        self._ended = trio.lowlevel.ParkingLot()
        self._limit = BuriedLimit(settings.broker, settings.names.buried, settings.max_buried)
        self._survived: set[str] = set()
        self._moving: set[str] = set()
        """Ids of jobs on their way to the redelivered ones, until the old delivery is settled."""

    async def handle(self, delivery: Delivery, session: Origin, arrival: int = 0) -> None:
        """Turn a delivery into an outcome and settle it.

        Args:
            delivery: The delivery.
            session: What brought it; kept with the running job.
            arrival: Numbers the session's deliveries as they came in.

        Cancellation: a job that did not end is given back, and `trio.Cancelled` goes on.
        """
        settings = self._settings
        came_back = delivery.redelivered or delivery.queue == settings.names.redelivered
        try:
            envelope = wire.load(
                delivery.body,
                partition=settings.partition,
                queue=settings.queue,
                redelivered=came_back and (delivery.redelivered or not was_forwarded(delivery)),
                started_at=datetime.now(UTC),
            )
        except wire.NotAJob as exc:
            await self._bury_foreign(delivery, exc)
            return
        current_envelope.set(envelope)
        current_client.set(settings.client)
        if not came_back or await self._admit(delivery, envelope, session):
            await self._run(delivery, Running(envelope, session, arrival), came_back=came_back)

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
                self._settler.give_back(each)
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

    async def _run(self, delivery: Delivery, running: Running, *, came_back: bool) -> None:
        envelope = running.envelope
        if came_back and self._copies(running):
            running.wait_turn = partial(self._wait_turn, running)
        self.running.add(running)
        try:
            if (
                not came_back
                and envelope.queue_key is None
                and envelope.execution_key is None
                and envelope.id not in self.view.cancelled
                and monotonic() < self.view.fresh_until
            ) or await self._gain_leave(delivery, running):
                job_type, outcome, state = await self._reach_outcome(delivery, running)
                await self._conclude(delivery, running, job_type, outcome, state)
        finally:
            self.running.discard(running)
            self._ended.unpark_all()

    def turn_away(self, reason: StopReason) -> None:
        """Give back the jobs that wait for leave to start."""
        for each in self.running:
            if each.asking is not None:
                each.stop(reason)

    async def wait_ended(self, running: Running) -> None:
        """Wait until all that follows a job has been done."""
        while running in self.running:
            await self._ended.park()

    def _copies(self, running: Running) -> list[Running]:
        """Find the same job, still running here though its delivery was lost."""
        id = running.envelope.id
        return [each for each in self.running if each.envelope.id == id and each is not running]

    async def _wait_turn(self, running: Running) -> None:
        while any(each.wait_turn is None for each in self._copies(running)):
            await self._ended.park()
        running.wait_turn = None

    # Leave to start...

    async def _gain_leave(self, delivery: Delivery, running: Running) -> bool:
        """Find out whether a job may start; if not, see to it."""
        verdict: Verdict | None = None
        try:
            with trio.CancelScope() as running.asking:
                if not self.is_paused and running.stopped is None:
                    verdict = await self._ask_leave(running)
        except BrokerError as exc:  # The broker will never take the question.
            await self._conclude(delivery, running, None, o.NotRunnable(exc), None)
            return False
        except BaseException:
            await self._settler.abandon(delivery, running.envelope)
            raise
        finally:
            running.asking = None
        if running.stopped is None and self.is_paused:
            running.stop(StopReason.PAUSED)
        if running.stopped is not None and not isinstance(verdict, op.Finished):
            await self._conclude(delivery, running, None, stopped(running), None)
            return False
        return await self._follow(delivery, running, verdict)

    async def _ask_leave(self, running: Running) -> Verdict:
        envelope = running.envelope
        if running.wait_turn is not None:
            await running.wait_turn()
        await self.view.freshen()
        if not self._control.needs_leave(envelope):
            return op.Run()
        running.attempt = new_attempt()
        return await self._control.ask_leave(envelope, running.attempt, running.arrival)

    async def _follow(self, delivery: Delivery, running: Running, verdict: Verdict | None) -> bool:
        """Do what the coordinator has said; return whether the job is to be started."""
        envelope, settler = running.envelope, self._settler
        match verdict:
            case op.Run():
                self._control.finished.discard(envelope.id)
                return True
            case op.Wait():
                message = waiting_message(envelope, self._settings.names.redelivered)
                if await settler.publish(delivery, envelope, self._settings.waiting, message):
                    settler.ack(delivery, envelope)
            case op.Cancelled():
                await self._conclude(delivery, running, None, o.Cancelled(), None)
            case op.Finished():
                text = "it has ended before; this copy of it is forgotten"
                log_job(logger, logging.DEBUG, envelope, text)
                settler.ack(delivery, envelope)
            case op.Duplicate(job):
                text = (
                    "not started: its queue key %r went to job %s, as its own enqueue was never "
                    "confirmed"
                )
                log_job(logger, logging.WARNING, envelope, text, envelope.queue_key, job)
                settler.ack(delivery, envelope)
            case None:
                await settler.abandon(delivery, envelope)
            case _:
                assert_never(verdict)
        return False

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
                if running.stopped is StopReason.CANCELLED:
                    return None, stopped(running), state
                return None, o.NotRunnable(exc), state
            job_type = type(job)
            started = monotonic()
            outcome = await perform(job, running, self._threads)
        except BaseException:
            await self._settler.abandon(delivery, envelope)
            raise
        if logger.isEnabledFor(logging.INFO) and isinstance(outcome, o.Succeeded):
            seconds = monotonic() - started
            log_job(logger, logging.INFO, envelope, "succeeded in %.3f s", seconds)
        return job_type, outcome, state

    # Concluding...

    async def _conclude(
        self,
        delivery: Delivery,
        running: Running,
        job_type: type[Job] | None,
        outcome: o.Outcome,
        state: Any,
    ) -> None:
        """Do what follows from an outcome: publish, tell, call back, settle. In this order.

        So a crash on the way repeats a callback or a job rather than skipping it. Once what must
        follow is confirmed, nothing keeps the delivery from being settled.
        """
        envelope = running.envelope
        # Who cancels the job from here on is told how it ended: nothing was awaited since.
        settlement = running.settlement = self._decide(envelope, job_type, outcome)
        log_end(envelope, outcome, settlement)
        if isinstance(settlement, o.GiveBack):
            await self._settler.abandon(delivery, envelope)
        elif isinstance(settlement, o.LeaveAlone):
            pass
        elif isinstance(settlement, o.Conclude):
            await self._conclude_cancelled(delivery, running)
        elif await self._publish_what_follows(delivery, running, settlement):
            if not isinstance(settlement, o.RunAgain):
                self._control.finished.add(envelope.id)
            try:
                await self._call_back(envelope, outcome, settlement, state)
            finally:
                self._settler.ack(delivery, envelope)
            if isinstance(settlement, o.PutAway):
                await self._limit.enforce()

    async def _conclude_cancelled(self, delivery: Delivery, running: Running) -> None:
        """See whether this is the first to meet the end of a cancelled job; settle it."""
        envelope = running.envelope
        is_first = await self._control.conclude(envelope, running.attempt or new_attempt())
        if is_first is None:
            text = "cancelled, but that could not be noted; it is given back, and met again"
            log_job(logger, logging.ERROR, envelope, text)
            await self._settler.abandon(delivery, envelope)
            return
        self._control.finished.add(envelope.id)
        try:
            if is_first:
                await self._call("on_cancel", envelope)
        finally:
            self._settler.ack(delivery, envelope)

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
        self, delivery: Delivery, running: Running, settlement: o.Settlement
    ) -> bool:
        """Publish the retry or the burial, and free the job's keys; return whether to settle it.

        A job that comes back frees its execution key first, as it may be back at once; one that is
        over does it last, as from then on its copies are forgotten.
        """
        names, settler, envelope = self._settings.names, self._settler, running.envelope
        match settlement:
            case o.RunAgain(delay, retry_count):
                if not await self._free_keys(delivery, running, self._control.requeue):
                    return False
                again = attrs.evolve(envelope, retry_count=retry_count, deaths=0)
                message, wait = message_of(again), min(delay, MAX_DELAY)
                return await settler.publish(delivery, envelope, names.work, message, delay=wait)
            case o.PutAway(error):
                forms = [message_of(envelope, each) for each in buried.errors_of(error)]
                if not await settler.publish(delivery, envelope, names.buried, *forms):
                    return False
                return await self._free_keys(delivery, running, self._control.release)
            case o.Finish():
                if envelope.queue_key is None and envelope.execution_key is None:
                    return True  # The usual case, without another call.
                return await self._free_keys(delivery, running, self._control.release)
            case o.Conclude() | o.LeaveAlone() | o.GiveBack():
                return True
            case _:
                assert_never(settlement)

    async def _free_keys(
        self,
        delivery: Delivery,
        running: Running,
        tell: Callable[[Envelope, str], Awaitable[str]],
    ) -> bool:
        """Tell the coordinator of the end of a job that has a key, else give the delivery back."""
        envelope = running.envelope
        if envelope.queue_key is None and envelope.execution_key is None:
            return True
        trouble = await tell(envelope, running.attempt)
        if trouble:
            text = f"its keys cannot be freed ({trouble})"
            self._settler.give_up(delivery, envelope, text)
        return not trouble

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

    # What was handed out before, or is no job...

    async def _admit(self, delivery: Delivery, envelope: Envelope, session: Origin) -> bool:
        """Decide whether a redelivered job may start; if not, see to it."""
        admission = o.admit(
            redelivered=delivery.redelivered,
            in_redelivered_queue=delivery.queue == self._settings.names.redelivered
            and not was_forwarded(delivery),
            deaths=envelope.deaths,
            survived=envelope.id in self._survived,
            max_deliveries=self._settings.max_deliveries,
        )
        self._survived.discard(envelope.id)
        match admission:
            case o.Run():
                await self._wait_moved(delivery, envelope)
                return True
            case o.Requeue(deaths):
                again = attrs.evolve(envelope, deaths=deaths)
                await self._move(delivery, again, session)
            case o.PutAway(error):
                is_cancelled = envelope.id in self.view.cancelled
                outcome = o.Cancelled() if is_cancelled else o.BuryRequested(error)
                await self._conclude(delivery, Running(envelope, session), None, outcome, None)
            case _:
                assert_never(admission)
        return False

    async def _move(self, delivery: Delivery, envelope: Envelope, session: Origin) -> None:
        """Publish a job to the redelivered ones, settle the old delivery, and let the new start.

        Not sooner: a job that kills this process while the settlement has not left it would be in
        the broker twice, each copy with deaths of its own.
        """
        self._moving.add(envelope.id)
        try:
            redelivered = self._settings.names.redelivered
            if await self._settler.publish(delivery, envelope, redelivered, message_of(envelope)):
                self._settler.ack(delivery, envelope)
                with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
                    await session.flush()
        finally:
            self._moving.discard(envelope.id)
            self._ended.unpark_all()

    async def _wait_moved(self, delivery: Delivery, envelope: Envelope) -> None:
        """Wait until the delivery this one comes from has been settled."""
        try:
            while envelope.id in self._moving:
                await self._ended.park()
        except trio.Cancelled:
            await self._settler.abandon(delivery, envelope)
            raise

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
        if await self._settler.publish(delivery, envelope, settings.names.buried, *forms):
            try:
                await self._call("on_buried", envelope, error, None)
            finally:
                self._settler.ack(delivery, envelope)
            await self._limit.enforce()
