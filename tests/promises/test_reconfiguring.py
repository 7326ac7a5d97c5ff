"""Promises 2, 10 and 12: concurrency, connections that are lost, and partitions that fail."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._tree.consumer import QueueConsumer
from tests.promises.support import (
    Hub,
    Outsider,
    Setup,
    Witness,
    brief,
    eventually,
    hold,
    note,
    on_every_broker,
    serving,
)


async def _nothing_left(outsider: Outsider, setup: Setup) -> bool:
    work, redelivered, _ = setup.names()
    return not any([(await outsider.count(each)).messages for each in (work, redelivered)])


@on_every_broker
async def test_twenty_reconfigurations_under_load_strand_no_job_and_no_consumer(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Failure 11: nothing stuck unacknowledged, one consumer, never more than `max_workers`."""
    partition, total = setup.partition, 3000
    work, redelivered, _ = setup.names()
    most_allowed = 0
    async with serving(setup.config({"default": 3})) as node:
        await node.enqueue_many([brief.job(hub.name, str(n)) for n in range(total)], partition)
        for size in (3, 12, 1, 20, 0, 5, 30, 2, 0, 8) * 2:
            hub.most = 0
            if size:
                most_allowed = max(most_allowed, size)
                await node.reconfigure(partition, {"default": size})
                done = hub.count("ran")
                with trio.fail_after(20):
                    await hub.wait("ran", min(total, done + 40))
            else:
                await node.reconfigure(partition, {})
            assert hub.most <= most_allowed
        with trio.fail_after(30):
            await hub.wait("ran", total)
            await node.drain()
        assert (await outsider.count(work)).consumers == 0
        await node.reconfigure(partition, {"default": 2})
        assert (
            (await outsider.count(work)).consumers,
            (await outsider.count(redelivered)).consumers,
        ) == (1, 1)
        assert await _nothing_left(outsider, setup)
        assert not await node.buried_jobs(partition, "default")
        assert hub.count("ran") == total
    assert (await outsider.count(work)).consumers == 0


@on_every_broker
async def test_fewer_workers_take_effect_as_jobs_end_and_more_at_once(
    setup: Setup, hub: Hub
) -> None:
    """Promise 2: running jobs finish, none starts above the new limit, standing ones are kept."""
    partition = setup.partition
    async with serving(setup.config({"default": 4})) as node:
        await node.enqueue_many([hold.job(hub.name, str(n)) for n in range(12)], partition)
        with trio.fail_after(10):
            await hub.wait("began", 4)
            await node.reconfigure(partition, {"default": 2})
            await node.reconfigure(partition, {"default": 6})
            await hub.wait("began", 6)
            await node.reconfigure(partition, {"default": 1})
            assert hub.most == 6
            hub.gate.set()
            await hub.wait("ended", 12)
    assert hub.most == 6
    assert hub.count("cancelled") == 0


@on_every_broker
async def test_a_reconfiguration_whose_caller_gives_up_is_made_whole(
    setup: Setup, hub: Hub
) -> None:
    """Cancelling `reconfigure` in the middle leaves no queue without its consumer."""
    partition = setup.partition
    async with serving(setup.config({"default": 1})) as node:
        for size in range(2, 12):
            with trio.move_on_after(0) as scope:
                await node.reconfigure(partition, {"default": size})
            assert scope.cancel_called
        await node.enqueue_many([hold.job(hub.name, str(n)) for n in range(11)], partition)
        await node.reconfigure(partition, {"default": 11})
        with trio.fail_after(10):
            await hub.wait("began", 11)
        hub.gate.set()


@on_every_broker
async def test_give_backs_never_count_as_deaths(setup: Setup, hub: Hub) -> None:
    """Reconfigurations, looks and stops of a node bury no job, however often it comes back."""
    partition = setup.partition
    blockers = [hold.job(hub.name, f"b{n}") for n in range(2)]
    for _ in range(3):
        async with serving(setup.config({"default": 2}, shutdown_timeout=0, max_deliveries=2)) as n:
            if not hub.count("began"):
                await n.enqueue_many(blockers, partition)
                await n.enqueue_many([note.job(hub.name, str(i)) for i in range(8)], partition)
            with trio.fail_after(10):
                await hub.wait("began", hub.count("cancelled") + 2)
            for size in (1, 2, 1, 2, 1, 2):
                await n.reconfigure(partition, {"default": size})
                await n.queued_jobs(partition, "default")
    hub.gate.set()
    async with serving(setup.config({"default": 2}, max_deliveries=2)) as node:
        with trio.fail_after(20):
            await hub.wait("ran", 8)
            await hub.wait("ended", 2)
        await node.drain()
        assert await node.buried_jobs(partition, "default") == []
    assert hub.count("ran") == 8


