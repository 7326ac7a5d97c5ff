"""Jobs in worker processes: whatever ends one kills its process, and nothing else."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

import roger_trio as roger
from tests.apps import crunching as app
from tests.promises.support import (
    Hub,
    Setup,
    Told,
    eventually,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)

R = roger.CancelResult
BOTH = {"default": 4, "other": 4}


@pytest.fixture
def new_fifo(tmp_path: Path) -> Callable[[str], Path]:
    """Return what makes named pipes, by which a job and its test wait for each other."""

    def make(name: str) -> Path:
        path = tmp_path / name
        os.mkfifo(path)
        return path

    return make


@pytest.fixture
def began(new_fifo: Callable[[str], Path]) -> Path:
    """Return a named pipe into which a job writes the id of its process."""
    return new_fifo("began")


async def pid_of(fifo: Path) -> int:
    """Wait for a job to begin; return the id of its process."""
    with trio.fail_after(30):
        return int(await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True))


async def let_go(gate: Path) -> None:
    """Let a job end that waits."""
    with trio.fail_after(30):
        await trio.to_thread.run_sync(gate.write_text, "go", abandon_on_cancel=True)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, and has been waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def watched(pid: int) -> Generator[int]:
    """Open what can be read once a process has ended, also one that is nobody's child here."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)


async def left(setup: Setup, queue: str = "default") -> list[tuple[str, int, int]]:
    """Return the name, the attempts and the deaths of what is queued."""
    async with roger.connect(setup.client_config()) as client:
        found = await client.queued_jobs(setup.partition, queue)
        return [(each.name, each.retry_count, each.deaths) for each in found]


# What kills it...


@on_every_broker
async def test_cancel_kills_the_process(setup: Setup, hub: Hub, began: Path) -> None:
    """The call says that it was stopped, and then the process is gone, and it is not retried."""
    with trio.fail_after(60):
        async with serving(setup.config(callbacks=Told())) as node:
            sent = await node.enqueue(app.burn.job(str(began), hub.name), setup.partition)
            pid = await pid_of(began)
            assert not is_gone(pid)
            assert await node.cancel(sent.id, setup.partition) is R.STOPPED
            assert is_gone(pid)
            assert await node.cancel(sent.id, setup.partition) is R.FINISHED
            await hub.wait("on_cancel")
    assert {what for what, _ in hub.log} == {"on_cancel"}
    assert await left(setup) == []


@on_every_broker
async def test_a_timeout_kills_the_process(setup: Setup, hub: Hub, began: Path) -> None:
    """It fails with JobTimeout at its time, not when it would have ended."""
    errors: list[BaseException] = []

    class Noted(Told):
        async def on_error(
            self, partition: str, job: roger.Envelope, error: BaseException, state: object
        ) -> None:
            errors.append(error)
            await super().on_error(partition, job, error, state)

    with trio.fail_after(60):
        async with serving(setup.config(callbacks=Noted())) as node:
            await node.enqueue(app.BurnFor(str(began), hub.name), setup.partition)
            pid = await pid_of(began)
            await hub.wait("on_error")
            assert is_gone(pid)
    assert [str(each) for each in errors] == ["exceeded its max_execution_time of 0.3 s"]
    assert isinstance(errors[0], roger.JobTimeout)


@on_every_broker
async def test_the_end_of_the_shutdown_time_kills_it(
    setup: Setup, began: Path, new_fifo: Callable[[str], Path]
) -> None:
    """It is given back and spends no attempt; one that ends in time ends; none is left."""
    gate, waits = new_fifo("gate"), new_fifo("waits")
    with trio.fail_after(60):
        async with serving(setup.config(BOTH, shutdown_timeout=1.0, max_job_processes=2)) as node:
            await node.enqueue(app.burn.job(str(began)), setup.partition)
            await node.enqueue(app.wait.job(str(waits), str(gate)), setup.partition)
            burning = await pid_of(began)
            waiting = await pid_of(waits)
            node.stop()
            await let_go(gate)
    assert is_gone(burning)
    assert is_gone(waiting)
    assert await left(setup) == [("crunching:burn", 0, 0)]
    assert await left(setup, "other") == []


