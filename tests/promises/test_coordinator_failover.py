"""The coordinator dies, freezes, or is sent rubbish: nothing is forgotten, and one answers."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import pytest
import trio

import roger_trio as roger
from roger_trio._control.lane import REPEAT_AFTER
from roger_trio._topology import PartitionNames
from tests.apps import keyed as app
from tests.promises.support import (
    Hub,
    Keyed,
    Outsider,
    Program,
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

FAIL_OVER = 2.0
"""Seconds that the next coordinator may take to answer."""


async def start(stack: AsyncExitStack, setup: Setup, **options: object) -> Program:
    """Start a node; the first one's is the coordinator."""
    node = await stack.enter_async_context(program(setup, app="tests.apps.keyed", **options))
    await node.wait("ready")
    return node


class Enqueuer:
    """Enqueues jobs with keys into a queue nobody consumes, and knows what it was told."""

    def __init__(self, client: roger.Client, partition: str) -> None:
        self.client = client
        self.partition = partition
        self.holders: dict[str, str] = {}
        self.given: set[str] = set()
        self.lies: list[str] = []
        self.longest = 0.0
        self.done = 0
        self._progress = trio.lowlevel.ParkingLot()

    async def wait_done(self, count: int) -> None:
        """Wait for so many answers."""
        while self.done < count:
            await self._progress.park()

    async def enqueue(self, key: str) -> None:
        """Enqueue a job; note who holds its key, and what cannot be true."""
        began = trio.current_time()
        try:
            sent = await self.client.enqueue(app.Keyed(key, key), self.partition, queue="kept")
        except roger.DuplicateJob as exc:
            if self.holders.setdefault(key, exc.job_id) != exc.job_id:
                self.lies.append(f"{key} is held by {self.holders[key]}, not {exc.job_id}")
        else:
            if key in self.given or self.holders.setdefault(key, sent.id) != sent.id:
                self.lies.append(f"{key} was given to {sent.id} and to {self.holders[key]}")
            self.given.add(key)
        self.longest = max(self.longest, trio.current_time() - began)
        self.done += 1
        self._progress.unpark_all()

    async def enqueue_all(self, keys: list[str]) -> None:
        """Enqueue all, eight at a time, each of them twice."""
        queue = iter([key for key in keys for _ in range(2)])

        async def work() -> None:
            for key in queue:
                await self.enqueue(key)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(work)

    async def is_true(self) -> bool:
        """Tell whether keys, jobs and what was told are the same."""
        jobs = await self.client.queued_jobs(self.partition, "kept", 10_000)
        assert len(jobs) == len({each.id for each in jobs})
        there = {each.queue_key: each.id for each in jobs}
        return there == self.holders == await held(self.client, self.partition)


@on_durable_brokers
async def test_the_coordinators_node_is_killed_while_500_jobs_are_enqueued(setup: Setup) -> None:
    """Each call is answered truthfully and in under two seconds; no key is lost or doubled."""
    with trio.fail_after(60):
        async with roger.connect(setup.client_config()) as client, AsyncExitStack() as stack:
            first = await start(stack, setup)
            second = await start(stack, setup)
            enqueuer = Enqueuer(client, setup.partition)

            async def kill() -> None:
                await enqueuer.wait_done(150)
                await first.die()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                nursery.start_soon(enqueuer.enqueue_all, [f"k{n}" for n in range(250)])
            assert (enqueuer.done, len(enqueuer.holders), enqueuer.lies) == (500, 250, [])
            assert enqueuer.longest < FAIL_OVER
            assert await enqueuer.is_true()
            await second.die()
            await start(stack, setup)
            await enqueuer.enqueue_all(["k0", "k249", "new"])
            assert enqueuer.lies == []
            assert await enqueuer.is_true()


async def test_a_frozen_coordinator_that_was_superseded_does_not_answer(setup: Setup) -> None:
    """Failure 6: it wakes up in a world that went on, and must neither answer nor save."""
    with trio.fail_after(90):
        async with roger.connect(setup.client_config()) as client, AsyncExitStack() as stack:
            first = await start(stack, setup, heartbeat=1)
            second = await start(stack, setup)
            enqueuer = Enqueuer(client, setup.partition)
            await enqueuer.enqueue_all([f"a{n}" for n in range(20)])
            first.freeze()
            # The broker takes its connection for dead after two heartbeats, and activates the next.
            await enqueuer.enqueue_all([f"b{n}" for n in range(20)])
            first.thaw()
            await enqueuer.enqueue_all([f"b{n}" for n in range(30)])
            assert enqueuer.lies == []
            assert await enqueuer.is_true()
            # Now it is its turn again: it has to read what the other one saved.
            await second.die()
            await enqueuer.enqueue_all([f"{c}{n}" for c in "abc" for n in range(20)])
            assert enqueuer.lies == []
            assert await enqueuer.is_true()


