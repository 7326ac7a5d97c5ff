"""Promise 4: two jobs of one execution key never run at once; those that wait keep their turn."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import trio

import roger_trio as roger
from roger_trio._brokers.embedded.open import find_memory
from roger_trio._brokers.rabbitmq import topology
from roger_trio._topology import PartitionNames
from tests.apps import keyed as app
from tests.promises.support import (
    Hub,
    Keyed,
    Outsider,
    Setup,
    Told,
    drop_connections,
    eventually,
    held,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)


def serial(hub: Hub, tag: str, act: str = "", key: str = "e") -> Keyed:
    """Make a job with an execution key."""
    return Keyed(hub.name, tag, ekey=key, act=act)


async def waits(client: roger.Client, partition: str, count: int, key: str = "e") -> bool:
    """Tell whether so many jobs wait for a key."""
    found = [each for each in await client.keys(partition) if each.kind == "execution"]
    return [each.waiting for each in found if each.key == key] == [count]


async def line_up(client: roger.Client, partition: str, jobs: list[Keyed]) -> None:
    """Enqueue jobs that have to wait, each when the one before it does."""
    for count, job in enumerate(jobs, 1):
        await client.enqueue(job, partition)
        await eventually(lambda count=count: waits(client, partition, count))  # type: ignore[misc]


def began(hub: Hub) -> list[str]:
    """Return the tags of the jobs that began, in order."""
    return [tag for what, tag in hub.log if what == "began"]


# Serial...


@on_every_broker
async def test_copies_of_a_job_never_run_at_once_in_one_process(setup: Setup, hub: Hub) -> None:
    """An id was enqueued three times, into two queues of one node: the copies run in turn."""
    partition = setup.partition
    async with serving(setup.config({"default": 5, "other": 5})) as node:
        with trio.fail_after(20):
            for queue in ("default", "default", "other"):
                await node.enqueue(serial(hub, "one", "hold"), partition, id="j", queue=queue)
            await hub.wait("began")
            await eventually(lambda: has_queued(node, partition, 0))
            assert began(hub) == ["one"]
            hub.gate.set()
            await hub.wait("began", 3)
            assert not hub.overlapped


async def has_queued(client: roger.Client, partition: str, count: int) -> bool:
    """Tell whether so many jobs are in both queues."""
    queues = [await client.queued_jobs(partition, queue) for queue in ("default", "other")]
    return sum(map(len, queues)) == count


@on_durable_brokers
async def test_three_processes_never_run_two_jobs_of_a_key_at_once(
    setup: Setup, tmp_path: Path
) -> None:
    """66 jobs of three keys, ten workers each, a lock file per key; one process dies on the way."""
    partition, keys = setup.partition, ("a", "b", "c")
    jobs = [
        app.Keyed(str(number), None, key, "work", str(tmp_path / key))
        for number in range(22)
        for key in keys
    ]
    with trio.fail_after(60):
        async with roger.connect(setup.config()) as client, AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(program(setup, app="tests.apps.keyed"))
                for _ in range(3)
            ]
            for node in nodes:
                await node.wait("ready")
            await client.enqueue_many(jobs, partition)
            busy = nodes[0]
            await busy.wait("work", 3)
            await busy.die()

            async def is_done() -> bool:
                return not await held(client, partition) and not await client.queued_jobs(
                    partition, "default"
                )

            await eventually(is_done, within=40)
        lines = [line for node in nodes for line in node.lines]
        assert not [line for line in lines if line.startswith("overlap")]
        started = {line.split()[2] for line in lines if line.startswith("work")}
        assert len(started) == len(jobs)


@on_every_broker
async def test_jobs_of_a_key_run_in_the_order_they_came(setup: Setup, hub: Hub) -> None:
    """First come, first served, though six workers take them; other keys go beside them."""
    async with serving(setup.config({"default": 6}, callbacks=Told())) as node:
        with trio.fail_after(40):
            jobs = [
                serial(hub, f"{key}{number:02}", key=key) for number in range(15) for key in "xy"
            ]
            await node.enqueue_many(jobs, setup.partition)
            await hub.wait("after_run", len(jobs))
            await node.drain()
            assert await held(node, setup.partition) == {}
    for key in "xy":
        mine = [tag for tag in began(hub) if tag.startswith(key)]
        assert mine == [f"{key}{number:02}" for number in range(15)]
    assert hub.overlapped == set()


@on_every_broker
async def test_waiting_jobs_hold_no_worker(setup: Setup, hub: Hub, outsider: Outsider) -> None:
    """Failure 8, hole b: two workers, one holder, twelve that wait: other jobs flow, all day."""
    partition = setup.partition
    async with serving(setup.config({"default": 2}, callbacks=Told())) as node:
        with trio.fail_after(30):
            await node.enqueue(serial(hub, "holder", "hold"), partition)
            await hub.wait("began", tag="holder")
            waiting = [serial(hub, f"w{number:02}") for number in range(12)]
            await line_up(node, partition, waiting)
            for number in range(30):
                await node.enqueue(note.job(hub.name, str(number)), partition)
            await hub.wait("ran", 30)
            assert [each.args["tag"] for each in (await node.running_jobs(partition))[node.name]]
            assert hub.running == ["holder"]
            assert (await outsider.count(setup.names()[0])).messages == 0
            assert not hub.count("began", "w00")
            hub.gate.set()
            for each in waiting:
                await hub.wait("began", tag=each.tag)
    assert began(hub)[1:] == [each.tag for each in waiting]
    assert hub.overlapped == set()


@on_every_broker
async def test_a_holder_that_fails_lets_the_next_one_in_and_queues_up_again(
    setup: Setup, hub: Hub
) -> None:
    """An execution key is held while a job runs, not while it waits for its retry."""
    partition = setup.partition

    async def fail_once() -> None:
        await hub.gate.wait()
        if not roger.current_job().retry_count:
            raise ValueError("once")

    hub.extra["fail_once"] = fail_once
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(20):
            await node.enqueue(serial(hub, "1", "fail_once"), partition)
            await hub.wait("began")
            await node.enqueue(serial(hub, "2"), partition)
            await eventually(lambda: waits(node, partition, 1))
            hub.gate.set()
            await hub.wait("after_run", tag="1")
    assert began(hub) == ["1", "2", "1"]
    assert hub.overlapped == set()


def test_waiting_jobs_never_expire() -> None:
    """Failures 8, 9 and 13, holes a, b and c: durable, without expiry, and without a limit."""
    spec = PartitionNames.of("", "myapp").waiting_spec()
    declared = json.dumps(topology.queue_arguments(spec))
    assert '"x-queue-type": "quorum"' in declared
    assert not [word for word in ("expires", "ttl", "max-length") if word in declared]


@on_every_broker
async def test_all_queues_of_a_partition_are_there_once_its_node_is_ready(
    setup: Setup, outsider: Outsider
) -> None:
    """Also the one that no job waits in yet: RabbitMQ may forget a queue in its first second."""
    names = PartitionNames.of(setup.prefix, setup.partition)
    config = setup.config(persister=roger.BrokerPersister())
    with trio.fail_after(20):
        async with serving(config):
            for queue in (names.coordinator, names.waiting, names.state):
                await outsider.count(queue)


async def test_a_key_leaves_nothing_behind_on_the_broker(setup: Setup, hub: Hub) -> None:
    """No queue per key: the same ones stand there after fifty keys as after one."""
    config = roger.Config(broker="memory:", partitions={"p": {"default": 10}}, callbacks=Told())
    async with serving(config) as node:
        with trio.fail_after(20):
            await _two_of_each(hub, node, 0, 1)
            before = _queues()
            await _two_of_each(hub, node, 1, 51)
            assert _queues() == before


async def _two_of_each(hub: Hub, node: roger.Node, first: int, end: int) -> None:
    keys = [str(number) for number in range(first, end)] * 2
    await node.enqueue_many([serial(hub, key, key=key) for key in keys], "p")
    await hub.wait("after_run", 2 * end)


def _queues() -> set[str]:
    memory = find_memory()
    assert memory is not None
    return {row[0] for row in memory.engine._db.execute("SELECT name FROM queues")}


# Crashes...


@on_every_broker
async def test_waiting_jobs_survive_the_end_of_all_nodes(setup: Setup, hub: Hub) -> None:
    """Given back, the holder takes its own key again, and the others follow in their order."""
    partition = setup.partition
    with trio.fail_after(40):
        async with serving(setup.config(shutdown_timeout=0)) as node:
            await node.enqueue(serial(hub, "0", "hold"), partition)
            await hub.wait("began")
            await line_up(node, partition, [serial(hub, str(n)) for n in range(1, 5)])
        async with serving(setup.config(callbacks=Told())) as node:
            await hub.wait("began", 2, "0")
            assert await waits(node, partition, 4)
            await node.enqueue(serial(hub, "5"), partition)
            await eventually(lambda: waits(node, partition, 5))
            hub.gate.set()
            await hub.wait("after_run", 6)
    assert began(hub) == ["0", "0", "1", "2", "3", "4", "5"]
    assert hub.overlapped == set()


@on_every_broker
async def test_waiting_jobs_survive_lost_connections(setup: Setup, hub: Hub) -> None:
    """Thrice in a row: the holder goes on with its key, and no job is lost."""
    partition = setup.partition
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            await node.enqueue(serial(hub, "0", "hold"), partition)
            await hub.wait("began")
            await line_up(node, partition, [serial(hub, str(n)) for n in range(1, 5)])
            for _ in range(3):
                await drop_connections(node)
                assert await waits(node, partition, 4)
            hub.gate.set()
            await hub.wait("after_run", 5)
            await eventually(lambda: _is_free(node, partition))
    assert began(hub) == ["0", "1", "2", "3", "4"]
    assert hub.overlapped == set()


async def _is_free(client: roger.Client, partition: str) -> bool:
    return not await held(client, partition)


@on_durable_brokers
async def test_the_redelivered_job_of_a_killed_holder_runs_first_and_then_the_others(
    setup: Setup,
) -> None:
    """Failure 7: SIGKILL of the node that holds the key, which is the coordinator's as well."""
    partition = setup.partition
    with trio.fail_after(40):
        async with roger.connect(setup.config()) as client, AsyncExitStack() as stack:
            first = await stack.enter_async_context(program(setup, app="tests.apps.keyed"))
            await first.wait("ready")
            sent = await client.enqueue(app.Keyed("0", None, "e", "hold"), partition)
            await first.wait("hold 0")
            for number in range(1, 4):
                await client.enqueue(app.Keyed(str(number), None, "e"), partition)
            await eventually(lambda: waits(client, partition, 3))
            second = await stack.enter_async_context(program(setup, app="tests.apps.keyed"))
            await second.wait("ready")
            await first.die()
            await second.wait(f"hold 0 {sent.id}")
            assert second.count("quick") == 0
            assert await waits(client, partition, 3)
            assert await client.cancel(sent.id, partition) is roger.CancelResult.STOPPED
            await second.wait("after_run 3")
    order = [line.split()[1] for line in second.lines if line.startswith(("hold", "quick"))]
    assert order == ["0", "1", "2", "3"]