@on_every_broker
async def test_stop_start_and_reconfigure_meet_each_other_and_none_is_lost(
    setup: Setup, hub: Hub
) -> None:
    """Stopping twice at once, starting while stopping, reconfiguring while stopping: all end."""
    partition = setup.partition
    async with serving(setup.config({"default": 2})) as node:
        await node.enqueue(hold.job(hub.name), partition)
        with trio.fail_after(20):
            await hub.wait("began")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.stop_partition, partition)
                nursery.start_soon(node.stop_partition, partition)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(roger.PartitionNotRunning, match="being stopped"):
                    await node.reconfigure(partition, {"other": 1})
                nursery.start_soon(node.start_partition, partition, {"default": 3})
                await trio.testing.wait_all_tasks_blocked(0.01)
                hub.gate.set()
        assert (await node.running_partitions())[node.name][partition]["default"].max_workers == 3
        await node.stop_partition(partition)
        with pytest.raises(roger.PartitionNotRunning):
            await node.stop_partition(partition)
        with pytest.raises(roger.PartitionNotRunning):
            await node.reconfigure(partition, {"default": 1})
    with pytest.raises(roger.RogerError, match="not running"):
        await node.start_partition(partition, {"default": 1})


@on_every_broker
async def test_stopping_races_with_reconfiguring_and_both_return(setup: Setup) -> None:
    """A queue that is added while its partition stops keeps neither of them from ending."""
    partition = setup.partition
    async with serving(setup.config({"default": 2})) as node:
        for turn in range(8):
            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.reconfigure, partition, {"other": 1 + turn})
                    for _ in range(1 + turn * 3):  # At once, either may come first.
                        await trio.lowlevel.checkpoint()
                    nursery.start_soon(node.stop_partition, partition)
                await node.start_partition(partition, {"default": 2})


@on_every_broker
async def test_drain_waits_for_running_jobs_and_reconfigure_takes_jobs_again(
    setup: Setup, hub: Hub
) -> None:
    """While drained, jobs wait in the broker; afterwards they run."""
    partition = setup.partition
    async with serving(setup.config({"default": 2})) as node:
        await node.enqueue(hold.job(hub.name), partition)
        with trio.fail_after(15):
            await hub.wait("began")
            assert [each.name for each in (await node.running_jobs(partition))[node.name]] == [
                hold.options.name
            ]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.drain)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await node.enqueue(note.job(hub.name), partition)
                hub.gate.set()
            assert hub.count("ended") == 1
            assert [each.name for each in await node.queued_jobs(partition, "default")] == [
                note.options.name
            ]
            await node.reconfigure(partition, {"default": 1})
            await hub.wait("ran")
            assert (await node.running_jobs())[node.name] == {partition: []}


async def test_a_queue_deleted_under_its_consumer_is_consumed_again(
    setup: Setup, hub: Hub, witness: Witness
) -> None:
    """Hole n: a consumer that the broker cancels comes back, with its queue."""
    async with serving(setup.config({"default": 2})) as node:
        witness.delete_queue(setup.names()[0])
        await node.enqueue(note.job(hub.name), setup.partition)
        with trio.fail_after(10):
            await hub.wait("ran")


async def test_a_queue_that_another_process_makes_anew_is_consumed_again(
    setup: Setup, hub: Hub, witness: Witness
) -> None:
    """Hole n: a client that finds the queue gone leaves its consumers time to hear of it."""
    async with serving(setup.config({"default": 2})), roger.connect(setup.config()) as client:
        await client.enqueue(note.job(hub.name, "first"), setup.partition)
        await hub.wait("ran")
        witness.delete_queue(setup.names()[0])
        await client.enqueue(note.job(hub.name, "second"), setup.partition)
        with trio.fail_after(20):
            await hub.wait("ran", tag="second")


# Isolation...


