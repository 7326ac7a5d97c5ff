"""Performing one job in its scope: in a task, a thread or a process, and what its end means."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final

import attrs
import trio

from .._errors import JobCrashed, JobTimeout
from .._jobs import function, outcome as o
from .._jobs.copies import Copy, copy_of
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.signals import Bury, Discard, Retry, Snooze
from . import process_pool
from .loans import Loan
from .process_pool import CannotStart, ProcessPool

_IN_PROCESS: Final = "roger_trio._jobs.in_process"  # by name: imported where it is needed
_MACHINERY: Final = frozenset((__name__, function.__name__, process_pool.__name__, _IN_PROCESS))
"""Modules of ours whose frames come before the user's."""


class StopReason(Enum):
    """Why a running job was cancelled from outside."""

    SHUTDOWN = "shutdown"
    LOST = "lost"
    """Its delivery went, and nobody knows better than to start it again."""
    CANCELLED = "cancelled"
    PAUSED = "paused"
    """Only for one that has not begun: it waits for leave to start."""


@attrs.define(eq=False)
class Running:
    """A job that runs now."""

    envelope: Envelope
    loans: list[Loan] = attrs.Factory(list)
    """Its deliveries: usually one. None: they are lost, and it is an orphan until it comes back.

    More than one: its delivery came back before the loss of the first one was noticed, or it has
    been in the broker twice.
    """
    arrival: int = 0
    """Numbers the deliveries of a session as they came in."""
    lost_at: float = math.inf
    """When it lost its last delivery, on Trio's clock."""
    wait_turn: Callable[[], Awaitable[None]] | None = None
    """Waits until no other copy of the job runs here, where there may be one."""
    in_thread: bool = False
    """Whether it runs in a thread now."""
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    stopped: StopReason | None = None
    attempt: str = ""
    """What the coordinator knows this delivery by, where it was asked."""
    asking: trio.CancelScope | None = None
    """Where it waits for leave to start, while it does."""
    has_begun: bool = False
    """Whether it was let start: until then it waits for leave."""
    settlement: o.Settlement | None = None
    """What follows from its outcome, from the moment that is known: then nothing stops it."""
    is_settled: bool = False
    """Whether its deliveries have been settled, or are about to be: it takes no others."""

    @property
    def copy(self) -> Copy:
        """Which copy of the job it is."""
        return copy_of(self.envelope)

    @property
    def is_orphan(self) -> bool:
        """Whether it goes on though its deliveries are lost."""
        return self.has_begun and not self.loans and self.stopped is not StopReason.LOST

    @property
    def is_beyond_stopping(self) -> bool:
        """Whether it goes on to its end, as it has ended or is in a thread."""
        return self.in_thread or self.settlement is not None

    def stop(self, reason: StopReason) -> None:
        """Cancel it; the first reason counts, but one who cancels the job is always told the truth.

        Who cancels a job that is already interrupted has it ended for good. Where its delivery is
        lost, the next one is met as cancelled.

        A thread cannot be stopped: when it is cancelled, it keeps its worker until it ends, lest
        the same job run twice; at shutdown it is left behind. A worker process is killed.
        """
        interrupted = self.stopped in (StopReason.SHUTDOWN, StopReason.PAUSED)
        if self.stopped is None or (interrupted and reason is StopReason.CANCELLED):
            self.stopped = reason
        if self.asking is not None:
            self.asking.cancel()
        if reason is StopReason.SHUTDOWN or not self.in_thread:
            self.scope.cancel()


async def perform(
    job: Job, running: Running, threads: trio.CapacityLimiter, processes: ProcessPool
) -> o.Outcome:
    """Perform a job in its scope; return what became of it.

    Cancellation: `trio.Cancelled` of a surrounding scope goes on; that of the job's own scope is
    an outcome. What a job raises as it is cancelled, whichever scope that was, is no failure.
    """
    if running.stopped is not None:
        return stopped(running)
    try:
        with running.scope:
            if running.wait_turn is not None:
                await running.wait_turn()
            if job.runs_in_thread:
                return await _in_thread(job, running, threads)
            if job.options.process:
                return await _in_process(job, running, processes)
            return await _in_task(job, running)
        return stopped(running)
    except BaseException as exc:
        # The handler stands outside the job's scope: what a job with its own nursery raises while
        # it is cancelled leaves the scope as a group without the scope's own cancellation.
        if isinstance(exc, trio.Cancelled) or holds(exc, KeyboardInterrupt):
            raise
        if trio.current_effective_deadline() == -math.inf:
            return o.Interrupted()
        return outcome_of(_without_our_frames(exc), running)