@on_durable_brokers
async def test_none_outlives_a_killed_node(setup: Setup, new_fifo: Callable[[str], Path]) -> None:
    """Neither one that keeps Python's lock, nor a busy one, nor one without a job."""
    with trio.fail_after(60):
        async with roger.connect(setup.config()) as client:
            options = {"max_job_processes": 3}
            async with program(setup, app="tests.apps.crunching", **options) as node:
                pids: list[int] = []
                for number, job in enumerate((app.hold_the_lock, app.burn)):
                    fifo = new_fifo(str(number))
                    await client.enqueue(job.job(str(fifo)), setup.partition)
                    pids.append(await pid_of(fifo))
                fifo = new_fifo("idle")
                gate = new_fifo("gate")
                idle = app.wait.job(str(fifo), str(gate))
                await client.enqueue(idle, setup.partition, queue="default")
                pids.append(await pid_of(fifo))
                await let_go(gate)
                with watched(pids[0]) as a, watched(pids[1]) as b, watched(pids[2]) as c:
                    await node.die()
                    for each in (a, b, c):
                        await trio.lowlevel.wait_readable(each)


# What does not...


@on_every_broker
async def test_it_leaves_sigterm_to_its_node(
    setup: Setup, hub: Hub, began: Path, new_fifo: Callable[[str], Path]
) -> None:
    """Service managers send it to all processes of a service: the job has its time all the same."""
    gate = new_fifo("gate")
    with trio.fail_after(60):
        async with serving(setup.config(BOTH, callbacks=Told())) as node:
            await node.enqueue(app.wait.job(str(began), str(gate), hub.name), setup.partition)
            pid = await pid_of(began)
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            await let_go(gate)
            await hub.wait("after_run")
    assert [what for what, _ in hub.log] == ["after_run"]


@on_every_broker
async def test_cancel_of_one_that_waits_for_a_process_harms_nobody(
    setup: Setup, hub: Hub, began: Path, new_fifo: Callable[[str], Path]
) -> None:
    """No more run at once than the node may, over its queues; who waits can be cancelled."""
    gate = new_fifo("gate")
    config = setup.config(BOTH, callbacks=Told(), max_job_processes=1)
    with trio.fail_after(60):
        async with serving(config) as node:
            await node.enqueue(app.wait.job(str(began), str(gate), hub.name), setup.partition)
            pid = await pid_of(began)
            sent = [
                await node.enqueue(app.BurnFor(str(began), hub.name), setup.partition)
                for _ in range(2)
            ]

            async def both_wait() -> bool:
                return node._processes._limiter.statistics().tasks_waiting == 2

            await eventually(both_wait)
            assert await node.cancel(sent[0].id, setup.partition) is R.STOPPED
            running = node._partitions[setup.partition].running
            assert {each.scope.deadline for each in running} == {math.inf}  # its time has not begun
            assert not is_gone(pid)
            await let_go(gate)
            await hub.wait("after_run")
            assert await pid_of(began) == pid
            await hub.wait("on_error")
    assert hub.count("on_cancel") == 1


# Crashes...


@on_every_broker
async def test_a_crash_is_its_jobs_failure_alone(
    setup: Setup, hub: Hub, began: Path, new_fifo: Callable[[str], Path]
) -> None:
    """It is retried, then buried, and no death of the node; who runs beside it goes on."""
    gate = new_fifo("gate")
    config = setup.config(BOTH, callbacks=Told(), max_job_processes=2, max_deliveries=2)
    with trio.fail_after(60):
        async with serving(config) as node:
            await node.enqueue(app.wait.job(str(began), str(gate), hub.name), setup.partition)
            neighbour = await pid_of(began)
            await node.enqueue(app.crash.job("kill", hub.name, "crash"), setup.partition)
            await hub.wait("on_buried")
            await node.enqueue(note.job(hub.name, "after"), setup.partition)
            await hub.wait("after_run", tag="after")
            assert not is_gone(neighbour)
            await let_go(gate)
            await hub.wait("after_run", tag=str(began))
            [buried] = await node.buried_jobs(setup.partition, "default")
    assert hub.count("on_error", "crash") == 2
    assert (buried.retry_count, buried.deaths) == (2, 0)
    assert buried.error is not None
    assert buried.error.type == "roger_trio:JobCrashed"
    assert (
        buried.error.message == "its worker process was killed by SIGKILL (out of memory, perhaps)"
    )
