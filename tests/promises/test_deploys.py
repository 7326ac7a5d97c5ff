"""Promise 11 under load: deploys lose nothing and double nothing, whenever the signal comes."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterable

import pytest
import trio

import roger_trio as roger
from tests.apps import node as app
from tests.promises.support import (
    Hub,
    Outsider,
    Program,
    Setup,
    brief,
    eventually,
    hold,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)
from tests.rabbitmq import PrivateRabbit


def tally(nodes: Iterable[Program], word: str) -> Counter[str]:
    """Count, by tag, the lines of all nodes that begin with a word."""
    lines = itertools.chain.from_iterable(each.lines for each in nodes)
    return Counter(line.split()[1] for line in lines if line.split()[0] == word)


async def ends(node: Program, *, within: float, status: int = 0) -> None:
    """Check that a program ends by itself, in time."""
    with trio.fail_after(within):
        await node.ended.wait()
    assert node.process.returncode == status, node.lines[-5:]


async def all_worked(nodes: Iterable[Program], count: int, *, within: float = 60) -> None:
    """Wait until so many jobs have ended."""

    async def have() -> bool:
        return len(tally(nodes, "worked")) == count

    await eventually(have, within=within)


async def nothing_left(outsider: Outsider, setup: Setup) -> None:
    """Wait until no job is anywhere, also none that was on loan."""

    async def none() -> bool:
        counts = [await outsider.count(each) for each in setup.names()]
        return [each.messages for each in counts] == [0, 0, 0]

    await eventually(none)


class Fleet:
    """Node processes, all there ever were, and the jobs that they are given.

    Args:
        setup: Where they work.
        nursery: Where they are looked after; they are killed when it is cancelled.
    """

    def __init__(self, setup: Setup, nursery: trio.Nursery) -> None:
        self._setup = setup
        self._nursery = nursery
        self.nodes: list[Program] = []
        self.total = 0
        self.quiet = trio.Event()
        self.is_quiet = trio.Event()

    async def start(self) -> None:
        """Start one more."""
        self.nodes.append(await self._nursery.start(self._look_after))

    async def _look_after(self, *, task_status: trio.TaskStatus[Program]) -> None:
        queues = {self._setup.partition: {"default": 5}}
        async with program(self._setup, shutdown_timeout=30, partitions=queues) as node:
            task_status.started(node)
            await node.ended.wait()

    async def stop(self, nodes: Iterable[Program]) -> None:
        """Tell some to stop, and see them end in good order."""
        for each in nodes:
            each.process.send_signal(signal.SIGTERM)
        for each in nodes:
            await ends(each, within=30)

    async def load(self, client: roger.Client) -> None:
        """Enqueue short jobs until it is to be quiet."""
        while not self.quiet.is_set():
            numbers = range(self.total, self.total + 10)
            jobs = [app.work.job(str(number), 0.005 * (number % 8)) for number in numbers]
            self.total += len(await client.enqueue_many(jobs, self._setup.partition))
            await trio.sleep(0.05)
        self.is_quiet.set()


@on_durable_brokers
async def test_rolling_restarts_under_load(setup: Setup, outsider: Outsider) -> None:
    """Three nodes, replaced one after the other, twice, while jobs come in: each runs once."""
    async with roger.connect(setup.config()) as client, trio.open_nursery() as nursery:
        fleet = Fleet(setup, nursery)
        with trio.fail_after(90):
            for _ in range(3):
                await fleet.start()
            nursery.start_soon(fleet.load, client)
            for old in range(6):
                await fleet.start()
                await fleet.nodes[-1].wait("worked", 5)
                await fleet.nodes[old].wait("worked", 5)
                await fleet.stop([fleet.nodes[old]])
            fleet.quiet.set()
            await fleet.is_quiet.wait()
            await all_worked(fleet.nodes, fleet.total)
            await fleet.stop(fleet.nodes[6:])
    once = Counter({str(number): 1 for number in range(fleet.total)})
    assert tally(fleet.nodes, "work") == once
    assert tally(fleet.nodes, "worked") == once
    await nothing_left(outsider, setup)


@on_durable_brokers
@pytest.mark.parametrize("order", ["signal, end", "end, signal", "end, pause, signal"])
async def test_hundreds_of_jobs_that_end_as_the_signal_comes(
    setup: Setup, outsider: Outsider, order: str
) -> None:
    """They have all been settled when the process ends: none runs again."""
    total = 300
    queues = {setup.partition: {"default": total}}
    async with (
        roger.connect(setup.config()) as client,
        program(setup, shutdown_timeout=20, partitions=queues) as node,
    ):
        with trio.fail_after(80):
            jobs = [app.until_told.job(str(number)) for number in range(total)]
            await client.enqueue_many(jobs, setup.partition)
            await node.wait("work ", total)
            for each in order.split(", "):
                match each:
                    case "end":
                        node.process.send_signal(signal.SIGUSR1)
                    case "signal":
                        node.process.send_signal(signal.SIGTERM)
                    case _:  # In the middle of it.
                        await node.wait("worked", total // 2)
            await ends(node, within=30)
    assert tally([node], "worked") == Counter({str(number): 1 for number in range(total)})
    await nothing_left(outsider, setup)


@on_durable_brokers
async def test_a_second_signal_amid_the_load_loses_nothing(
    setup: Setup, outsider: Outsider
) -> None:
    """What has ended is settled, the rest comes back at once, with no attempt spent."""
    short = [f"short{number}" for number in range(60)]
    long = [f"long{number}" for number in range(20)]
    queues = {setup.partition: {"default": 100}}
    async with (
        roger.connect(setup.config()) as client,
        program(setup, shutdown_timeout=60, partitions=queues) as node,
    ):
        with trio.fail_after(80):
            jobs: list[roger.Job] = [app.until_told.job(tag) for tag in short]
            jobs += [app.hold.job(tag) for tag in long]
            await client.enqueue_many(jobs, setup.partition)
            await node.wait("work ", len(short))
            await node.wait("hold ", len(long))
            node.process.send_signal(signal.SIGTERM)
            node.process.send_signal(signal.SIGUSR1)
            await node.wait("worked short")
            node.process.send_signal(signal.SIGTERM)
            await ends(node, within=10)
        left = await client.queued_jobs(setup.partition, "default")
        done = tally([node], "worked")
        assert Counter(each.args["tag"] for each in left) + done == Counter([*short, *long])
        assert {(each.retry_count, each.deaths) for each in left} == {(0, 0)}
        assert tally([node], "cleanup") == Counter(long)


@on_durable_brokers
async def test_a_signal_at_any_moment_of_the_start(setup: Setup, outsider: Outsider) -> None:
    """From the first moment that it is heard, the process ends soon, and takes nothing along."""
    async with roger.connect(setup.config()) as client:
        jobs = [app.work.job(str(number), 0.01) for number in range(20)]
        await client.enqueue_many(jobs, setup.partition)
        nodes: list[Program] = []
        with trio.fail_after(90):
            for milliseconds in (0, 10, 30, 60, 100, 200, 400):
                async with program(setup, app="tests.apps.hearing", shutdown_timeout=10) as node:
                    nodes.append(node)
                    await node.wait("hears")
                    await trio.sleep(milliseconds / 1000)
                    node.process.send_signal(signal.SIGTERM)
                    await ends(node, within=15)
            async with program(setup) as last:
                nodes.append(last)
                await all_worked(nodes, len(jobs))
                await nothing_left(outsider, setup)
    assert set(tally(nodes, "worked").values()) == {1}
    assert tally(nodes, "work") == tally(nodes, "worked")


@pytest.mark.parametrize("moment", [0.1, 1.5])
async def test_a_signal_while_the_coordinator_does_not_answer(
    setup: Setup, outsider: Outsider, moment: float
) -> None:
    """A node that waits for leave to start a job gives it back, and ends.

    Not on the embedded broker: who is frozen with the lock of the file holds up all others.
    """
    async with roger.connect(setup.config()) as client, program(setup) as frozen:
        with trio.fail_after(60):
            await client.enqueue(app.quick.job("first"), setup.partition)
            await frozen.wait("quick first")
            frozen.freeze()
            async with program(setup, app="tests.apps.hearing", shutdown_timeout=1) as waits:
                # No node starts a job before it knows what the coordinator remembers.
                await client.enqueue(app.quick.job("second"), setup.partition)
                await client.enqueue(app.quick.job("third"), setup.partition)
                await waits.wait("hears")
                await trio.sleep(moment)
                waits.process.send_signal(signal.SIGTERM)
                await ends(waits, within=20)
                assert waits.count("quick") == 0
            frozen.thaw()
            await frozen.wait("quick", 3)
            await nothing_left(outsider, setup)
    assert frozen.count("quick second") == frozen.count("quick third") == 1


@pytest.mark.parametrize(
    ("is_frozen", "signals", "within"),
    [(True, 1, 25), (True, 2, 10), (False, 1, 25), (False, 2, 10)],
    ids=["frozen", "frozen, at once", "away", "away, at once"],
)
async def test_a_signal_without_a_broker(
    private: Setup, private_rabbit: PrivateRabbit, is_frozen: bool, signals: int, within: float
) -> None:
    """The node ends in its time; its jobs, the finished and the others, are still in the broker."""
    # Young queues do not survive that: both wait until these are old enough.
    async with program(private, shutdown_timeout=1, queue_settle_time=1.5) as node:
        async with roger.connect(private.config(queue_settle_time=1.5)) as client:
            with trio.fail_after(40):
                jobs: list[roger.Job] = [app.hold.job("long"), app.until_told.job("short")]
                await client.enqueue_many(jobs, private.partition)
                await node.wait("hold")
                await node.wait("work short")
        stop = private_rabbit.freeze if is_frozen else private_rabbit.kill
        try:
            await trio.to_thread.run_sync(stop)
            node.process.send_signal(signal.SIGUSR1)
            await node.wait("worked short")
            for _ in range(signals):
                node.process.send_signal(signal.SIGTERM)
                await trio.sleep(0.5)  # Two at once would be one.
            await ends(node, within=within)
        finally:
            if is_frozen:
                private_rabbit.thaw()
            await trio.to_thread.run_sync(private_rabbit.start)
        assert node.count("cleanup long") == 1
    async with program(private, shutdown_timeout=1) as successor:
        with trio.fail_after(40):
            await successor.wait("hold long")


@on_durable_brokers
async def test_a_signal_while_paused(setup: Setup) -> None:
    """What waits behind a pause stays, untouched, and the pause holds for the next node."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(60):
            async with program(setup) as node:
                await client.enqueue(app.work.job("running", 1.0), setup.partition)
                await node.wait("work running")
                await client.pause(setup.partition, "default")
                await client.enqueue(app.quick.job("waits"), setup.partition)
                node.process.send_signal(signal.SIGTERM)
                await ends(node, within=20)
                assert (node.count("worked"), node.count("quick")) == (1, 0)
            async with program(setup) as successor:
                await eventually(lambda: is_paused(client, setup))
                successor.process.send_signal(signal.SIGTERM)
                await ends(successor, within=20)
                assert successor.count("quick") == 0
        left = await client.queued_jobs(setup.partition, "default")
    assert [(each.args["tag"], each.retry_count, each.deaths) for each in left] == [("waits", 0, 0)]


