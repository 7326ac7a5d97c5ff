"""The supervisor, with processes that are only played, on Trio's mock clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from signal import SIGKILL

import pytest
import trio
import trio.testing

from roger_trio._processes.process import Process
from roger_trio._processes.supervisor import Supervisor
from roger_trio._processes.tie import Stop

Clock = trio.testing.MockClock


class Played:
    """A process that does as the test says."""

    def __init__(self, pid: int, told: Callable[[Played, Stop], None]) -> None:
        self.pid = pid
        self.orders: list[Stop] = []
        self.began = trio.current_time()
        self.is_closed = False
        self._told = told
        self._ready = trio.Event()
        self._ended = trio.Event()
        self._status = 0

    def get_ready(self) -> None:
        """Be ready."""
        self._ready.set()

    def end(self, status: int) -> None:
        """End."""
        self._status = status
        self._ended.set()

    def tell(self, stop: Stop) -> None:
        self.orders.append(stop)
        self._told(self, stop)

    def kill(self) -> None:
        self.end(-SIGKILL)

    async def wait_ready(self) -> bool:
        await self._ready.wait()
        return True

    async def wait(self) -> int:
        await self._ended.wait()
        return self._status

    def close(self) -> None:
        assert self._ended.is_set()
        self.is_closed = True


def obey(process: Played, stop: Stop) -> None:
    """End as told."""
    process.end(0)


class Play:
    """What runs, in the order of the starts."""

    def __init__(self, *, count: int = 2, told: Callable[[Played, Stop], None] = obey) -> None:
        self.started: list[tuple[int, Played]] = []
        self.on_start: Callable[[int, Played], None] = lambda number, process: None
        self.told = told
        self.broken = False
        self.supervisor = Supervisor(count, self.launch, shutdown_timeout=5)
        self.status: int | None = None

    async def launch(self, number: int) -> Process:
        """Start a process."""
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise OSError(11, "Resource temporarily unavailable")
        process = Played(100 * number + len(self.starts(number)), self.told)
        self.started.append((number, process))
        self.on_start(number, process)
        return process

    def last(self, number: int) -> Played:
        """Return the process that now has a number."""
        return [process for each, process in self.started if each == number][-1]

    def starts(self, number: int) -> list[float]:
        """Tell when the processes of a number were started."""
        return [process.began for each, process in self.started if each == number]

    async def run(self) -> None:
        """Run the supervisor to its end."""
        self.status = await self.supervisor.run()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Have the supervisor run; at the end of the block it is told to stop, and has to end."""
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run)
                await trio.testing.wait_all_tasks_blocked()
                yield
                self.supervisor.stop(Stop.GRACEFULLY)
        assert all(process.is_closed for _, process in self.started)


async def test_all_stop_as_they_are_told(autojump_clock: Clock) -> None:
    """Each of them is told once, and the status is 0."""
    play = Play(count=3)
    async with play.running():
        assert sorted(number for number, _ in play.started) == [1, 2, 3]
        play.supervisor.stop(Stop.GRACEFULLY)
        play.supervisor.stop(Stop.GRACEFULLY)
    assert play.status == 0
    assert [process.orders for _, process in play.started] == [[Stop.GRACEFULLY]] * 3