def _without_our_frames(exc: BaseException) -> BaseException:
    """Let the traceback begin where the user's code does."""
    trace = exc.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_globals.get("__name__", "")):
        trace = trace.tb_next
    return exc if trace is None else exc.with_traceback(trace)


def _is_machinery(module: str) -> bool:
    """Tell whether frames of a module stand between the worker and the user's function."""
    return module in _MACHINERY or module.startswith(("trio.", "outcome."))


async def _in_task(job: Job, running: Running) -> o.Outcome:
    limit = running.envelope.max_execution_time
    if limit is not None:
        running.scope.deadline = trio.current_time() + limit
    return _ended(running, await job.perform())


async def _in_process(job: Job, running: Running, processes: ProcessPool) -> o.Outcome:
    """Run a plain function in a worker process; its time counts from when it has one."""

    def start() -> None:
        limit = running.envelope.max_execution_time
        if limit is not None:
            running.scope.deadline = trio.current_time() + limit

    try:
        result = await processes.perform(job, running.envelope, start)
    except CannotStart as exc:
        return o.NotRunnable(exc)
    except JobCrashed as exc:
        return outcome_of(exc.with_traceback(None), running)
    return _ended(running, result)


def _ended(running: Running, result: Any) -> o.Outcome:
    """Say what it means that a job has returned."""
    if running.stopped is StopReason.CANCELLED:
        return stopped(running)  # Who cancelled it was told that it counts as cancelled.
    if running.stopped is None and running.scope.cancel_called:
        return stopped(running)  # It went on beyond its deadline, and took no notice.
    return o.Succeeded(result)


async def _in_thread(job: Job, running: Running, threads: trio.CapacityLimiter) -> o.Outcome:
    """Run a plain function; one that takes too long counts as timed out only once it ends."""
    limit = running.envelope.max_execution_time
    latest = math.inf if limit is None else trio.current_time() + limit
    running.in_thread = True
    error: Exception | None = None
    result: Any = None
    try:
        result = await trio.to_thread.run_sync(job.perform, abandon_on_cancel=True, limiter=threads)
    except Exception as exc:
        if trio.current_time() <= latest:
            raise
        error = exc
    if running.stopped is not None or trio.current_time() > latest:
        return stopped(running, error)
    return o.Succeeded(result)


def stopped(running: Running, cause: BaseException | None = None) -> o.Outcome:
    """Say what it means that a job was stopped, or took too long.

    Args:
        running: The job.
        cause: What it raised then.
    """
    match running.stopped:
        case StopReason.SHUTDOWN:
            return o.Interrupted()
        case StopReason.LOST:
            return o.DeliveryLost()
        case StopReason.CANCELLED:
            return o.Cancelled()
        case StopReason.PAUSED:
            return o.Postponed()
        case None:
            error = JobTimeout(running.envelope.max_execution_time or math.nan)
            error.__cause__ = cause
            return o.Failed(error)


def outcome_of(exc: BaseException, running: Running) -> o.Outcome:
    """Say what an exception that left a job means."""
    if running.stopped is not None or running.scope.cancel_called:
        return stopped(running, exc)
    match leaf := _only_leaf(exc):
        case Retry(after=after):
            return o.RetryRequested(leaf, after)
        case Snooze(seconds=seconds):
            return o.Snoozed(seconds)
        case Bury():
            return o.BuryRequested(leaf)
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
    return not holds(exc, trio.Cancelled) and not holds(exc, KeyboardInterrupt)


def holds(exc: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether an exception is of a kind, or is a group with one of that kind in it."""
    if isinstance(exc, BaseExceptionGroup):
        return any(holds(each, kind) for each in exc.exceptions)
    return isinstance(exc, kind)
