"""A node for one test, and waiting until it is idle."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import roger_trio as roger
from roger_trio.testing import RunningNode, buried, enqueued, running_node

from .jobs import Unique, chain, fail, in_thread, note, sleep


async def test_a_job_is_performed(log: list[str]) -> None:
    """The node is the ambient client, and performs what is enqueued."""
    async with running_node() as node:
        await note.job("hello").enqueue("test")
        await node.run_until_idle()
        assert log == ["hello"]


async def test_it_is_a_node() -> None:
    """It runs the partitions it is given, and can be asked about them."""
    async with running_node(partitions={"mine": {"a": 1, "b": 2}}) as node:
        assert isinstance(node, RunningNode)
        assert isinstance(node, roger.Node)
        found = await node.running_partitions()
        assert set(found[node.name]["mine"]) == {"a", "b"}


async def test_the_broker_of_the_configuration_is_replaced(log: list[str]) -> None:
    """Whatever broker it names, jobs stay in memory; the rest of it counts."""
    config = roger.Config(
        broker="amqp://nowhere.invalid/", partitions={"mine": {"default": 1}}, node_name="ada"
    )
    async with running_node(config) as node:
        assert node.name == "ada"
        await note.job("hello").enqueue("mine")
        await node.run_until_idle()
    assert log == ["hello"]


@pytest.mark.parametrize(
    ("config", "partitions", "expected"),
    [
        (None, None, {"test"}),
        (roger.Config(node_name="n"), None, {"test"}),
        (roger.Config(partitions={"mine": {"a": 1}}), None, {"mine"}),
        (roger.Config(partitions={"mine": {"a": 1}}), {"other": {"a": 1}}, {"other"}),
        (roger.Config(partitions={"mine": {"a": 1}}), {}, set()),
    ],
)
async def test_which_partitions_run(
    config: roger.Config | None, partitions: Any, expected: set[str]
) -> None:
    """Those of the argument, else of the configuration, else one called test."""
    async with running_node(config, partitions=partitions) as node:
        [found] = (await node.running_partitions()).values()
        assert set(found) == expected


async def test_wrong_partitions_are_refused() -> None:
    """A partition that breaks a rule is found before anything starts."""
    with pytest.raises(roger.ConfigError, match=r"partitions\.test\.default: expected"):
        async with running_node(partitions={"test": {"default": 0}}):
            raise AssertionError


async def test_callbacks_are_called() -> None:
    """Callbacks given to the node replace those of its configuration."""
    seen: list[str] = []

    class Watch(roger.Callbacks):
        async def after_run(
            self, partition: str, job: roger.Envelope, result: Any, state: Any
        ) -> None:
            seen.append(result)

    async with running_node(callbacks=Watch()) as node:
        await note.job("a").enqueue("test")
        await node.run_until_idle()
    assert seen == ["noted a"]


async def test_an_exception_of_the_block_comes_out_bare() -> None:
    """No group is wrapped around what the test itself raised."""
    with pytest.raises(ValueError, match="from the test") as caught:
        async with running_node():
            raise ValueError("from the test")
    assert caught.value.__context__ is None


async def test_a_failing_block_does_not_wait_for_jobs(log: list[str]) -> None:
    """Where the block raised, running jobs are cancelled at once."""

    async def fail_in_the_middle() -> None:
        async with running_node() as node:
            await sleep.job(1000).enqueue("test")
            while not (await node.running_jobs("test"))[node.name]:
                await trio.testing.wait_all_tasks_blocked()
            raise AssertionError

    with pytest.raises(AssertionError), trio.fail_after(5):
        await fail_in_the_middle()
    assert log == ["starts", "cancelled"]


async def test_a_cancelled_block_stops_the_node(log: list[str]) -> None:
    """Cancelled from outside, the block ends, and so do its jobs."""
    with trio.move_on_after(0.1) as scope:
        async with running_node():
            await sleep.job(1000).enqueue("test")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log in (["starts", "cancelled"], [])


async def test_a_block_cancelled_before_it_starts() -> None:
    """A node that is cancelled while it starts ends, and the block is not entered."""
    entered = False
    with trio.CancelScope() as scope:
        scope.cancel()
        async with running_node():
            entered = True
    assert (scope.cancelled_caught, entered) == (True, False)


async def test_the_end_of_the_block_is_graceful(autojump_clock: MockClock, log: list[str]) -> None:
    """A running job gets its shutdown timeout at the end of the block."""
    async with running_node(roger.Config()) as node:
        await sleep.job(5).enqueue("test")
        while not (await node.running_jobs("test"))[node.name]:
            await trio.testing.wait_all_tasks_blocked()
    assert log == ["starts", "ends"]


async def test_outside_of_the_block_there_is_no_client() -> None:
    """The ambient client is there only inside."""
    async with running_node():
        pass
    with pytest.raises(roger.RogerError, match="found no client"):
        await note.job("a").enqueue("test")


# run_until_idle...


async def test_twelve_retries_take_no_time(autojump_clock: MockClock, log: list[str]) -> None:
    """An hour of retries to the buried list takes less than a second."""
    started = time.process_time()
    async with running_node() as node:
        await fail.job().enqueue("test")
        await node.run_until_idle()
        [job] = buried()
    assert time.process_time() - started < 1
    assert log == ["fails"] * 13
    assert job.retry_count == 12
    assert trio.current_time() == pytest.approx(sum(roger.Config().retry_levels))


async def test_nothing_to_do_is_idle() -> None:
    """It returns at once where there is nothing to wait for."""
    async with running_node() as node:
        with trio.fail_after(1):
            await node.run_until_idle()
    async with running_node(partitions={}) as node:
        with trio.fail_after(1):
            await node.run_until_idle()


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_jobs_of_jobs_are_waited_for(
    autojump_clock: MockClock, log: list[str], delay: float
) -> None:
    """Jobs that other jobs enqueue are part of it, delayed or not."""
    async with running_node() as node:
        await chain.job(20, delay).enqueue("test")
        await node.run_until_idle()
    assert log == [f"link {number}" for number in range(20, 0, -1)]


async def test_delayed_jobs_are_waited_for(autojump_clock: MockClock, log: list[str]) -> None:
    """A delay of a day is over when it returns."""
    async with running_node() as node:
        await note.job("late").enqueue("test", delay=86400)
        await note.job("soon").enqueue("test")
        await node.run_until_idle()
        assert log == ["soon", "late"]
        assert trio.current_time() == pytest.approx(86400)


async def test_a_real_clock_is_waited_for(log: list[str]) -> None:
    """On a real clock a delay takes its time."""
    async with running_node() as node:
        started = trio.current_time()
        await note.job("late").enqueue("test", delay=0.2)
        await node.run_until_idle()
        assert trio.current_time() - started >= 0.2
    assert log == ["late"]


async def test_plain_functions_are_waited_for(log: list[str]) -> None:
    """A job in a thread is waited for."""
    async with running_node() as node:
        for number in range(20):
            await in_thread.job(str(number)).enqueue("test")
        await node.run_until_idle()
    assert sorted(log, key=int) == [str(number) for number in range(20)]


async def test_queues_nobody_consumes_are_left_alone(log: list[str]) -> None:
    """Jobs where no node of the run consumes do not keep it from returning."""
    async with running_node() as node:
        await note.job("elsewhere").enqueue("elsewhere")
        await note.job("other queue").enqueue("test", queue="other", delay=5)
        await note.job("here").enqueue("test")
        with trio.fail_after(5):
            await node.run_until_idle()
        assert log == ["here"]
        assert [job.args["text"] for job in enqueued()] == ["elsewhere", "other queue"]


async def test_a_partition_that_starts_later_counts(log: list[str]) -> None:
    """Whatever is consumed when it is called is waited for."""
    async with running_node(partitions={}) as node:
        await note.job("a").enqueue("late")
        await node.run_until_idle()
        assert log == []
        await node.start_partition("late", {"default": 1})
        await node.run_until_idle()
        assert log == ["a"]


async def test_a_partition_that_stops_no_longer_counts(autojump_clock: MockClock) -> None:
    """It returns once the partition whose jobs it waited for is gone."""
    async with running_node() as node, trio.open_nursery() as nursery:
        await note.job("a").enqueue("test", delay=10_000)
        nursery.start_soon(node.run_until_idle)
        await trio.testing.wait_all_tasks_blocked()
        await node.stop_partition("test")
        with trio.fail_after(1):
            await node.run_until_idle()
    assert trio.current_time() < 10_000


async def test_what_is_about_to_be_enqueued_counts(log: list[str]) -> None:
    """A task that is about to enqueue gets to it before it returns."""

    async def enqueue_soon() -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        await note.job("a").enqueue("test")

    async with running_node() as node, trio.open_nursery() as nursery:
        nursery.start_soon(enqueue_soon)
        await node.run_until_idle()
        assert log == ["a"]


async def test_callbacks_and_limits_are_done() -> None:
    """When it returns, callbacks have returned and buried jobs were limited."""
    done: list[str] = []

    class Slow(roger.Callbacks):
        async def on_buried(self, *args: Any) -> None:
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.01)
            done.append("on_buried")

    config = roger.Config(retry_levels=(), max_buried=2, callbacks=Slow())
    async with running_node(config) as node:
        for _ in range(5):
            await fail.job().enqueue("test")
        await node.run_until_idle()
        assert len(done) == 5
        assert len(buried()) == 2


async def test_several_may_wait(autojump_clock: MockClock, log: list[str]) -> None:
    """Any number of tasks may wait until all is idle."""
    async with running_node() as node:
        await chain.job(5, 1.0).enqueue("test")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(node.run_until_idle)
        assert len(log) == 5


async def test_a_job_that_never_ends_can_be_bounded(autojump_clock: MockClock) -> None:
    """A wait for a job that snoozes for ever can be cancelled."""
    async with running_node() as node:
        await sleep.job(10**9).enqueue("test")
        with pytest.raises(trio.TooSlowError), trio.fail_after(100):
            await node.run_until_idle()


# Several of them...


async def test_two_nodes_share_the_jobs(log: list[str]) -> None:
    """Two nodes of one run are a cluster: either one waits for the jobs of both."""
    async with running_node(partitions={"a": {"default": 1}}) as a:
        async with running_node(partitions={"b": {"default": 1}}) as b:
            assert a.name != b.name
            await note.job("for a").enqueue("a")
            await note.job("for b").enqueue("b")
            await a.run_until_idle()
            assert sorted(log) == ["for a", "for b"]
            await chain.job(3).enqueue("a")
            await b.run_until_idle()
            assert len(log) == 5
        await note.job("after b").enqueue("a")
        await a.run_until_idle()
        assert log[-1] == "after b"


async def test_two_nodes_serve_one_queue(log: list[str]) -> None:
    """Two nodes may consume the same queue."""
    async with running_node() as node, running_node():
        for number in range(50):
            await note.job(str(number)).enqueue("test")
        await node.run_until_idle()
    assert sorted(log, key=int) == [str(number) for number in range(50)]


async def test_a_served_node_of_the_run_counts(log: list[str]) -> None:
    """A node that the program under test serves itself in memory is waited for as well."""
    config = roger.Config(broker="memory:", partitions={"app": {"default": 1}})
    async with running_node() as node, trio.open_nursery() as nursery:
        await nursery.start(roger.serve, config)
        await chain.job(10).enqueue("app")
        await node.run_until_idle()
        assert len(log) == 10
        nursery.cancel_scope.cancel()


async def test_a_client_of_a_cluster_with_a_prefix_finds_the_node(log: list[str]) -> None:
    """The node is of the cluster that its prefix says: its clients see it, and keys can be had."""
    config = roger.Config(broker="memory:", prefix="x.", partitions={"app": {"default": 1}})
    with trio.fail_after(10):
        async with running_node(config) as node, roger.connect(config) as client:
            assert list(await client.nodes()) == [node.name]
            await client.enqueue(Unique("hello", key="k"), "app")
            await node.run_until_idle()
    assert log == ["starts hello", "ends hello"]


async def test_the_next_run_begins_empty() -> None:
    """Jobs end with their run, so that tests do not meet."""
    async with running_node(partitions={}):
        assert enqueued() == []
        await note.job("left behind").enqueue("test")