async def test_a_misdeclared_queue_stops_only_itself_and_recovers_by_itself(
    setup: Setup, hub: Hub, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 12: the error names queue and both sides; the node starts; deleting it is enough."""
    bad, good = f"{setup.partition}b", f"{setup.partition}g"
    config = setup.config(partitions={bad: {"default": 1}, good: {"default": 1}})
    [name, _, _] = setup.names("default", bad)
    witness.declare_classic(name)
    with trio.fail_after(30):
        async with serving(config) as node:
            await node.enqueue(note.job(hub.name, "good"), good)
            await hub.wait("ran", tag="good")
            [line] = {each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR}
            assert name in line
            assert "inequivalent arg" in line  # the broker's side
            assert "'x-queue-type': 'quorum'" in line  # ours
            witness.delete_queue(name)
            await node.enqueue(note.job(hub.name, "bad"), bad)
            await hub.wait("ran", tag="bad")


@on_every_broker
async def test_a_consumer_that_crashes_restarts_and_its_neighbours_do_not_notice(
    setup: Setup, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 12: a bug in one queue's consumer reaches neither a partition nor `started`."""
    bad, good = f"{setup.partition}b", f"{setup.partition}g"
    config = setup.config(partitions={bad: {"default": 1}, good: {"default": 1}})
    crashes = 0
    sound = QueueConsumer._keep_consuming

    async def unsound(self: QueueConsumer, sessions: trio.Nursery) -> Any:
        nonlocal crashes
        if bad in self._names.work and crashes < 3:
            crashes += 1
            raise LookupError("a bug")
        return await sound(self, sessions)

    monkeypatch.setattr(QueueConsumer, "_keep_consuming", unsound)
    with trio.fail_after(30):
        async with serving(config) as node:
            await node.enqueue(note.job(hub.name, "good"), good)
            await hub.wait("ran", tag="good")
            await node.enqueue(note.job(hub.name, "bad"), bad)
            await hub.wait("ran", tag="bad")
    assert crashes == 3
    assert sum("restarting in" in each.getMessage() for each in caplog.records) == 3


@on_every_broker
async def test_a_partition_that_fails_for_good_restarts_and_can_be_reconfigured_and_stopped(
    setup: Setup, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 12: between a partition's failure and its restart its controls still work."""
    partition = setup.partition
    broken = True
    sound = QueueConsumer.run

    async def unsound(self: QueueConsumer) -> None:
        if broken:
            raise BaseExceptionGroup("too bad", [LookupError("a bug")])
        await sound(self)

    monkeypatch.setattr(QueueConsumer, "run", unsound)
    monkeypatch.setattr(
        "roger_trio._tree.partition.RestartPolicy",
        lambda: __import__("roger_trio._tree.supervise", fromlist=["_"]).RestartPolicy(
            max_restarts=0
        ),
    )
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def start(*, task_status: trio.TaskStatus[roger.Node]) -> None:
                with scope:
                    await roger.serve(setup.config(partitions={}), task_status=task_status)

            node: roger.Node = await nursery.start(start)
            with trio.move_on_after(2):
                await node.start_partition(partition, {"default": 1})
            await node.reconfigure(partition, {"default": 2})
            broken = False
            await node.enqueue(note.job(hub.name), partition)
            await hub.wait("ran")
            await node.stop_partition(partition)
            scope.cancel()


@on_every_broker
async def test_blocked_jobs_of_one_partition_do_not_stop_another(setup: Setup, hub: Hub) -> None:
    """Promise 12: a flood that waits behind stuck jobs is nobody else's."""
    stuck, other = f"{setup.partition}s", f"{setup.partition}o"
    config = setup.config(partitions={stuck: {"default": 2}, other: {"default": 2}})
    async with serving(config) as node:
        await node.enqueue_many([hold.job(hub.name, str(n)) for n in range(500)], stuck)
        with trio.fail_after(10):
            await hub.wait("began", 2)
            await node.enqueue_many([note.job(hub.name, str(n)) for n in range(50)], other)
            await hub.wait("ran", 50)
        hub.gate.set()


# A lost connection, without a broker's death: the node closes its own...


async def _sever(node: roger.Node) -> None:
    """Tear down a node's connections as a broken network would."""
    if isinstance(node._broker, EmbeddedBroker):
        await node._broker.drop_connections("severed by a test")
        return
    for link in node._broker._links:  # type: ignore[attr-defined]
        link._connection.transport.abort("severed by a test")


async def _connected(node: roger.Node) -> bool:
    return node._broker.is_connected


@on_every_broker
async def test_max_workers_hold_through_lost_connections_and_every_job_is_done(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Promise 2: ten connections lost under load, never more workers, nothing stuck or buried."""
    partition, total = setup.partition, 600
    config = setup.config({"default": 5}, max_deliveries=2)
    async with serving(config) as node:
        await node.enqueue_many(
            [brief.job(hub.name, str(n), 0.02) for n in range(total)], partition
        )
        for _ in range(6):
            done = hub.count("ran")
            with trio.fail_after(20):
                await hub.wait("ran", min(total, done + 30))
            await _sever(node)
            await eventually(lambda: _connected(node))
        with trio.fail_after(30):
            while len({tag for what, tag in hub.log if what == "ran"}) < total:
                await hub.wait("ran", hub.count("ran") + 1)
            await eventually(lambda: _nothing_left(outsider, setup))
            await node.drain()
        assert not await node.buried_jobs(partition, "default")
        assert not await node.queued_jobs(partition, "default")
    assert hub.most <= 5
    assert not hub.twice
