"""What a node knows of a partition: as of the last sync, and the events since."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from roger_trio._control.view import MAX_SILENCE, Pulse, View
from roger_trio._state.operations import (
    JobCancelled,
    JobForgotten,
    QueuePaused,
    QueueResumed,
    Synced,
)


class Coordinator:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = Synced(0, (), ())
        self.gate = trio.Event()
        self.gate.set()

    async def sync(self) -> Synced:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        return self.answer


class Clock:
    """A steady clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def synced(coordinator: Coordinator, pulse: Pulse | None = None) -> View:
    """Make a view that has been synced."""
    view = View("p", coordinator.sync, pulse)
    with trio.fail_after(5):
        await view.sync()
    return view


async def test_a_view_is_what_the_coordinator_said_and_the_events_since() -> None:
    """Each event is applied as it comes; those it knows already change nothing."""
    coordinator = Coordinator()
    coordinator.answer = Synced(3, ("a",), ("j1",))
    view = await synced(coordinator)
    workers = view.cancelled
    assert (view.version, view.paused, view.cancelled) == (3, {"a"}, {"j1"})

    view.apply(JobCancelled(4, "j2"))
    view.apply(JobForgotten(5, "j1"))
    view.apply(QueuePaused(6, "b"))
    view.apply(QueueResumed(7, "a"))
    view.apply(QueueResumed(7, "b", "inbox.x", 1))

    assert (view.version, view.paused, view.cancelled) == (7, {"b"}, {"j2"})
    assert view.cancelled is workers, "the workers look into this very set"
    assert view.fresh_until == math.inf


@pytest.mark.parametrize("version", [5, 2], ids=["missed-some", "began-anew"])
async def test_a_gap_makes_it_ask_again_before_anything_is_started(version: int) -> None:
    """Events were missed, or the coordinator has forgotten what it knew."""
    coordinator = Coordinator()
    coordinator.answer = Synced(3, (), ())
    view = await synced(coordinator)
    gaps: list[int] = []
    view.on_gap = lambda: gaps.append(version)

    view.apply(QueuePaused(version, "a"))

    assert (gaps, view.paused, view.fresh_until) == ([version], {"a"}, -math.inf)
    coordinator.answer = Synced(version, ("a", "b"), ("j1",))
    with trio.fail_after(5):
        await view.freshen()
    assert (view.paused, view.cancelled, view.fresh_until) == ({"a", "b"}, {"j1"}, math.inf)
    await view.freshen()
    assert coordinator.asked == 2


async def test_events_that_come_before_the_answer_are_not_lost() -> None:
    """The answer may have been written before them, and is read after them."""
    coordinator = Coordinator()
    view = await synced(coordinator)
    coordinator.gate = trio.Event()
    coordinator.answer = Synced(1, (), ("j1",))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.sync)
            await trio.testing.wait_all_tasks_blocked()
            view.apply(JobCancelled(1, "j1"))
            view.apply(JobCancelled(2, "j2"))
            coordinator.gate.set()
    assert (view.version, view.cancelled) == (2, {"j1", "j2"})


async def test_those_who_sync_at_the_same_time_share_one_question() -> None:
    """A hundred queues that reconnect ask once; one that gives up holds up nobody."""
    coordinator = Coordinator()
    coordinator.gate = trio.Event()
    view = View("p", coordinator.sync)
    told: list[str] = []
    view.on_synced = lambda: told.append("synced")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.sync)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(100):
                nursery.start_soon(view.sync)
            await trio.testing.wait_all_tasks_blocked()
            coordinator.gate.set()
        assert (coordinator.asked, told) == (1, ["synced"])

        coordinator.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as fickle:
                fickle.start_soon(view.sync)
                await trio.testing.wait_all_tasks_blocked()
                view.expire()
                nursery.start_soon(view.sync)
                await trio.testing.wait_all_tasks_blocked()
                fickle.cancel_scope.cancel()
            coordinator.gate.set()
    assert (coordinator.asked, told) == (3, ["synced"] * 2)


async def test_a_process_that_was_frozen_asks_before_it_starts_a_job() -> None:
    """Nothing is fresh after a second in which the pulse did not beat."""
    clock, coordinator = Clock(), Coordinator()
    pulse = Pulse(clock)
    view = await synced(coordinator, pulse)
    with view.following(pulse):
        for _ in range(20):
            clock.now += 0.9
            pulse.beat()
        assert clock.now < view.fresh_until
        assert (pulse.breaks, coordinator.asked) == (0, 1)

        clock.now += MAX_SILENCE + 0.1
        assert clock.now > view.fresh_until
        with trio.fail_after(5):
            await view.freshen()
        assert (pulse.breaks, coordinator.asked) == (1, 2)
        assert clock.now < view.fresh_until
    assert view.fresh_until == -math.inf


async def test_an_answer_that_waited_while_the_process_was_frozen_is_asked_anew() -> None:
    """It tells of the time before."""
    clock, pauses = Clock(), ["a", "a", ""]
    pulse = Pulse(clock)

    async def freeze() -> Synced:
        await trio.lowlevel.checkpoint()
        clock.now += 10 if len(pauses) > 1 else 0
        return Synced(0, (pauses.pop(0),), ())

    ask: Callable[[], Awaitable[Synced]] = freeze
    view = View("p", ask, pulse)
    with trio.fail_after(5):
        await view.sync()
    assert view.paused == {""}
    assert view.fresh_until > clock.now


async def test_a_sync_on_its_way_does_not_answer_a_doubt_that_came_later() -> None:
    """What was missed may have happened since the coordinator answered: it is asked again."""
    coordinator = Coordinator()
    view = await synced(coordinator)
    coordinator.gate = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            view.expire()
            nursery.start_soon(view.sync)
            await trio.testing.wait_all_tasks_blocked()
            view.doubt()
            nursery.start_soon(view.sync)
            await trio.testing.wait_all_tasks_blocked()
            coordinator.gate.set()
    assert coordinator.asked == 3
    assert view.fresh_until == math.inf
