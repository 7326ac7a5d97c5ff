"""Promise 1: nothing is lost, whatever node, broker or connection dies when."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import roger_trio as roger
from roger_trio._control.lane import REPEAT_AFTER
from tests.apps import node as app
from tests.promises.support import (
    Hub,
    Keyed,
    Program,
    Setup,
    do,
    drop_connections,
    eventually,
    note,
    on_durable_brokers,
    program,
    serving,
)
from tests.rabbitmq import PrivateRabbit


def _tags(hub: Hub) -> set[str]:
    return {tag for what, tag in hub.log if what == "ran"}


async def _buried_ids(client: roger.Client, setup: Setup) -> list[str]:
    return [each.id for each in await client.buried_jobs(setup.partition, "default")]


@on_durable_brokers
async def test_the_job_of_a_killed_node_runs_on_the_one_beside_it(setup: Setup) -> None:
    """SIGKILL in mid-job: the other node, up all the time, takes it, and no attempt is spent."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(60):
            async with program(setup) as first, program(setup) as second:
                both = (first, second)
                sent = await client.enqueue(app.hold.job("x"), setup.partition)
                line = f"hold x {sent.id} 0"
                victim, other = await _taken_by(both, line)
                victim.process.kill()
                await victim.ended.wait()
                await other.wait(line)
                assert (victim.count("hold"), other.count("hold")) == (1, 1)


async def _taken_by(programs: tuple[Program, Program], line: str) -> tuple[Program, Program]:
    """Wait until one of two programs has written the line; return it first."""
    first, second = programs
    found: list[Program] = []

    async def watch(each: Program) -> None:
        await each.wait(line)
        found.append(each)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, first)
        nursery.start_soon(watch, second)
    return (first, second) if found == [first] else (second, first)


async def test_a_killed_broker_keeps_what_is_queued_delayed_and_buried(
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub
) -> None:
    """50 queued, 10 due while it is down, 10 due afterwards, 10 buried: all are performed."""
    config, partition = private.config(queue_settle_time=1.0), private.partition
    hub.extra["do"] = _bury
    buried, queued = _jobs("buried", hub, 10), _jobs("queued", hub, 50)
    asleep, late = _jobs("asleep", hub, 10), _jobs("late", hub, 10)
    async with roger.connect(config) as client:
        with trio.fail_after(30):
            async with serving(config):
                dug = await client.enqueue_many(buried, partition)
                await eventually(lambda: _count_buried(client, private, 10))
            sent = await client.enqueue_many(queued, partition)
            await client.enqueue_many(late, partition, delay=12)
            await client.enqueue_many(asleep, partition, delay=2)
            due = trio.current_time() + 2
        with trio.fail_after(90):
            await trio.to_thread.run_sync(private_rabbit.kill)
            assert trio.current_time() < due
            await trio.sleep_until(due)  # The downtime that is tested; a restart may be quick.
            await trio.to_thread.run_sync(private_rabbit.start)
            assert sorted(await _buried_ids(client, private)) == sorted(_ids(dug))
            there = await client.queued_jobs(partition, "default")
            assert _ids(there)[: len(sent)] == _ids(sent)
            hub.extra["do"] = _succeed
            hub.log.clear()
            assert await client.replay_buried(partition, "default") == 10
            async with serving(config):
                wanted = {each.tag for each in (*buried, *queued, *asleep, *late)}  # type: ignore[attr-defined]
                assert len(wanted) == 80
                while not wanted <= _tags(hub):
                    await hub.wait("ran", hub.count("ran") + 1)


def _jobs(what: str, hub: Hub, count: int) -> list[roger.Job]:
    return [do.job(hub.name, f"{what} {number}") for number in range(count)]


def _ids(envelopes: list[roger.Envelope] | list[roger.Envelope | roger.DuplicateJob]) -> list[str]:
    return [each.id for each in envelopes if isinstance(each, roger.Envelope)]


async def _count_buried(client: roger.Client, setup: Setup, count: int) -> bool:
    return len(await _buried_ids(client, setup)) == count


async def _bury() -> None:
    raise roger.Bury("for now")


async def _succeed() -> None:
    pass


