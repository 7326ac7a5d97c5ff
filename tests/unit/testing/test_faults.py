"""Faults that a test asks for, and what they do to jobs."""

from __future__ import annotations

import logging
import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import roger_trio as roger
from roger_trio.testing import RunningNode, buried, enqueued, running_node

from .jobs import fail, note, sleep


async def wait_running(node: RunningNode) -> roger.Envelope:
    """Wait until the one job of the partition runs."""
    while not (found := (await node.running_jobs("test"))[node.name]):
        await wait_all_tasks_blocked()
    [job] = found
    return job


@roger.job(name="kit:fail_late", retryable=True)
async def fail_late(seconds: float) -> None:
    """Fail after a while."""
    await trio.sleep(seconds)
    await fail.job().perform()


# drop_connections...


async def test_a_dropped_job_goes_on(autojump_clock: MockClock, log: list[str]) -> None:
    """A job whose connection is lost has its delivery back, and is settled with that."""
    async with running_node() as node:
        await sleep.job(1).enqueue("test")
        await wait_running(node)
        await node.drop_connections()
        await node.run_until_idle()
        assert log == ["starts", "ends"]
        assert enqueued() == []
        assert buried() == []


async def test_a_dropped_job_that_ends_before_it_comes_back_runs_once(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """Its delivery is settled when the node is connected again, whether it failed or not."""
    async with running_node(roger.Config(retry_levels=(60,))) as node:
        for job in (sleep.job(0.01), fail_late.job(0.01)):
            await job.enqueue("test")
            await wait_running(node)
            await node.drop_connections()
        await node.run_until_idle()
        assert log == ["starts", "ends", "fails", "fails"]
        assert len(buried()) == 1


async def test_a_node_comes_back_within_moments(autojump_clock: MockClock, log: list[str]) -> None:
    """After a dropped connection new jobs are performed again, 0.1 s later at most."""
    async with running_node() as node:
        for _ in range(5):
            await node.drop_connections()
            await note.job("a").enqueue("test")
            await node.run_until_idle()
        assert log == ["a"] * 5
        assert trio.current_time() <= 0.5


async def test_idle_is_not_claimed_while_disconnected(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """A queue whose consumer is on its way back still counts as consumed."""
    async with running_node() as node:
        await note.job("late").enqueue("test", delay=5)
        await node.drop_connections()
        await node.run_until_idle()
        assert log == ["late"]


async def test_a_job_dropped_again_and_again_is_not_buried(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """Lost connections are no deaths: the job goes on coming back."""
    async with running_node() as node:
        await sleep.job(10).enqueue("test")
        for _ in range(10):
            await wait_running(node)
            await node.drop_connections()
            await trio.sleep(1)
        await node.run_until_idle()
        assert log[-1] == "ends"
        assert buried() == []


async def test_the_other_node_takes_over(autojump_clock: MockClock, log: list[str]) -> None:
    """Only the node that was asked loses its connection."""
    async with running_node() as one, running_node(partitions={"other": {"default": 1}}) as two:
        await sleep.job(1).enqueue("other")
        while not (await two.running_jobs("other"))[two.name]:
            await wait_all_tasks_blocked()
        await one.drop_connections()
        await one.run_until_idle()
        assert log == ["starts", "ends"]


# lose_acks...


async def test_a_job_whose_ack_is_lost_runs_twice(log: list[str]) -> None:
    """The job ended, the broker does not know, and delivers it again; then it is over."""
    async with running_node() as node:
        node.lose_acks()
        await note.job("a").enqueue("test")
        await node.run_until_idle()
        await note.job("b").enqueue("test")
        await node.run_until_idle()
        assert log == ["a", "a", "b"]
        assert enqueued() == []


async def test_so_many_jobs_run_twice(log: list[str]) -> None:
    """Jobs are performed as many more times as acknowledgements get lost."""
    async with running_node(partitions={"test": {"default": 1}}) as node:
        node.lose_acks()
        node.lose_acks(2)
        for text in "abcd":
            await note.job(text).enqueue("test")
        await node.run_until_idle()
        assert set(log) == set("abcd")
        assert len(log) == 4 + 3


async def test_a_retry_whose_ack_is_lost_runs_beside_it(
    autojump_clock: MockClock, log: list[str]
) -> None:
    """The retry was enqueued before the acknowledgement got lost, so there are two of them."""
    async with running_node(roger.Config(retry_levels=(60,))) as node:
        node.lose_acks()
        await fail.job().enqueue("test")
        await node.run_until_idle()
        assert log == ["fails"] * 4
        assert len({job.id for job in buried()}) == 1
        assert len(buried()) == 2


async def test_a_job_that_never_settles_is_buried(
    log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """After `max_deliveries` lost acknowledgements it is taken for one that kills its process."""
    caplog.set_level(logging.CRITICAL)
    async with running_node(roger.Config(max_deliveries=3)) as node:
        node.lose_acks(3)
        await note.job("a").enqueue("test")
        await node.run_until_idle()
        [job] = buried()
        assert job.error is not None
        assert "died 3 times" in job.error.message
        assert log == ["a"] * 3


async def test_a_count_below_one_is_refused() -> None:
    """A count has to be positive."""
    async with running_node() as node:
        with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
            node.lose_acks(0)


# refuse_publishes...


async def test_a_refused_enqueue_times_out(autojump_clock: MockClock) -> None:
    """`enqueue` raises after its timeout, which a jumping clock makes short; nothing is kept."""
    started = time.process_time()
    async with running_node() as node:
        with node.refuse_publishes():
            before = trio.current_time()
            with pytest.raises(
                roger.BrokerUnavailable,
                match=r"was not confirmed within 30 s: the test refuses publishes",
            ):
                await note.job("a").enqueue("test")
            assert trio.current_time() == before + 30
            with pytest.raises(roger.BrokerUnavailable):
                await node.enqueue_many([note.job("a")], "test")
        await trio.sleep(100)
        await node.run_until_idle()
        assert enqueued() == []
    assert time.process_time() - started < 1


async def test_a_refused_enqueue_in_time_goes_on(autojump_clock: MockClock, log: list[str]) -> None:
    """What still waits when the block ends is enqueued."""
    async with running_node() as node, trio.open_nursery() as nursery:
        with node.refuse_publishes():
            with node.refuse_publishes():
                nursery.start_soon(note.job("a").enqueue, "test")
                await trio.sleep(10)
            await trio.sleep(10)
            assert log == []
        await trio.lowlevel.checkpoint()
        await node.run_until_idle()
        assert log == ["a"]


async def test_a_job_that_cannot_be_retried_runs_again(
    autojump_clock: MockClock, log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A retry that the broker does not take has the job given back; nothing is lost."""
    caplog.set_level(logging.CRITICAL)
    async with running_node(roger.Config(retry_levels=(5,))) as node:
        await fail.job().enqueue("test", delay=1)
        with node.refuse_publishes():
            await trio.sleep(35)
        await node.run_until_idle()
        assert len(log) >= 2
        assert [job.retry_count for job in buried()] == [1]


# delay_publishes...


async def test_a_late_confirmation(autojump_clock: MockClock, log: list[str]) -> None:
    """`enqueue` returns late, while the job already ran."""
    async with running_node() as node:
        with node.delay_publishes(2), node.delay_publishes(3):
            before = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note.job("a").enqueue, "test")
                await wait_all_tasks_blocked()
                assert log == ["a"]
            assert trio.current_time() == before + 5
        before = trio.current_time()
        await note.job("b").enqueue("test")
        assert trio.current_time() == before


async def test_a_confirmation_too_late(autojump_clock: MockClock, log: list[str]) -> None:
    """`enqueue` gives up, and the job was kept all the same."""
    async with running_node() as node:
        with (
            node.delay_publishes(31),
            pytest.raises(roger.BrokerUnavailable, match="delays confirmations by 31 s"),
        ):
            await note.job("a").enqueue("test")
        await node.run_until_idle()
        assert log == ["a"]


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
async def test_impossible_delays_are_refused(seconds: float) -> None:
    """A delay is a finite number of seconds."""
    async with running_node() as node:
        with pytest.raises(ValueError, match="seconds: expected a finite number, at least 0"):
            node.delay_publishes(seconds)


async def test_faults_are_those_of_one_node(autojump_clock: MockClock, log: list[str]) -> None:
    """Clients and nodes that were not asked for a fault have none."""
    config = roger.Config(broker="memory:")
    async with running_node() as node, roger.connect(config) as client:
        with node.refuse_publishes(), node.delay_publishes(100):
            await client.enqueue(note.job("a"), "test")
        await node.run_until_idle()
        assert log == ["a"]
        assert trio.current_time() == 0
