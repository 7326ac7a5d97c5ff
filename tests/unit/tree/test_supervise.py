"""Restarting what failed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import NoReturn

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from roger_trio._tree.supervise import RestartCount, RestartPolicy, supervise

Clock = trio.testing.MockClock


def failing(times: int, began: list[float]) -> Callable[[], Awaitable[None]]:
    """Make a task that notes when it begins, and fails so often."""

    async def task() -> None:
        began.append(trio.current_time())
        if len(began) <= times:
            raise LookupError(f"failure {len(began)}")

    return task


def pauses(began: list[float]) -> list[float]:
    """Say how long it took from each start to the next."""
    return [after - before for before, after in pairwise(began)]


def test_delays_double_to_the_maximum() -> None:
    """However often it fails, if a policy never gives up."""
    count = RestartCount(RestartPolicy(first_delay=1, max_delay=20, max_restarts=None, within=1e9))
    found = [count.next_delay(float(now)) for now in range(2000)]
    assert found[:6] == [1, 2, 4, 8, 16, 20]
    assert set(found[6:]) == {20}


def test_failures_are_forgotten_after_the_window() -> None:
    """Those within it still count; at its very end too."""
    count = RestartCount(RestartPolicy(first_delay=1, within=60))
    assert [count.next_delay(now) for now in (0, 10, 60)] == [1, 2, 4]
    assert count.next_delay(70.5) == 2  # those of 60 and now are left
    assert count.next_delay(1000) == 1


def test_one_failure_too_many_is_the_parents() -> None:
    """So many restarts there are, and no more; later on there are again."""
    count = RestartCount(RestartPolicy(first_delay=1, max_restarts=3, within=60))
    assert [count.next_delay(now) for now in (0, 1, 2, 3)] == [1, 2, 4, None]
    assert count.next_delay(100) == 1


@given(
    policy=st.builds(
        RestartPolicy,
        first_delay=st.floats(0.001, 10),
        max_delay=st.floats(10, 100),
        max_restarts=st.none() | st.integers(0, 8),
        within=st.floats(0, 100),
    ),
    gaps=st.lists(st.floats(0, 50), max_size=40),
)
def test_no_delay_breaks_its_policy(policy: RestartPolicy, gaps: list[float]) -> None:
    """Whenever failures happen: never below the first delay, above the maximum, or too often."""
    count = RestartCount(policy)
    now, times = 0.0, list[float]()
    for gap in gaps:
        now += gap
        times.append(now)
        recent = sum(now - each <= policy.within for each in times)
        delay = count.next_delay(now)
        assert (delay is None) == (policy.max_restarts is not None and recent > policy.max_restarts)
        assert delay is None or policy.first_delay <= delay <= policy.max_delay


async def run(
    task: Callable[[], Awaitable[None]], policy: RestartPolicy, stopping: trio.Event | None = None
) -> None:
    """Supervise a task."""
    if stopping is None:
        stopping = trio.Event()
    await supervise(task, name="the task", policy=policy, stopping=stopping)


async def test_a_task_is_restarted_with_backoff_until_it_returns(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is logged with its traceback and the pause that follows."""
    began: list[float] = []
    await run(failing(4, began), RestartPolicy(first_delay=1, max_delay=4))
    assert pauses(began) == [1, 2, 4, 4]
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert lines[2] == "the task failed; restarting in 4.0 s"
    assert all(each.exc_info for each in caplog.records)


async def test_a_task_that_fails_now_and_then_is_restarted_for_ever(autojump_clock: Clock) -> None:
    """The window slides, and the backoff starts anew."""
    ended: list[float] = []

    async def task() -> None:
        if ended:
            assert trio.current_time() - ended[-1] == pytest.approx(0.1)
        await trio.sleep(100)
        ended.append(trio.current_time())
        if len(ended) < 50:
            raise LookupError

    await run(task, RestartPolicy(max_restarts=2))
    assert len(ended) == 50


async def test_a_task_that_fails_too_often_takes_its_error_to_the_parent(
    autojump_clock: Clock,
) -> None:
    """The last one, after all the restarts there may be."""
    began: list[float] = []
    with pytest.raises(LookupError, match="failure 4"):
        await run(failing(99, began), RestartPolicy(max_restarts=3))
    assert len(began) == 4


async def test_stopping_ends_a_pause(autojump_clock: Clock) -> None:
    """At once, and the task is not begun again."""
    began, stopping = list[float](), trio.Event()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        policy = RestartPolicy(first_delay=1000, max_delay=1000)
        nursery.start_soon(run, failing(99, began), policy, stopping)
        await trio.sleep(5)
        stopping.set()
    assert trio.current_time() == start + 5
    assert len(began) == 1


async def test_what_fails_as_it_is_stopped_is_not_restarted(autojump_clock: Clock) -> None:
    """Its failure is still logged, not raised: everything ends anyway."""
    stopping = trio.Event()
    begun = 0

    async def task() -> NoReturn:
        nonlocal begun
        begun += 1
        stopping.set()
        raise LookupError

    await run(task, RestartPolicy(), stopping)
    assert begun == 1


async def test_a_cancelled_task_is_not_restarted(autojump_clock: Clock) -> None:
    """Cancellation is no failure, nor is it held up by a pause."""
    began: list[float] = []
    with trio.move_on_after(5) as scope:
        await run(failing(99, began), RestartPolicy(first_delay=10))
    assert scope.cancelled_caught
    with trio.move_on_after(5) as scope:
        await run(trio.sleep_forever, RestartPolicy())
    assert scope.cancelled_caught
    assert len(began) == 1
