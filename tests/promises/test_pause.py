"""Promise 6: `pause` holds once it has returned, on every node, and across restarts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import roger_trio as roger
from roger_trio._jobs import wire
from tests.apps import keyed as app
from tests.promises.support import (
    Hub,
    Keyed,
    Outsider,
    Setup,
    Told,
    brief,
    drop_connections,
    eventually,
    hold,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)

QUEUES = {"default": 4, "other": 2}


async def others_flow(client: roger.Client, hub: Hub, partition: str, name: str) -> None:
    """Run some jobs of another queue, one after the other: time in which a paused one stands."""
    for number in range(10):
        tag = f"{name}{number}"
        await client.enqueue(note.job(hub.name, tag), partition, queue="other")
        await hub.wait("ran", tag=tag)


async def runs_nothing(client: roger.Client, setup: Setup) -> bool:
    """Tell whether no node runs a job of the partition."""
    return not any((await client.running_jobs(setup.partition)).values())


@on_every_broker
async def test_a_pause_holds_on_two_nodes_once_it_has_returned(setup: Setup, hub: Hub) -> None:
    """In the middle of 400 jobs: none starts after it, those prefetched go back unharmed."""
    partition, total = setup.partition, 400
    jobs = [brief.job(hub.name, str(number), 0.002) for number in range(total)]
    config = setup.config(QUEUES, max_deliveries=2)
    async with (
        serving(config) as first,
        serving(config) as second,
        roger.connect(setup.client_config()) as client,
    ):
        with trio.fail_after(60):
            await client.enqueue_many(jobs, partition)
            for turn in range(1, 5):
                await hub.wait("ran", turn * 40)
                assert await client.pause(partition, "default") == frozenset()
                for each in (first, second, client):
                    assert await each.paused(partition) == {"default"}
                await eventually(lambda: runs_nothing(client, setup))
                done = hub.count("ran")
                await others_flow(client, hub, partition, f"t{turn}-")
                assert hub.count("ran") == done + 10
                left = await client.queued_jobs(partition, "default", total)
                assert {(each.deaths, each.retry_count) for each in left} == {(0, 0)}
                assert await client.resume(partition, "default") == frozenset()
            await hub.wait("ran", total + 40)
            assert await client.paused(partition) == frozenset()
            assert await client.buried_jobs(partition, "default") == []
    assert all(hub.count("ran", each.tag) == 1 for each in jobs)  # type: ignore[attr-defined]
    assert not hub.twice


@on_every_broker
async def test_running_jobs_finish_and_jobs_with_keys_stand_still(setup: Setup, hub: Hub) -> None:
    """A pause cancels nothing; what waits for a key held by a running job does not start after."""
    partition = setup.partition
    async with serving(setup.config(QUEUES, callbacks=Told())) as node:
        with trio.fail_after(30):
            await node.enqueue(Keyed(hub.name, "1", "q", "e", "hold"), partition)
            await hub.wait("began")
            await node.enqueue(Keyed(hub.name, "2", None, "e"), partition)
            assert await node.pause(partition, "default") == frozenset()
            info = (await node.running_partitions())[node.name][partition]
            assert (info["default"].paused, info["other"].paused) == (True, False)
            assert info["default"].running == 1
            hub.gate.set()
            await hub.wait("after_run", tag="1")
            await node.enqueue(Keyed(hub.name, "3", "q"), partition)
            await others_flow(node, hub, partition, "o")
            assert hub.count("began") == 1
            assert await node.resume(partition, "default") == frozenset()
            await hub.wait("after_run", tag="2")
            await hub.wait("after_run", tag="3")
    assert hub.count("cancelled") == 0


@on_every_broker
async def test_a_pause_holds_across_the_end_of_all_nodes(setup: Setup, hub: Hub) -> None:
    """Failure 12: nodes that start later keep it, and say so; no delivery is spent on it."""
    partition = setup.partition
    with trio.fail_after(60):
        async with serving(setup.config(QUEUES)) as node:
            await node.pause(partition, "default")
            await node.pause(partition, "default")
        for turn in range(3):
            async with serving(setup.config(QUEUES, max_deliveries=2, shutdown_timeout=0)) as node:
                assert await node.paused(partition) == {"default"}
                await node.enqueue(note.job(hub.name, f"paused{turn}"), partition)
                await others_flow(node, hub, partition, f"n{turn}-")
                await drop_connections(node)
                await others_flow(node, hub, partition, f"d{turn}-")
        async with serving(setup.config(QUEUES)) as node:
            assert not [tag for _, tag in hub.log if tag.startswith("paused")]
            assert await node.resume(partition, "default") == frozenset()
            for turn in range(3):
                await hub.wait("ran", tag=f"paused{turn}")
            await node.resume(partition, "default")
            assert await node.paused(partition) == frozenset()


@on_durable_brokers
async def test_a_pause_holds_on_processes_that_are_killed_and_on_new_ones(setup: Setup) -> None:
    """Both nodes die at once; the next one starts nothing until it is resumed."""
    partition = setup.partition
    queues: dict[str, Any] = {"partitions": {partition: QUEUES}, "app": "tests.apps.keyed"}
    async with roger.connect(setup.config(QUEUES)) as client:
        with trio.fail_after(60):
            async with program(setup, **queues) as first, program(setup, **queues) as second:
                for node in (first, second):
                    await node.wait("ready")
                assert await client.pause(partition, "default") == frozenset()
                await client.enqueue(app.Keyed("x", "k"), partition)
                await first.die()
                await second.die()
            async with program(setup, **queues) as third:
                await third.wait("ready")
                assert await client.paused(partition) == {"default"}
                for number in range(10):
                    await client.enqueue(app.Keyed(f"o{number}"), partition, queue="other")
                    await third.wait(f"after_run o{number}")
                assert third.count("quick x") == 0
                assert await client.resume(partition, "default") == frozenset()
                await third.wait("after_run x")


@on_durable_brokers
async def test_a_frozen_node_is_named_and_keeps_the_pause_when_it_wakes(setup: Setup) -> None:
    """SIGSTOP: `pause` says on which node it may not hold yet; after SIGCONT it does there too."""
    partition = setup.partition
    options: dict[str, Any] = {
        "partitions": {partition: QUEUES},
        "app": "tests.apps.keyed",
        "node_name": "cold",
    }
    async with serving(setup.config(QUEUES)) as node, program(setup, **options) as frozen:
        with trio.fail_after(60):
            await frozen.wait("ready")
            assert await node.nodes()
            frozen.freeze()
            with trio.fail_after(10):
                assert await node.pause(partition, "default") == {"cold"}
            frozen.thaw()

            async def holds() -> bool:
                return await node.pause(partition, "default") == frozenset()

            await eventually(holds)
            for number in range(10):
                await node.enqueue(app.Keyed(f"p{number}"), partition)
            assert await node.resume(partition, "default") == frozenset()


@on_every_broker
async def test_an_unknown_partition_or_queue_is_named_with_what_there_is(setup: Setup) -> None:
    """Nothing is remembered for it."""
    partition = setup.partition
    async with (
        serving(setup.config(QUEUES)) as node,
        roger.connect(setup.client_config(enqueue_timeout=1.0)) as client,
    ):
        with trio.fail_after(30):
            for each in (node, client):
                with pytest.raises(roger.RogerError, match=r"'typo'.*default.*other"):
                    await each.pause(partition, "typo")
            nobodys = f"{partition}-x"
            for call in (client.pause(nobodys, "default"), client.paused(nobodys)):
                with pytest.raises(roger.PartitionNotRunning, match=partition) as caught:
                    await call
                assert caught.value.partition == nobodys
            assert await node.paused(partition) == frozenset()


@on_every_broker
async def test_a_queue_whose_workers_change_while_it_is_paused_stays_paused(
    setup: Setup, hub: Hub
) -> None:
    """Reconfigured, stopped and started again: a pause is the queue's, not a consumer's."""
    partition = setup.partition
    async with serving(setup.config(QUEUES)) as node:
        with trio.fail_after(30):
            await node.pause(partition, "default")
            await node.enqueue(hold.job(hub.name, "x"), partition)
            await node.reconfigure(partition, {"default": 9, "other": 1})
            await others_flow(node, hub, partition, "a")
            await node.reconfigure(partition, {"other": 1})
            await node.reconfigure(partition, {"default": 2, "other": 1})
            await others_flow(node, hub, partition, "b")
            await node.stop_partition(partition)
            await node.start_partition(partition, QUEUES)
            await others_flow(node, hub, partition, "c")
            assert hub.count("began") == 0
            await node.resume(partition, "default")
            await hub.wait("began")
            hub.gate.set()


@on_every_broker
async def test_an_old_question_about_a_pause_changes_nothing(setup: Setup) -> None:
    """Whoever asks again says which queue, and the node finds out what is true of it by now."""
    partition = setup.partition
    async with serving(setup.config()) as node:

        async def is_paused() -> bool:
            queues = (await node.running_partitions())[node.name][partition]
            return "default" in queues and queues["default"].paused

        question = {"ask": "pause", "partition": partition, "queue": "default"}
        with trio.fail_after(20):
            for change, wanted in ((node.pause, True), (node.resume, False)):
                await change(partition, "default")
                for paused in (True, False):
                    reply = await node._bus.ask_inbox(
                        node._bus.inbox, {**question, "paused": paused}, timeout=10
                    )
                    assert reply == {"done": True}
                    assert await is_paused() == wanted


@on_every_broker
async def test_a_copy_that_waits_for_the_end_of_another_is_let_go(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Leave that comes late holds up no pause: what may not start yet is on loan no more."""
    partition = setup.partition
    config = setup.config({"default": 1}, callbacks=Told())
    async with serving(config) as first:
        with trio.fail_after(40):
            sent = await first.enqueue(Keyed(hub.name, "x", ekey="e", act="hold"), partition)
            await hub.wait("began")
            async with serving(config) as second:
                await outsider.publish(setup.names()[0], wire.dump(sent), sent.id)
                await eventually(lambda: asks_for_leave(second, partition))
                assert await first.pause(partition, "default") == frozenset()

                # Where it is now is the broker's affair: the node that runs it may have it too.
                await eventually(lambda: asks_for_leave(second, partition, wanted=False), within=3)
                hub.gate.set()
                await hub.wait("after_run", tag="x")
    assert (hub.count("began"), hub.twice) == (1, False)


async def asks_for_leave(node: roger.Node, partition: str, *, wanted: bool = True) -> bool:
    """Tell whether a worker of a node waits for leave to start its job, as is wanted."""
    [consumer] = node._partitions[partition].consumers.values()
    return any(each.asking is not None for each in consumer.running) == wanted