# What happens to those that wait...


@on_every_broker
async def test_nothing_that_happens_to_a_waiting_job_frees_the_running_ones_key(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Hole h: waiting jobs are cancelled, purged and buried, and the next one waits on."""
    partition = setup.partition
    async with serving(setup.config(callbacks=Told(), max_deliveries=2)) as node:
        with trio.fail_after(30):
            holder = await node.enqueue(serial(hub, "holder", "hold"), partition)
            await hub.wait("began")
            cancelled = await node.enqueue(serial(hub, "cancelled"), partition)
            await node.enqueue(serial(hub, "purged"), partition)
            await eventually(lambda: waits(node, partition, 2))
            assert await node.cancel(cancelled.id, partition) is roger.CancelResult.RECORDED
            await hub.wait("on_cancel", tag="cancelled")
            assert await waits(node, partition, 1)
            assert await node.purge(partition, "default") == 1
            assert await waits(node, partition, 0)
            # One that is buried before it ever started, for it has died too often.
            work, redelivered, _ = setup.names()
            await node.pause(partition, "default")
            await node.enqueue(serial(hub, "buried"), partition)
            [body] = await outsider.take_all(work)
            await outsider.publish(redelivered, body)
            await outsider.touch(redelivered)
            await node.resume(partition, "default")
            await hub.wait("on_buried", tag="buried")
            await node.enqueue(serial(hub, "last"), partition)
            await eventually(lambda: waits(node, partition, 1))
            assert await held(node, partition) == {"e": holder.id}
            assert hub.running == ["holder"]
            hub.gate.set()
            await hub.wait("after_run", tag="last")
    assert began(hub) == ["holder", "last"]
    assert hub.count("on_cancel") == 1


@on_every_broker
async def test_a_cancelled_holder_frees_its_key_once_it_has_ended(setup: Setup, hub: Hub) -> None:
    """Not sooner: the next one begins when the `finally` block of the first is through."""
    partition = setup.partition
    tidy = trio.Event()

    async def tidies_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                hub.tell("tidies")
                await tidy.wait()

    hub.extra["tidies_up"] = tidies_up
    async with serving(setup.config(callbacks=Told())) as node, trio.open_nursery() as nursery:
        with trio.fail_after(20):
            sent = await node.enqueue(serial(hub, "1", "tidies_up"), partition)
            await hub.wait("began")
            await node.enqueue(serial(hub, "2"), partition)
            await eventually(lambda: waits(node, partition, 1))
            nursery.start_soon(node.cancel, sent.id, partition)
            await hub.wait("tidies")
            assert await held(node, partition) == {"e": sent.id}
            assert await waits(node, partition, 1)
            assert began(hub) == ["1"]
            tidy.set()
            await hub.wait("after_run", tag="2")
    assert hub.overlapped == set()
    assert hub.count("on_cancel", "1") == 1
