"""Performing one job in its scope: in a task or in a thread, and what the end of it means."""

from __future__ import annotations

import math
from enum import Enum

import attrs
import trio

from .._errors import JobTimeout
from .._jobs import outcome as o
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.signals import Bury, Discard, Retry, Snooze


class StopReason(Enum):
    """Why a running job was cancelled from outside."""

    SHUTDOWN = "shutdown"
    LOST = "lost"


@attrs.define(eq=False)
class Running:
    """A job that runs now."""

    envelope: Envelope
    session: object = None
    """What brought its delivery."""
    in_thread: bool = False
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    stopped: StopReason | None = None

    def stop(self, reason: StopReason) -> None:
        """Cancel it; the first reason counts.

        A thread cannot be stopped: when its delivery is lost it keeps its worker until it ends,
        lest the same job run twice here; at shutdown it is left behind.
        """
        if self.stopped is None:
            self.stopped = reason
        if reason is StopReason.SHUTDOWN or not self.in_thread:
            self.scope.cancel()


async def perform(job: Job, running: Running, threads: trio.CapacityLimiter) -> o.Outcome:
    """Perform a job in its scope; return what became of it.

    Cancellation: `trio.Cancelled` of a surrounding scope goes on; that of the job's own scope is
    an outcome.
    """
    try:
        if running.in_thread:
            return await _in_thread(job, running, threads)
        return await _in_task(job, running)
    except BaseException as exc:
        # The handler stands outside the job's scope: what a job with its own nursery raises while
        # it is cancelled leaves the scope as a group without the scope's own cancellation.
        if not is_failure(exc):
            raise
        return outcome_of(_without_our_frames(exc), running)


def _without_our_frames(exc: BaseException) -> BaseException:
    """Let the traceback begin where the user's code does."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return exc.with_traceback(trace)


async def _in_task(job: Job, running: Running) -> o.Outcome:
    limit = running.envelope.max_execution_time
    if limit is not None:
        running.scope.deadline = trio.current_time() + limit
    with running.scope:
        return o.Succeeded(await job.perform())
    return _stopped(running)


async def _in_thread(job: Job, running: Running, threads: trio.CapacityLimiter) -> o.Outcome:
    """Run a plain function; one that takes too long counts as timed out only once it ends."""
    limit = running.envelope.max_execution_time
    started = trio.current_time()
    with running.scope:
        result = await trio.to_thread.run_sync(job.perform, abandon_on_cancel=True, limiter=threads)
        if running.stopped is StopReason.LOST:
            return o.DeliveryLost()
        if limit is not None and trio.current_time() - started > limit:
            return o.Failed(JobTimeout(limit))
        return o.Succeeded(result)
    return _stopped(running)


def _stopped(running: Running, cause: BaseException | None = None) -> o.Outcome:
    """Say what the cancellation of a job's scope means."""
    match running.stopped:
        case StopReason.SHUTDOWN:
            return o.Interrupted()
        case StopReason.LOST:
            return o.DeliveryLost()
        case None:
            error = JobTimeout(running.envelope.max_execution_time or math.nan)
            error.__cause__ = cause
            return o.Failed(error)


def outcome_of(exc: BaseException, running: Running) -> o.Outcome:
    """Say what an exception that left a job means."""
    if running.stopped is not None or running.scope.cancel_called:
        return _stopped(running, exc)
    match _only_leaf(exc):
        case Retry(after=after):
            return o.RetryRequested(exc, after)
        case Snooze(seconds=seconds):
            return o.Snoozed(seconds)
        case Bury():
            return o.BuryRequested(exc)
        case Discard(reason=reason):
            return o.Discarded(reason)
        case _:
            return o.Failed(exc)


def _only_leaf(exc: BaseException) -> BaseException:
    """Unwrap what a nursery in the job wrapped around a single exception."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def is_failure(exc: BaseException) -> bool:
    """Tell whether user code failed, or is being cancelled or interrupted from outside.

    `SystemExit` and asyncio's cancellation are failures of that job: neither may end the node.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(is_failure(each) for each in exc.exceptions)
    return not isinstance(exc, trio.Cancelled | KeyboardInterrupt)
