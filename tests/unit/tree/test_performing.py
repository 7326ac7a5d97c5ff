"""One job in its scope: what the end of it means."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._jobs import outcome as o
from roger_trio._jobs.context import current_envelope
from roger_trio._jobs.job import Job
from roger_trio._tree.performing import Running, StopReason, holds, is_failure, perform
from roger_trio._tree.process_pool import ProcessPool
from tests.unit.tree.fakes import make_envelope

STOPPED = [(StopReason.SHUTDOWN, o.Interrupted()), (StopReason.LOST, o.DeliveryLost())]


def job_of(function: Callable[[], Any]) -> Job:
    """Make a job of a function without arguments."""
    return roger.job(function).job()


def running(limit: float | None = None) -> Running:
    """Make what stands for a job that runs."""
    return Running(make_envelope(max_execution_time=limit))


async def outcome_of(
    function: Callable[[], Any], here: Running | None = None, *, limit: float | None = None
) -> o.Outcome:
    """Perform a function as a job."""
    threads = trio.CapacityLimiter(math.inf)
    return await perform(job_of(function), here or running(limit), threads, ProcessPool(1))


async def failure_of(function: Callable[[], Any], *, limit: float | None = None) -> BaseException:
    """Perform a function as a job that must fail; return its error."""
    outcome = await outcome_of(function, limit=limit)
    assert isinstance(outcome, o.Failed)
    return outcome.error


# Ends of a job's own...


async def test_what_perform_returns_is_the_result() -> None:
    """A job that returns has succeeded."""

    async def add() -> int:
        return 1 + 2

    assert await outcome_of(add) == o.Succeeded(3)


async def test_what_perform_raises_is_the_failure() -> None:
    """The error is the very exception, its traceback without frames of roger_trio."""
    error = ValueError("no")

    async def fail() -> NoReturn:
        raise error

    assert await failure_of(fail) is error
    assert error.__traceback__ is not None
    assert "roger_trio/_tree" not in error.__traceback__.tb_frame.f_code.co_filename


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "from-a-nursery"])
async def test_signals_are_instructions_also_from_a_nursery(wrapped: bool) -> None:
    """Retry, Snooze, Bury and Discard mean the same alone in the group of a nursery."""

    def raising(error: Exception) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            raise error

        async def ask_in_a_nursery() -> None:
            async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                outer.start_soon(trio.sleep_forever)
                inner.start_soon(ask)

        return ask_in_a_nursery if wrapped else ask

    retry = await outcome_of(raising(roger.Retry(5)))
    assert isinstance(retry, o.RetryRequested)
    assert retry.after == 5
    assert await outcome_of(raising(roger.Snooze(7))) == o.Snoozed(7)
    assert isinstance(await outcome_of(raising(roger.Bury("enough"))), o.BuryRequested)
    assert await outcome_of(raising(roger.Discard("old"))) == o.Discarded("old")


async def test_two_errors_of_a_nursery_are_one_failure() -> None:
    """Of a group with several errors none is picked: a signal beside an error is no instruction."""

    async def fail(error: Exception) -> None:
        raise error

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, roger.Retry(5))
            nursery.start_soon(fail, ValueError("no"))

    error = await failure_of(both)
    assert isinstance(error, ExceptionGroup)
    assert {type(each) for each in error.exceptions} == {roger.Retry, ValueError}


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()], ids=["exit", "generator-exit"])
async def test_what_would_end_the_program_is_a_failure_of_the_job(error: BaseException) -> None:
    """Only KeyboardInterrupt and Trio's cancellation are not the job's own."""

    async def leave() -> NoReturn:
        raise error

    assert await failure_of(leave) is error


async def test_a_keyboard_interrupt_goes_on() -> None:
    """Control-C in a job is the program's, bare or in the group of a nursery."""

    async def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    async def in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupted)

    with pytest.raises(KeyboardInterrupt):
        await outcome_of(interrupted)
    with pytest.raises(BaseExceptionGroup) as caught:
        await outcome_of(in_a_nursery)
    assert holds(caught.value, KeyboardInterrupt)
    assert not is_failure(caught.value)


