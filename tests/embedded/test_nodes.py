"""Nodes and clients on the embedded brokers, through the public door."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import roger_trio as roger
from tests.conformance.kit import settles_at

from . import programs
from .children import child

JOBS = 150


async def test_two_nodes_and_a_client(tmp_path: Path) -> None:
    """All that a client process enqueues is done by two node processes, one of which is killed."""
    path, marks = str(tmp_path / "roger.db"), tmp_path / "marks"
    marks.mkdir()
    with (
        child(programs.node, path) as dying,
        child(programs.node, path) as living,
        child(programs.client, path, str(marks), JOBS) as client,
    ):
        assert [dying.read_line(), living.read_line()] == ["ready", "ready"]
        for number in range(JOBS):
            assert client.read_line() == f"enqueued {number}"
            if number == JOBS // 2:
                dying.kill()
        everything = {str(number) for number in range(JOBS)}
        await settles_at(everything, lambda: set(os.listdir(marks)))  # noqa: PTH208


async def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    """A client gives up after its time and says what to do; a node waits, and then works."""
    path, marks = str(tmp_path / "roger.db"), tmp_path / "marks"
    marks.mkdir()
    patient = programs.config(path)
    hurried = attrs.evolve(patient, enqueue_timeout=0.2)
    async with roger.connect(patient):
        pass
    job = programs.leave_mark.job(str(marks), "x")
    with trio.fail_after(60), closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with roger.connect(hurried) as client:
            with pytest.raises(roger.BrokerUnavailable, match=r"within 0\.2 s.*let that one go on"):
                await client.enqueue(job, "myapp")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(roger.serve, patient)
            async with roger.connect(patient) as client, trio.open_nursery() as callers:
                callers.start_soon(client.enqueue, job, "myapp")
                await trio.testing.wait_all_tasks_blocked(0.01)
                other.execute("COMMIT")
            await settles_at(["x"], lambda: os.listdir(marks))  # noqa: PTH208
            nursery.cancel_scope.cancel()


@roger.job(name="embedded:fail", retryable=True)
async def fail() -> None:
    """Fail."""
    raise ValueError("never mind")


def test_twelve_levels_in_no_time() -> None:
    """On a mock clock a job goes through all retry levels to its burial in milliseconds."""
    buried = trio.Event()

    class Witness(roger.Callbacks):
        async def on_buried(self, *_: object) -> None:
            buried.set()

    config = roger.Config(
        broker="memory:", partitions={"myapp": {"default": 3}}, callbacks=Witness()
    )

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            node = await nursery.start(roger.serve, config)
            began = trio.current_time()
            await node.enqueue(fail.job(), "myapp")
            await buried.wait()
            took = trio.current_time() - began
            async with roger.connect(config) as client:
                [left] = await client.buried_jobs("myapp", "default")
                assert left.retry_count == len(config.retry_levels)
            nursery.cancel_scope.cancel()
        return took

    began = time.process_time()
    virtual = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sum(config.retry_levels) <= virtual < sum(config.retry_levels) + 1.0
    assert time.process_time() - began < 2.0
