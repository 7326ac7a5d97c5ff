"""The end of a job: what follows from its outcome is published, told, called and settled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, assert_never

import attrs

from .._brokers.base import Message
from .._config import MAX_DELAY
from .._jobs import buried, outcome as o, wire
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._logs import log_job
from .burial import BuriedLimit
from .control import new_attempt
from .ending import log_end, message_of
from .hooks import Hooks
from .loans import Loan
from .performing import Running
from .settings import WorkerSettings
from .settling import Settler

logger = logging.getLogger("roger_trio.jobs")

OnOutcome = Callable[[Envelope, o.Outcome, o.Settlement], None]


def has_keys(envelope: Envelope) -> bool:
    """Tell whether the coordinator has to hear of the end of a job."""
    return envelope.queue_key is not None or envelope.execution_key is not None


class Concluder:
    """Does what follows from outcomes.

    Args:
        settings: Of the queue.
        settler: Settles and publishes.
        hooks: The user's callbacks.
        on_outcome: Called with each outcome, before anything is done about it.
    """

    def __init__(
        self, settings: WorkerSettings, settler: Settler, hooks: Hooks, on_outcome: OnOutcome
    ) -> None:
        self._settings = settings
        self._control = settings.control
        self._settler = settler
        self._hooks = hooks
        self._on_outcome = on_outcome
        self._limit = BuriedLimit(settings.broker, settings.names.buried, settings.max_buried)

    async def conclude(
        self,
        running: Running,
        outcome: o.Outcome,
        job_type: type[Job] | None = None,
        state: Any = None,
    ) -> None:
        """Do what follows from an outcome: publish, tell, call back, settle. In this order.

        So a crash on the way repeats a callback or a job rather than skipping it. Once what must
        follow is confirmed, nothing keeps the delivery from being settled; if that is lost by
        then, it is settled when it comes back.

        Args:
            running: The job.
            outcome: What became of it.
            job_type: Its class, where it is known.
            state: What its `before_run` returned.
        """
        envelope = running.envelope
        # Who cancels the job from here on is told how it ended: nothing was awaited since.
        settlement = running.settlement = self._decide(envelope, job_type, outcome)
        self._on_outcome(envelope, outcome, settlement)
        log_end(envelope, outcome, settlement)
        if isinstance(settlement, o.GiveBack):
            await self._settler.abandon(running)
        elif isinstance(settlement, o.LeaveAlone):
            running.is_settled = True
        elif isinstance(settlement, o.Conclude):
            await self._conclude_cancelled(running)
        elif await self._publish_what_follows(running, settlement):
            if not isinstance(settlement, o.RunAgain):
                self._control.finished.add(envelope.id)
            try:
                await self._call_back(envelope, outcome, settlement, state)
            finally:
                self._settler.finish(running)
            if isinstance(settlement, o.PutAway):
                await self._limit.enforce()

    async def _conclude_cancelled(self, running: Running) -> None:
        """See whether this is the first to meet the end of a cancelled job; settle it."""
        envelope = running.envelope
        is_first = await self._control.conclude(envelope, running.attempt or new_attempt())
        if is_first is None:
            text = "cancelled, but that could not be noted; it is given back, and met again"
            log_job(logger, logging.ERROR, envelope, text)
            await self._settler.abandon(running)
            return
        self._control.finished.add(envelope.id)
        try:
            if is_first:
                await self._hooks.call("on_cancel", envelope)
        finally:
            self._settler.finish(running)

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

    async def _publish_what_follows(self, running: Running, settlement: o.Settlement) -> bool:
        """Publish the retry or the burial, and free the job's keys; return whether to settle it.

        A job that comes back frees its execution key first, as it may be back at once; one that is
        over does it last, as from then on its copies are forgotten.
        """
        names, settler, envelope = self._settings.names, self._settler, running.envelope
        match settlement:
            case o.RunAgain(delay, retry_count):
                if not await self._free_keys(running, self._control.requeue):
                    return False
                edition = envelope.edition + 1
                again = attrs.evolve(
                    envelope,
                    retry_count=retry_count,
                    deaths=0,
                    edition=edition,
                    moves=0,
                    orphaned=False,
                )
                message, wait = message_of(again), min(delay, MAX_DELAY)
                return await settler.publish(running, names.work, message, delay=wait)
            case o.PutAway(error):
                forms = [message_of(envelope, each) for each in buried.errors_of(error)]
                if not await settler.publish(running, names.buried, *forms):
                    return False
                return await self._free_keys(running, self._control.release)
            case o.Finish():
                if not has_keys(envelope):
                    return True  # The usual case, without another call.
                return await self._free_keys(running, self._control.release)
            case o.Conclude() | o.LeaveAlone() | o.GiveBack():
                return True
            case _:
                assert_never(settlement)

    async def forget(self, running: Running, *, is_over: bool) -> None:
        """Settle a copy of a job that has ended before, and free what this delivery was given.

        Args:
            running: The job.
            is_over: Whether it ended for good.
        """
        free = self._control.release if is_over else self._control.requeue
        if not await self._free_keys(running, free):
            return
        if is_over:
            self._control.finished.add(running.envelope.id)
        text = "it has ended before; this copy of it is settled"
        log_job(logger, logging.INFO, running.envelope, text)
        self._settler.ack(running)

    async def _free_keys(
        self, running: Running, tell: Callable[[Envelope, str], Awaitable[str]]
    ) -> bool:
        """Tell the coordinator of the end of a job that has a key, else give the delivery back."""
        envelope = running.envelope
        if not has_keys(envelope):
            return True
        trouble = await tell(envelope, running.attempt)
        if trouble:
            self._settler.give_up(running, f"its keys cannot be freed ({trouble})")
        return not trouble

    async def _call_back(
        self, envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement, state: Any
    ) -> None:
        match outcome, settlement:
            case o.Succeeded(result), _:
                await self._hooks.call("after_run", envelope, result, state)
            case _, o.PutAway(error):
                await self._hooks.call("on_buried", envelope, error, state)
            case (o.Failed(error) | o.NotRunnable(error) | o.RetryRequested(error), _):
                await self._hooks.call("on_error", envelope, error, state)
            case _:
                pass  # Snoozed and discarded jobs neither succeeded nor failed.

    async def bury_foreign(self, loan: Loan, error: wire.NotAJob) -> None:
        """Bury a payload that is not a job, as it is, with the reason beside it."""
        settings, delivery = self._settings, loan.delivery
        envelope = buried.foreign(
            delivery.message_id, partition=settings.partition, queue=settings.queue
        )
        running = Running(envelope, [loan])
        forms = [
            Message(delivery.body, envelope.id, buried.headers_of(each))
            for each in buried.errors_of(error)
        ]
        log_job(logger, logging.ERROR, envelope, "buried, as it is not a job: %s", error.reason)
        if await self._settler.publish(running, settings.names.buried, *forms):
            try:
                await self._hooks.call("on_buried", envelope, error, None)
            finally:
                self._settler.ack(running)
            await self._limit.enforce()