# Timeouts...


async def test_a_job_is_cancelled_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Not before it, and as JobTimeout; its `finally` runs."""
    cleaned: list[float] = []

    async def dawdle() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    begun = trio.current_time()
    error = await failure_of(dawdle, limit=60)

    assert isinstance(error, roger.JobTimeout)
    assert error.__cause__ is None
    assert "60" in str(error)
    assert cleaned == [begun + 60]


async def test_a_job_that_ends_in_time_has_succeeded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A deadline that is not reached changes nothing."""

    async def hurry() -> str:
        await trio.sleep(59)
        return "done"

    assert await outcome_of(hurry, limit=60) == o.Succeeded("done")


@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_what_the_cleanup_of_a_late_job_raises_is_the_cause(
    autojump_clock: trio.testing.MockClock, in_a_nursery: bool
) -> None:
    """The failure stays a timeout, and hides nothing."""
    trouble = ValueError("in cleanup")

    async def dawdle() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise trouble

    async def two_dawdle() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dawdle)
            nursery.start_soon(trio.sleep_forever)

    error = await failure_of(two_dawdle if in_a_nursery else dawdle, limit=1)

    assert isinstance(error, roger.JobTimeout)
    cause = error.__cause__
    assert cause is trouble or (isinstance(cause, ExceptionGroup) and holds(cause, ValueError))


async def test_waiting_for_its_turn_is_not_the_jobs_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The deadline counts from the start of `perform`."""
    here = running(limit=5)

    async def wait_turn() -> None:
        await trio.sleep(100)

    async def use_the_time() -> None:
        await trio.sleep(4)

    here.wait_turn = wait_turn
    assert await outcome_of(use_the_time, here) == o.Succeeded(None)


# Being stopped...


@pytest.mark.parametrize(("reason", "expected"), STOPPED)
async def test_a_job_that_is_stopped_did_not_end(reason: StopReason, expected: o.Outcome) -> None:
    """Neither a success nor a failure, whatever its cleanup raises; the first reason counts."""
    begun: list[Running] = []

    async def tidy() -> None:
        await trio.sleep_forever()

    async def fall_over() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    async def fall_over_in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fall_over)
            nursery.start_soon(trio.sleep_forever)

    for function in (tidy, fall_over, fall_over_in_a_nursery):
        here = running(limit=1000)
        begun.append(here)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_soon, here, reason)
            assert await outcome_of(function, here) == expected
    assert all(each.stopped is reason for each in begun)


async def stop_soon(here: Running, reason: StopReason) -> None:
    """Stop a job once it runs, and again for another reason; who cancels it is another matter."""
    await trio.testing.wait_all_tasks_blocked()
    here.stop(reason)
    for each in (StopReason.SHUTDOWN, StopReason.LOST, StopReason.PAUSED):
        here.stop(each)


@pytest.mark.parametrize(("reason", "expected"), STOPPED)
async def test_a_job_stopped_before_it_began_is_not_begun(
    reason: StopReason, expected: o.Outcome
) -> None:
    """Nothing of it runs, also when it was waiting for its turn."""
    begun = False

    async def begin() -> None:
        nonlocal begun
        begun = True

    early = running()
    early.stop(reason)
    assert await outcome_of(begin, early) == expected
    waiting = running()
    waiting.wait_turn = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_soon, waiting, reason)
        assert await outcome_of(begin, waiting) == expected
    assert not begun


async def test_a_cancellation_from_outside_goes_on() -> None:
    """It is not the job's end, and no failure, even where cleanup raises on the way."""

    async def fall_over() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    with trio.CancelScope() as scope:
        scope.cancel()
        await outcome_of(trio.sleep_forever)
        pytest.fail("a cancelled job has no outcome")
    assert scope.cancelled_caught

    outcome: o.Outcome | None = None
    with trio.CancelScope() as scope:
        scope.cancel()
        outcome = await outcome_of(fall_over)
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert outcome == o.Interrupted()


