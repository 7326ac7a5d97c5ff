"""Promise 10 where the broker itself is gone: partitions wait, and start by themselves."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._brokers.base import QueueSpec
from roger_trio._brokers.embedded.open import open_memory_broker
from tests.promises.support import Hub, Setup, eventually, hold, note, serving
from tests.rabbitmq import PrivateRabbit

in_thread = trio.to_thread.run_sync
SIZE = 2


def two_partitions(private: Setup, **options: Any) -> roger.Config:
    """Configure two partitions of one queue each."""
    partitions = {id: {"default": SIZE} for id in names(private)}
    return private.config(partitions=partitions, enqueue_timeout=60.0, **options)


def names(private: Setup) -> tuple[str, str]:
    """Name the two partitions."""
    return f"{private.partition}a", f"{private.partition}b"


async def waits(node: roger.Node, *partitions: str) -> bool:
    """Tell whether exactly these partitions wait for the broker, and none runs."""
    waiting = (await node.waiting_partitions())[node.name]
    running = (await node.running_partitions())[node.name]
    return set(waiting) == set(partitions) and not running


async def runs(node: roger.Node, *partitions: str) -> bool:
    """Tell whether exactly these partitions consume their queue, and none waits."""
    try:
        running = (await node.running_partitions())[node.name]
    except roger.RogerError:
        return False  # It is on its way up.
    waiting = (await node.waiting_partitions())[node.name]
    consuming = {id for id, queues in running.items() if "default" in queues}
    return consuming == set(partitions) and not waiting


async def is_left(node: roger.Node, partition: str) -> bool:
    """Tell whether a partition's queue, or its buried jobs, hold anything."""
    queued = await node.queued_jobs(partition, "default")
    return bool(queued or await node.buried_jobs(partition, "default"))


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
async def test_an_outage_of_the_broker_is_waited_for_and_costs_no_job(  # noqa: PLR0915
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub, crash: bool
) -> None:
    """Running jobs go on and run once; both partitions resume.

    What is enqueued meanwhile is confirmed afterwards.
    """
    here = names(private)
    jobs = {id: [hold.job(hub.name, f"{id}{n}") for n in range(SIZE)] for id in here}
    total = SIZE * len(here)
    # Long enough for new queues to be safe from a crash.
    config = two_partitions(private, queue_settle_time=1, max_deliveries=2)
    async with serving(config) as node:
        with trio.fail_after(80):
            assert await runs(node, *here)
            for id in here:
                await node.enqueue_many(jobs[id], id)
                await node.enqueue(note.job(hub.name, "behind"), id)
            await hub.wait("began", total)
            await in_thread(private_rabbit.kill if crash else private_rabbit.stop)
            await eventually(lambda: waits(node, *here))
            assert (await node.waiting_partitions())[node.name] == {
                id: {"default": SIZE} for id in here
            }
            running = (await node.running_jobs())[node.name]
            assert {id: {each.args["tag"] for each in running[id]} for id in here} == {
                id: {each.tag for each in jobs[id]} for id in here
            }
            async with trio.open_nursery() as nursery:
                for id in here:
                    nursery.start_soon(node.enqueue, note.job(hub.name, "new"), id)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert len(nursery.child_tasks) == len(here)
                await in_thread(private_rabbit.start)
            await eventually(lambda: runs(node, *here))
            hub.gate.set()
            await hub.wait("ended", total)
            await hub.wait("ran", len(here), "behind")
            await hub.wait("ran", len(here), "new")
            await node.drain()
            assert not any([await is_left(node, id) for id in here])
    assert not hub.twice
    assert hub.most == total
    assert (hub.count("began"), hub.count("ended"), hub.count("cancelled")) == (total, total, 0)


async def test_partitions_are_controlled_during_an_outage_and_a_caller_need_not_wait_for_its_end(
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub
) -> None:
    """Starting, changing and stopping return at once, and hold once the broker is back."""
    first, second = names(private)
    third = f"{private.partition}c"
    async with (
        roger.connect(private.client_config(enqueue_timeout=0.2)) as hasty,
        serving(two_partitions(private)) as node,
    ):
        with trio.fail_after(60):
            await in_thread(private_rabbit.stop)
            await eventually(lambda: waits(node, first, second))
            with trio.fail_after(5):
                await node.start_partition(third, {"default": 1})
                await node.reconfigure(first, {"default": 7})
                await node.stop_partition(second)
                with pytest.raises(roger.BrokerUnavailable):
                    await hasty.enqueue(note.job(hub.name, "never confirmed"), first)
            assert (await node.waiting_partitions())[node.name] == {
                first: {"default": 7},
                third: {"default": 1},
            }
            await in_thread(private_rabbit.start)
            await eventually(lambda: runs(node, first, third))
            running = (await node.running_partitions())[node.name]
            assert running[first]["default"].max_workers == 7
            assert running[third]["default"].consumer_count == 1
            await node.enqueue(note.job(hub.name, "third"), third)
            await hub.wait("ran", tag="third")


async def test_a_node_without_a_broker_starts_once_there_is_one(
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub
) -> None:
    """`started()` comes then, with partitions that run; stopping it in an outage takes no time."""
    started: list[roger.Node] = []
    first, second = names(private)

    async def start(nursery: trio.Nursery) -> None:
        started.append(await nursery.start(roger.serve, config))

    config = two_partitions(private, shutdown_timeout=30)
    with trio.fail_after(60):
        await in_thread(private_rabbit.stop)
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(start, nursery)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert started == []
            await in_thread(private_rabbit.start)
            while not started:  # noqa: ASYNC110 -- a task that ended is no event
                await trio.sleep(0.01)
            [node] = started
            assert await runs(node, first, second)
            await node.enqueue(note.job(hub.name), second)
            await hub.wait("ran")
            await in_thread(private_rabbit.stop)
            await eventually(lambda: waits(node, first, second))
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 5


async def test_a_queue_that_the_broker_refuses_waits_and_the_others_run() -> None:
    """It is told of as one that is not consumed, until it is left out; in one place only."""
    config = roger.Config(broker="memory:", partitions={"mine": {"good": 1, "bad": 2}})
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            foreign = open_memory_broker()
            await nursery.start(foreign.run)
            await foreign.declare([QueueSpec(name="mine-bad", single_active=True)])
            async with serving(config) as node:
                await node.start_partition("theirs", {"good": 1})
                assert await node.waiting_partitions() == {node.name: {"mine": {"bad": 2}}}
                running = (await node.running_partitions())[node.name]
                assert {id: set(queues) for id, queues in running.items()} == {
                    "mine": {"good"},
                    "theirs": {"good"},
                }
                every = (await node.partitions())[node.name]
                assert set(every["mine"]) == {"good", "bad"}
                assert every["mine"]["bad"] == 2
                await node.reconfigure("mine", {"good": 1})
                assert await node.waiting_partitions() == {node.name: {}}
            nursery.cancel_scope.cancel()