async def test_what_enqueue_confirmed_is_performed_though_connections_were_closed(
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub
) -> None:
    """2,000 jobs from eight tasks, all connections closed thrice: each id returned is performed."""
    config = private.config({"default": 50})
    confirmed: set[str] = set()
    closed = 0

    async def enqueue(who: int) -> None:
        number = 0
        while len(confirmed) < 2000 or closed < 3:
            tag = f"{who}-{number}"
            await client.enqueue(note.job(hub.name, tag), private.partition)
            confirmed.add(tag)
            number += 1

    async with roger.connect(config) as client, serving(config) as node:
        with trio.fail_after(80):
            async with trio.open_nursery() as nursery:
                for who in range(8):
                    nursery.start_soon(enqueue, who)
                for _ in range(3):
                    await _grows_to(confirmed, len(confirmed) + 100)
                    await trio.to_thread.run_sync(
                        private_rabbit.ctl, "close_all_connections", "maintenance"
                    )
                    closed += 1
            assert len(confirmed) >= 2000
            while not confirmed <= _tags(hub):
                await hub.wait("ran", hub.count("ran") + 1)
        assert _connections_made(client) >= 4
        assert _connections_made(node) >= 4
        assert not await node.buried_jobs(private.partition, "default")


async def test_a_killed_broker_keeps_keys_and_the_jobs_that_wait_for_them(
    private: Setup, private_rabbit: PrivateRabbit, hub: Hub
) -> None:
    """Failure 13: the holder goes on, and those that waited follow in their order."""
    config, partition = private.config(queue_settle_time=1.0), private.partition
    jobs = [Keyed(hub.name, str(n), f"q{n}", "e", "hold" if not n else "") for n in range(6)]
    async with serving(config) as node:
        with trio.fail_after(90):
            sent = await node.enqueue(jobs[0], partition)
            await hub.wait("began")
            await node.enqueue_many(jobs[1:], partition)
            await eventually(lambda: _wait_for_key(node, partition, 5))
            await trio.to_thread.run_sync(private_rabbit.kill)
            await trio.to_thread.run_sync(private_rabbit.start)
            with pytest.raises(roger.DuplicateJob) as caught:
                await node.enqueue(jobs[0], partition)
            assert caught.value.job_id == sent.id
            assert await _wait_for_key(node, partition, 5)
            hub.gate.set()
            await hub.wait("began", tag="5")
            await node.drain()
            assert await node.keys(partition) == []
    began = [tag for what, tag in hub.log if what == "began"]
    assert began == ["0", "1", "2", "3", "4", "5"]


async def _wait_for_key(client: roger.Client, partition: str, count: int) -> bool:
    keys = await client.keys(partition)
    return [each.waiting for each in keys if each.kind == "execution"] == [count]


async def _grows_to(confirmed: set[str], count: int) -> None:
    async def there() -> bool:
        return len(confirmed) >= count

    await eventually(there)


def _connections_made(client: roger.Client) -> int:
    """Count the connections that the client's publishing link has had."""
    return int(client._broker._publishing.generation)  # type: ignore[attr-defined]


@on_durable_brokers
async def test_a_retry_survives_a_death_between_its_publish_and_the_settlement(
    setup: Setup,
) -> None:
    """The process dies in `on_error`: the retry is there, and so is the unsettled first attempt."""
    async with roger.connect(setup.config()) as client:
        await client.enqueue(app.again.job("x"), setup.partition)
        with trio.fail_after(60):
            async with program(setup, dying=True) as first:
                await first.wait("on_error")
                await first.ended.wait()
            assert first.count("again x 0") == 1
            async with program(setup) as second:
                await second.wait("again x 1", 2)
                assert second.count("again x 0") == 1
        assert not await _buried_ids(client, setup)


@on_durable_brokers
async def test_a_burial_survives_a_death_between_its_publish_and_the_settlement(
    setup: Setup,
) -> None:
    """The process dies in `on_buried`: the job is among the buried ones, and then once more."""
    async with roger.connect(setup.config()) as client:
        sent = await client.enqueue(app.dig.job("x"), setup.partition)
        with trio.fail_after(60):
            async with program(setup, dying=True) as first:
                await first.wait("on_buried")
                await first.ended.wait()
            assert await _buried_ids(client, setup) == [sent.id]
            async with program(setup):
                await eventually(lambda: _count_buried(client, setup, 2))
        assert await _buried_ids(client, setup) == [sent.id] * 2


async def test_a_node_works_again_as_soon_as_it_is_connected_again(setup: Setup, hub: Hub) -> None:
    """What it asked while it could not hear is asked again at once, not two seconds later."""
    with trio.fail_after(60):
        async with roger.connect(setup.config()) as client, serving(setup.config()) as node:
            await client.enqueue(note.job(hub.name, "first"), setup.partition)
            await hub.wait("ran", tag="first")
            consuming = node._broker._consuming  # type: ignore[attr-defined]
            for _ in range(2):  # From now on it comes back later than the other ones.
                (await consuming.wait_up()).transport.abort("severed by a test")
                await wait_all_tasks_blocked()
            await consuming.wait_up()
            began = trio.current_time()
            await drop_connections(node)
            await client.enqueue(note.job(hub.name, "second"), setup.partition)
            await hub.wait("ran", tag="second")
            assert trio.current_time() - began < REPEAT_AFTER
