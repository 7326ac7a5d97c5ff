"""The test kit with jobs that have keys: on the mock clock, waited for, and looked at."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

import roger_trio as roger
from roger_trio.testing import (
    assert_enqueued,
    enqueued,
    perform_job,
    refute_enqueued,
    running_node,
)

from .jobs import Unique, note


async def test_jobs_that_wait_for_their_turn_are_waited_for(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """Ten jobs of a minute each and one key take ten minutes, and no time."""
    started = time.process_time()
    async with running_node() as node:
        for number in range(10):
            await Unique(str(number), execution="e", seconds=60).enqueue("test")
        await note.job("beside").enqueue("test")
        await node.run_until_idle()
        assert 600 <= trio.current_time() < 610
        assert await node.keys("test") == []
    in_turn = [line for n in range(10) for line in (f"starts {n}", f"ends {n}")]
    assert [line for line in log if line != "beside"] == in_turn
    assert log.index("beside") < log.index("ends 0")
    assert time.process_time() - started < 5


async def test_waiting_jobs_are_seen_as_enqueued(autojump_clock: MockClock) -> None:
    """Also while the coordinator holds them; the one that runs is not."""
    async with running_node() as node:
        first = await Unique("1", execution="e", seconds=60).enqueue("test")
        second = await Unique("2", execution="e").enqueue("test")
        await trio.sleep(1)
        assert assert_enqueued(Unique, text="2").id == second.id
        assert [job.id for job in enqueued(Unique, partition="test", queue="default")] == [
            second.id
        ]
        refute_enqueued(Unique, text="1")
        [key] = await node.keys("test")
        assert (key.job_id, key.waiting) == (first.id, 1)
        await node.run_until_idle()
        assert enqueued() == []


async def test_a_key_is_taken_until_its_job_has_ended(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """While it is delayed, and while it runs; an hour's delay takes no time."""
    async with running_node() as node:
        sent = await Unique("1", key="k", seconds=5).enqueue("test", delay=3600)
        for _ in range(2):
            with pytest.raises(roger.DuplicateJob) as caught:
                await Unique("2", key="k").enqueue("test")
            assert caught.value.job_id == sent.id
            await trio.sleep(3602)
        await node.run_until_idle()
        await Unique("3", key="k").enqueue("test")
        await node.run_until_idle()
    assert log == ["starts 1", "ends 1", "starts 3", "ends 3"]


async def test_paused_queues_are_left_alone(autojump_clock: MockClock, log: list[str]) -> None:
    """What waits in one does not keep it from returning; resumed, it is performed."""
    async with running_node() as node:
        await node.pause("test", "default")
        await Unique("1", key="k").enqueue("test")
        await note.job("later").enqueue("test", delay=5)
        with trio.fail_after(1):
            await node.run_until_idle()
        assert_enqueued(Unique, text="1")
        assert log == []
        await node.resume("test", "default")
        await node.run_until_idle()
        assert log == ["starts 1", "ends 1", "later"]


async def test_a_cancelled_job_is_not_waited_for_longer_than_it_takes(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """Running, waiting and delayed ones."""
    async with running_node() as node:
        sent = [
            await Unique("1", execution="e", seconds=10**9).enqueue("test"),
            await Unique("2", execution="e", seconds=10**9).enqueue("test"),
            await note.job("late").enqueue("test", delay=60),
        ]
        await trio.sleep(1)
        results = [await node.cancel(each.id, "test") for each in reversed(sent)]
        assert results == [
            roger.CancelResult.RECORDED,
            roger.CancelResult.RECORDED,
            roger.CancelResult.STOPPED,
        ]
        with trio.fail_after(100):
            await node.run_until_idle()
    assert log == ["starts 1"]


async def test_where_no_node_runs_the_partition(autojump_clock: MockClock) -> None:
    """A key cannot be promised there: as in production, once `enqueue_timeout` is over."""
    async with running_node(partitions={}):
        with pytest.raises(roger.PartitionNotRunning):
            await Unique("1", key="k").enqueue("test")
        await Unique("2", execution="e").enqueue("test")
        assert [job.args["text"] for job in enqueued()] == ["2"]


async def test_two_nodes_keep_a_promise_together(autojump_clock: MockClock, log: list[str]) -> None:
    """Jobs of one key on two nodes of a run never overlap."""
    async with running_node() as node, running_node():
        for number in range(6):
            await Unique(str(number), execution="e", seconds=1).enqueue("test")
        await node.run_until_idle()
    assert [line.split()[0] for line in log] == ["starts", "ends"] * 6


async def test_keys_survive_the_faults(autojump_clock: MockClock, log: list[str]) -> None:
    """A lost connection or acknowledgement neither loses a key nor runs a job beside itself."""
    async with running_node() as node:
        await Unique("1", key="k", execution="e", seconds=5).enqueue("test")
        await Unique("2", execution="e").enqueue("test")
        await trio.sleep(1)
        await node.drop_connections()
        with pytest.raises(roger.DuplicateJob):
            await Unique("3", key="k").enqueue("test")
        await node.run_until_idle()
        node.lose_acks()
        await Unique("4", key="k").enqueue("test")
        await node.run_until_idle()
        assert await node.keys("test") == []
    assert log[-4:] == ["starts 2", "ends 2", "starts 4", "ends 4"]


async def test_one_attempt_at_a_job_with_keys(log: list[str]) -> None:
    """It needs no node: its keys are those of the envelope, and nobody else's."""
    for _ in range(2):
        done = await perform_job(Unique("a", key="k", execution="e"))
        assert done.kind == "succeeded"
        assert (done.envelope.queue_key, done.envelope.execution_key) == ("k", "e")
    with pytest.raises(roger.InvalidJob, match="1000 bytes"):
        await perform_job(Unique("a", key="x" * 1001))
    assert log == ["starts a", "ends a"] * 2
