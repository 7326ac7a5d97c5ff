"""One view of the cluster: from any node and from a bare client, within a deadline."""

from __future__ import annotations

import os

import trio

import roger_trio as roger
from tests.apps import keyed as app
from tests.promises.support import (
    Hub,
    Setup,
    eventually,
    hold,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)


@on_every_broker
async def test_all_nodes_are_seen_from_each_of_them_and_from_a_client(  # noqa: PLR0915
    setup: Setup, hub: Hub
) -> None:
    """Partitions, queues, running jobs and the nodes themselves, the same from everywhere."""
    partition, other = setup.partition, f"{setup.partition}b"
    ours = setup.config(partitions={partition: {"default": 3}, other: {"mail": 2}})
    theirs = setup.config({"default": 5, "other": 1})
    async with (
        serving(ours) as first,
        serving(theirs) as second,
        roger.connect(setup.client_config()) as client,
    ):
        with trio.fail_after(30):
            await client.enqueue_many([hold.job(hub.name, str(n)) for n in range(8)], partition)
            await hub.wait("began", 8)
            await client.enqueue(note.job(hub.name, "behind"), partition)
            names = {first.name, second.name}
            for each in (first, second, client):
                nodes = await each.nodes()
                assert set(nodes) == names
                assert nodes.not_answering == frozenset()
                info = nodes[first.name]
                assert info.partitions == {partition: {"default": 3}, other: {"mail": 2}}
                assert (info.pid, info.answering, info.version) == (
                    os.getpid(), True, roger.__version__,
                )  # fmt: skip
                assert info.started_at.tzinfo is not None

                running = await each.running_partitions()
                assert set(running) == names
                assert set(running[first.name]) == {partition, other}
                queue = running[second.name][partition]["default"]
                assert (queue.max_workers, queue.running, queue.paused) == (5, 5, False)
                assert (queue.message_count, queue.consumer_count) == (1, 2)
                assert await each.waiting_partitions() == {name: {} for name in names}
                assert (await each.partitions())[second.name][partition].keys() == {
                    "default",
                    "other",
                }

                jobs = await each.running_jobs(partition)
                assert {name: len(found) for name, found in jobs.items()} == {
                    first.name: 3,
                    second.name: 5,
                }
                assert {job.args["tag"] for found in jobs.values() for job in found} == {
                    str(n) for n in range(8)
                }
                everything = await each.running_jobs()
                assert everything[first.name][other] == []
                assert len(everything[second.name][partition]) == 5
            hub.gate.set()
            await hub.wait("ran")


@on_every_broker
async def test_a_node_that_stops_is_gone_and_one_that_starts_is_there(setup: Setup) -> None:
    """With no node the answers are empty, and come at once."""
    async with roger.connect(setup.client_config()) as client:
        with trio.fail_after(30):
            assert await client.nodes() == {}
            assert await client.running_jobs() == {}
            async with serving(setup.config()) as first:
                assert set(await client.nodes()) == {first.name}
                async with serving(setup.config()) as second:
                    assert set(await client.nodes()) == {first.name, second.name}
                    await second.start_partition(f"{setup.partition}c", {"default": 1})
                    assert set((await client.running_partitions())[second.name]) == {
                        setup.partition,
                        f"{setup.partition}c",
                    }
                nodes = await client.nodes()
                assert (set(nodes), nodes.not_answering) == ({first.name}, frozenset())
            assert await client.nodes() == {}
            assert await client.partitions() == {}


@on_durable_brokers
async def test_two_nodes_with_default_names_never_share_one(setup: Setup) -> None:
    """Failure 14: in one process and in several, from one configuration."""
    config = setup.config()
    async with (
        serving(config) as one,
        serving(config) as two,
        program(setup, app="tests.apps.keyed") as three,
    ):
        with trio.fail_after(30):
            await three.wait("ready")
            assert len({one.name, two.name, *await one.nodes()}) == 3


@on_durable_brokers
async def test_a_frozen_node_is_named_and_a_killed_one_disappears(setup: Setup) -> None:
    """Never waited for without end: the answers of the others come within the deadline."""
    partition = setup.partition
    async with (
        serving(setup.config()) as node,
        roger.connect(setup.client_config()) as client,
        program(setup, app="tests.apps.keyed", node_name="cold") as other,
    ):
        with trio.fail_after(60):
            await other.wait("ready")
            both = {node.name, "cold"}

            async def all_answer() -> bool:
                nodes = await client.nodes()
                return set(nodes) == both and not nodes.not_answering

            await eventually(all_answer)
            other.freeze()
            for each in (node, client):
                with trio.fail_after(8):
                    nodes = await each.nodes()
                assert set(nodes) == both
                assert nodes.not_answering == {"cold"}
                assert (nodes["cold"].answering, nodes[node.name].answering) == (False, True)
                assert nodes["cold"].partitions == {partition: {"default": 10}}
                with trio.fail_after(8):
                    jobs = await each.running_jobs(partition)
                assert (set(jobs), jobs.not_answering) == ({node.name}, frozenset({"cold"}))
            other.thaw()
            await eventually(all_answer)
            await other.die()

            async def is_gone() -> bool:
                nodes = await client.nodes()
                return set(nodes) == {node.name} and not nodes.not_answering

            await eventually(is_gone)
            await eventually(lambda: _alone(node))


async def _alone(node: roger.Node) -> bool:
    return set(await node.nodes()) == {node.name}


@on_durable_brokers
async def test_jobs_of_another_process_are_seen_with_their_keys(setup: Setup) -> None:
    """A bare client reads names, keys, and since when, from a node that it shares nothing with."""
    partition = setup.partition
    async with (
        program(setup, app="tests.apps.keyed", node_name="far") as far,
        roger.connect(setup.client_config()) as client,
    ):
        with trio.fail_after(30):
            await far.wait("ready")
            sent = await client.enqueue(app.Keyed("x", "q", "e", "hold"), partition)
            await far.wait("hold x")
            [job] = (await client.running_jobs(partition))["far"]
            assert (job.id, job.name, job.args) == (sent.id, sent.name, sent.args)
            assert (job.queue_key, job.execution_key) == ("q", "e")
            assert job.started_at is not None
            keys = {each.key: each for each in await client.keys(partition)}
            assert {(key, each.job_id, each.node) for key, each in keys.items()} == {
                ("q", sent.id, "far"),
                ("e", sent.id, "far"),
            }