async def is_paused(client: roger.Client, setup: Setup) -> bool:
    """Tell whether the queue is paused, by the word of a node that runs it."""
    try:
        return "default" in await client.paused(setup.partition)
    except roger.PartitionNotRunning:
        return False


@contextlib.asynccontextmanager
async def leaving_nothing() -> AsyncGenerator[None]:
    """Check that no task, no thread and nothing unclosed is left of what goes on in the block.

    What is not closed warns as it is collected, and warnings are errors.
    """
    tasks = trio.lowlevel.current_statistics().tasks_living
    threads = set(threading.enumerate())
    yield
    gc.collect()
    assert trio.lowlevel.current_statistics().tasks_living == tasks

    async def gone() -> bool:
        left = set(threading.enumerate()) - threads
        return all("Trio thread" in each.name for each in left)  # Trio's own, which it keeps.

    await eventually(gone)


@on_durable_brokers
async def test_an_embedding_program_cancels_at_any_moment(setup: Setup, hub: Hub) -> None:
    """All is given back, and nothing is left of the node; what did not end is done by the next."""
    total = 40
    config = setup.config({"default": 7}, shutdown_timeout=0.05)
    jobs = [brief.job(hub.name, str(number), 0.03) for number in range(total)]
    async with roger.connect(setup.config()) as client:
        await client.enqueue_many(jobs, setup.partition)
    for milliseconds in (0, 1, 3, 7, 15, 30, 60, 100, 150, 220, 300):
        with trio.fail_after(20):
            async with leaving_nothing(), trio.open_nursery() as nursery:
                nursery.start_soon(roger.serve, config)
                await trio.sleep(milliseconds / 1000)
                nursery.cancel_scope.cancel()
    async with serving(config) as node:
        with trio.fail_after(30):
            while {tag for what, tag in hub.log if what == "ran"} != set(map(str, range(total))):
                await hub.wait("ran", hub.count("ran") + 1)
            await node.drain()
    assert not hub.twice
    async with roger.connect(setup.config()) as client:
        assert await client.queued_jobs(setup.partition, "default") == []
        assert await client.buried_jobs(setup.partition, "default") == []
    assert Counter(tag for what, tag in hub.log if what == "ran").most_common(1)[0][1] == 1


@on_every_broker
async def test_nothing_is_left_of_a_node_that_was_cancelled_with_jobs(
    setup: Setup, hub: Hub
) -> None:
    """Neither when it had connected and worked, nor when its start had just begun."""
    with trio.fail_after(40):
        async with leaving_nothing():
            async with serving(setup.config(shutdown_timeout=0.1)) as node:
                jobs = [hold.job(hub.name, str(number)) for number in range(5)]
                await node.enqueue_many(jobs, setup.partition)
                await hub.wait("began", 5)
            assert hub.count("cancelled") == 5