async def test_what_dies_is_started_again_and_nothing_else(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After half a second, the next time after a second; an end with status 0 is no exception."""
    play = Play()
    play.on_start = lambda number, process: process.get_ready()
    async with play.running():
        for status in (-SIGKILL, 0):
            play.last(2).end(status)
            await trio.sleep(1.2)
    assert play.starts(1) == [0]
    assert play.starts(2) == pytest.approx([0, 0.5, 2.2])
    assert play.status == 0
    assert "process 2 (pid 200) was killed by SIGKILL after 0.0 s, unasked" in caplog.messages
    assert "process 2 starts again in 0.5 s" in caplog.messages


async def test_processes_that_never_get_ready_are_given_up(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After five starts; the status says so, and what still runs is stopped first."""
    play = Play()

    def fail_as_second(number: int, process: Played) -> None:
        if number == 2:
            process.end(1)

    play.on_start = fail_as_second
    with trio.fail_after(100):
        await play.run()
    assert play.status == 1
    assert play.starts(2) == pytest.approx([0, 0.5, 1.5, 3.5, 7.5])
    assert play.last(1).orders == [Stop.GRACEFULLY]
    [line] = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert line.getMessage().startswith("giving up: process 2 ended 5 times before it was ready")


async def test_not_given_up_while_another_works(autojump_clock: Clock) -> None:
    """A process may fail for long, every half minute in the end."""
    play = Play()
    play.on_start = lambda number, process: process.get_ready() if number == 1 else process.end(1)
    async with play.running():
        await trio.sleep(600)
    assert play.status == 0
    assert len(play.starts(2)) == pytest.approx(600 / 30 + 5, abs=2)


async def test_a_machine_that_starts_no_process_is_a_failed_start(autojump_clock: Clock) -> None:
    """It is tried again; if that never works, it is given up."""
    play = Play()
    play.broken = True
    with trio.fail_after(100):
        await play.run()
    assert play.status == 1
    assert trio.current_time() == pytest.approx(7.5)


async def test_stop_while_waiting_to_restart(autojump_clock: Clock) -> None:
    """Nothing is started any more, and nobody waits for the delay."""
    play = Play()
    async with play.running():
        play.last(2).end(1)
        await trio.testing.wait_all_tasks_blocked()
    assert play.status == 0
    assert len(play.started) == 2
    assert trio.current_time() == 0


async def test_stop_while_a_process_is_being_started(autojump_clock: Clock) -> None:
    """It is told as soon as it is there."""
    play = Play()
    play.on_start = lambda number, process: play.supervisor.stop(Stop.GRACEFULLY)
    with trio.fail_after(100):
        await play.run()
    assert play.status == 0
    assert [process.orders for _, process in play.started] == [[Stop.GRACEFULLY]] * 2


async def test_a_process_that_does_not_stop_is_killed(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After shutdown_timeout and 18 s; the status says so."""
    play = Play(told=lambda process, stop: obey(process, stop) if process.pid == 100 else None)
    async with play.running():
        pass
    assert trio.current_time() == pytest.approx(5 + 18)
    assert play.status == 1
    assert "process 2 (pid 200) does not stop, so it is killed; its jobs start again elsewhere" in (
        caplog.messages
    )


async def test_a_second_signal_is_passed_on_and_shortens_the_wait(autojump_clock: Clock) -> None:
    """Ten seconds, where a node needs three; never longer than without it."""
    play = Play(told=lambda process, stop: None)
    async with play.running():
        play.supervisor.stop(Stop.GRACEFULLY)
        await trio.sleep(2)
        play.supervisor.stop(Stop.AT_ONCE)
    assert trio.current_time() == pytest.approx(2 + 10)
    assert play.last(1).orders == [Stop.GRACEFULLY, Stop.AT_ONCE]

    play = Play(told=lambda process, stop: None)
    async with play.running():
        began = trio.current_time()
        play.supervisor.stop(Stop.GRACEFULLY)
        await trio.sleep(20)
        play.supervisor.stop(Stop.AT_ONCE)
    assert trio.current_time() - began == pytest.approx(5 + 18)


async def test_a_process_that_stops_badly_is_told_by_the_status(autojump_clock: Clock) -> None:
    """It was ready, and ended otherwise than by status 0."""
    play = Play(told=lambda process, stop: process.end(1))
    play.on_start = lambda number, process: process.get_ready()
    async with play.running():
        pass
    assert play.status == 1


async def test_health(autojump_clock: Clock) -> None:
    """Ready once all are, not while one is missing or it stops; and it says which, and why."""
    play = Play()
    async with play.running():
        health = play.supervisor.health()
        assert (health.node, health.live, health.ready) == ("supervisor", True, False)
        assert health.reasons == ("process 1 is starting", "process 2 is starting")
        play.last(1).get_ready()
        play.last(2).get_ready()
        await trio.testing.wait_all_tasks_blocked()
        assert play.supervisor.health().ready
        play.last(1).end(-SIGKILL)
        await trio.testing.wait_all_tasks_blocked()
        [reason] = play.supervisor.health().reasons
        assert reason == "process 1 was killed by SIGKILL; it starts again within 0.5 s"
        play.told = lambda process, stop: None
        await trio.sleep(1)
        play.last(1).get_ready()
        await trio.testing.wait_all_tasks_blocked()
        assert play.supervisor.health().ready
        play.supervisor.stop(Stop.GRACEFULLY)
        assert play.supervisor.health().reasons == ("it is stopping",)
        obey(play.last(1), Stop.GRACEFULLY)