async def test_a_frozen_coordinator_on_a_file_answers_what_it_was_asked_when_it_wakes(
    tmp_path: object, prefix: str, partition: str
) -> None:
    """There nobody supersedes a living process: its commands wait, and each is answered once."""
    setup = Setup(f"sqlite:{tmp_path}/roger.db", prefix, partition, set())
    with trio.fail_after(60):
        async with roger.connect(setup.client_config()) as client, AsyncExitStack() as stack:
            first = await start(stack, setup)
            await start(stack, setup)
            enqueuer = Enqueuer(client, partition)
            await enqueuer.enqueue_all([f"a{n}" for n in range(10)])
            first.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enqueuer.enqueue_all, [f"b{n}" for n in range(10)])
                await trio.sleep(REPEAT_AFTER + 0.5)  # So that commands are sent again.
                first.thaw()
            assert enqueuer.lies == []
            assert await enqueuer.is_true()


@on_every_broker
async def test_killing_its_connection_forgets_no_key(setup: Setup, hub: Hub) -> None:
    """Failure 6: six times in the middle of jobs with both keys, none of which gets lost."""
    partition, total = setup.partition, 120
    async with serving(setup.config(callbacks=Told())) as first, serving(setup.config()) as second:
        with trio.fail_after(60):
            jobs = [Keyed(hub.name, str(n), f"q{n}", f"e{n % 5}") for n in range(total)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.enqueue_many, jobs, partition)
                for turn in range(6):
                    await drop_connections((first, second)[turn % 2])
                    await hub.wait("began", (turn + 1) * 5)

            async def is_done() -> bool:
                return not await held(first, partition)

            await eventually(is_done)
            assert await first.buried_jobs(partition, "default") == []
    assert {tag for what, tag in hub.log if what == "began"} == {str(n) for n in range(total)}
    assert (hub.overlapped, hub.twice) == (set(), False)
    assert hub.count("on_cancel") == hub.count("on_error") == 0


class SlowPersister(roger.MemoryPersister):
    """Keeps state in memory, and takes its time while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_save = trio.Event()
        self.may_save.set()
        self.saving = trio.Event()

    def scoped(self, prefix: str) -> SlowPersister:
        """Return this very object: a test has one cluster."""
        return self

    async def append(self, partition: str, data: bytes) -> None:
        """Wait, then keep it."""
        self.saving.set()
        await self.may_save.wait()
        await super().append(partition, data)


@on_every_broker
async def test_a_purge_that_was_given_up_deletes_no_job_enqueued_after_it(setup: Setup) -> None:
    """The coordinator is busy for so long that the client purges; then it comes to the command."""
    partition, persister = setup.partition, SlowPersister()
    setup.created_queues.update(setup.names("kept"))
    async with (
        serving(setup.config(persister=persister)) as node,
        roger.connect(setup.client_config()) as client,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(20):
            await client.enqueue(note.job("nobody"), partition, queue="kept")
            persister.may_save, persister.saving = trio.Event(), trio.Event()
            nursery.start_soon(node.pause, partition, "default")
            await persister.saving.wait()
            assert await client.purge(partition, "kept") == 1
            sent = await client.enqueue(note.job("nobody"), partition, queue="kept")
            persister.may_save.set()
            assert await client.paused(partition) == {"default"}  # All before this is handled.
            assert [each.id for each in await client.queued_jobs(partition, "kept")] == [sent.id]


@on_every_broker
async def test_foreign_bytes_among_the_commands_are_logged_once_and_ignored(
    setup: Setup, hub: Hub, outsider: Outsider, caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish, another version and unknown commands: the coordinator answers the next one."""
    names = PartitionNames.of(setup.prefix, setup.partition)
    rubbish = [
        b"\xff\x00 rubbish",
        b"[]",
        b'{"roger": 99, "kind": "commands", "inbox": "i", "batch": 1, "ops": []}',
        b'{"roger": 1, "kind": "commands", "inbox": "i", "batch": 1, "ops": [["Explode"]]}',
        b'{"roger": 1, "kind": "commands", "inbox": "i", "batch": 1, "ops": [["Claim", 1]]}',
    ]
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(30):
            for number in range(3):
                for each in rubbish:
                    await outsider.publish(names.coordinator, each)
                await node.enqueue(Keyed(hub.name, str(number), "q", "e"), setup.partition)
                await hub.wait("after_run", number + 1)

            async def is_empty() -> bool:
                return (await outsider.count(names.coordinator)).messages == 0

            await eventually(is_empty)
    found = [
        each.getMessage()
        for each in caplog.records
        if each.levelno >= logging.WARNING and each.name.startswith("roger_trio._control")
    ]
    assert found
    assert len(found) == len(set(found)) <= len(rubbish)