# Plain functions...


async def test_a_plain_function_runs_in_a_thread_and_knows_its_job() -> None:
    """The event loop goes on meanwhile; current_job() works as in a task."""
    here = running()
    current_envelope.set(here.envelope)

    def look() -> tuple[int, roger.Envelope]:
        return threading.get_ident(), roger.current_job()

    outcome = await outcome_of(look, here)

    assert isinstance(outcome, o.Succeeded)
    thread, envelope = outcome.result
    assert thread != threading.get_ident()
    assert envelope is here.envelope


async def test_what_a_plain_function_raises_means_what_it_does_in_a_task() -> None:
    """Errors are failures, and signals are instructions."""

    def fail() -> NoReturn:
        raise LookupError("no")

    def snooze() -> NoReturn:
        raise roger.Snooze(3)

    def leave() -> NoReturn:
        raise SystemExit(3)

    assert isinstance(await failure_of(fail, limit=60), LookupError)
    assert isinstance(await failure_of(leave), SystemExit)
    assert await outcome_of(snooze) == o.Snoozed(3)


async def test_a_plain_function_that_ends_late_has_timed_out(
    mock_clock: trio.testing.MockClock,
) -> None:
    """It cannot be stopped, so its timeout counts when it ends; an error of it is the cause."""

    def return_late() -> str:
        trio.from_thread.run_sync(mock_clock.jump, 61)
        return "late"

    def raise_late() -> NoReturn:
        trio.from_thread.run_sync(mock_clock.jump, 61)
        raise LookupError("late")

    returned = await failure_of(return_late, limit=60)
    raised = await failure_of(raise_late, limit=60)

    assert isinstance(returned, roger.JobTimeout)
    assert returned.__cause__ is None
    assert isinstance(raised, roger.JobTimeout)
    assert isinstance(raised.__cause__, LookupError)


class Thread:
    """A plain function that runs until it is let go."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.ended = trio.Event()
        self.release = threading.Event()

    def job(self) -> Callable[[], None]:
        """Make the function."""

        def stay() -> None:
            trio.from_thread.run_sync(self.began.set)
            self.release.wait(30)
            with contextlib.suppress(trio.Cancelled):
                trio.from_thread.run_sync(self.ended.set)

        return stay


async def test_shutdown_leaves_a_thread_behind() -> None:
    """A node that stops does not wait for what it cannot stop."""
    here, thread = running(), Thread()
    outcomes: list[o.Outcome] = []

    async def run() -> None:
        outcomes.append(await outcome_of(thread.job(), here))

    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await thread.began.wait()
                here.stop(StopReason.SHUTDOWN)
        assert outcomes == [o.Interrupted()]
        assert not thread.ended.is_set()
    finally:
        thread.release.set()


@pytest.mark.parametrize("then_shutdown", [False, True])
async def test_a_thread_whose_delivery_is_lost_keeps_its_worker(then_shutdown: bool) -> None:
    """Until it ends, or the node stops: the copy that comes back must not run beside it."""
    here, thread = running(limit=30), Thread()
    outcomes: list[o.Outcome] = []

    async def run() -> None:
        outcomes.append(await outcome_of(thread.job(), here))

    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await thread.began.wait()
                here.stop(StopReason.LOST)
                await trio.testing.wait_all_tasks_blocked()
                assert outcomes == []
                if then_shutdown:
                    here.stop(StopReason.SHUTDOWN)
                else:
                    thread.release.set()
        assert outcomes == [o.DeliveryLost()]
        assert thread.ended.is_set() is not then_shutdown
    finally:
        thread.release.set()
