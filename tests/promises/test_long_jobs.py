"""Jobs that run longer than the broker's consumer timeout, and the others beside them.

On a RabbitMQ of the test's own that loses its patience with a consumer after two seconds, not
thirty minutes, and looks for such ones four times a second, not once a minute. How often it does
comes from the log of the node.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator

import pytest
import trio

import roger_trio as roger
from tests.amqp import NoRabbitMQ
from tests.promises.support import Hub, Keyed, Setup, brief, eventually, hold, serving
from tests.rabbitmq import PrivateRabbit

TIMEOUT = 2_000
"""Milliseconds that the broker waits for a settlement."""
TICK = 250
"""Milliseconds between two looks of the broker."""
PATIENCE = 80.0
MAX_DELIVERIES = 3
"""Deaths after which a job is buried: fewer than timeouts that a long job lives through here."""


@pytest.fixture(scope="module")
def _impatient() -> Iterator[PrivateRabbit]:
    rabbit = PrivateRabbit(settings=[f"consumer_timeout = {TIMEOUT}"])
    option = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
    rabbit._environment[option] = f"-rabbit channel_tick_interval {TICK}"
    with rabbit:
        # From 3.12 on our queues' own timeout is heeded, and a policy can make it shorter. Before
        # that there is no such policy.
        definition = f'{{"consumer-timeout":{TIMEOUT}}}'
        with contextlib.suppress(NoRabbitMQ):
            rabbit.ctl("set_policy", "impatient", ".*", definition, "--apply-to", "queues")
        yield rabbit


@pytest.fixture
def impatient(_impatient: PrivateRabbit, prefix: str, partition: str) -> Setup:
    """Return what makes configurations for the impatient broker."""
    return Setup(_impatient.url, prefix, partition, set())


class Timeouts(logging.Handler):
    """Counts the channels that were closed because of a consumer timeout."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._changed = trio.lowlevel.ParkingLot()

    def emit(self, record: logging.LogRecord) -> None:
        if "timed out" in record.getMessage():
            self.count += 1
            self._changed.unpark_all()

    async def wait(self, count: int) -> None:
        """Wait for so many."""
        while self.count < count:
            await self._changed.park()


@pytest.fixture
def timeouts() -> Generator[Timeouts]:
    """Return what counts the timeouts that a node in this process meets."""
    counting = Timeouts()
    logger = logging.getLogger("roger_trio._tree.session")
    logger.addHandler(counting)
    yield counting
    logger.removeHandler(counting)


async def test_long_jobs_and_their_neighbours_end_once(
    impatient: Setup, hub: Hub, timeouts: Timeouts
) -> None:
    """A job outlives more timeouts than it may die deaths; it and all others run once."""
    config = impatient.config(max_deliveries=MAX_DELIVERIES)
    with trio.fail_after(PATIENCE):
        async with serving(config) as node:
            for tag in ("long", "longer"):
                await node.enqueue(hold.job(hub.name, tag), impatient.partition)
            await hub.wait("began", 2)
            enqueued = 0
            while timeouts.count <= MAX_DELIVERIES + 1:
                await hub.wait("ran", enqueued - 4)  # So there are always some on, and no backlog.
                tag = f"brief {enqueued}"
                await node.enqueue(brief.job(hub.name, tag, 0.2), impatient.partition)
                enqueued += 1
            hub.gate.set()
            await hub.wait("ended", 2)
            await hub.wait("ran", enqueued)
            await _wait_empty(node, impatient)

    ends = [hub.count("ended", tag) for tag in ("long", "longer")]
    assert ends == [1, 1]
    assert hub.count("began") == 2
    assert hub.count("cancelled") == 0
    assert not hub.twice
    assert [tag for tag in _tags(enqueued) if hub.count("ran", tag) != 1] == []
    assert hub.most <= 10


def _tags(count: int) -> list[str]:
    return [f"brief {number}" for number in range(count)]


async def test_with_two_nodes_each_job_runs_once(
    impatient: Setup, hub: Hub, timeouts: Timeouts
) -> None:
    """The broker gives what is late to either node: it goes back to where the job runs."""
    config = impatient.config(max_deliveries=MAX_DELIVERIES)
    tags = [f"long {number}" for number in range(4)]
    with trio.fail_after(PATIENCE):
        async with serving(config) as node, serving(config):
            jobs = [hold.job(hub.name, tag) for tag in tags]
            await node.enqueue_many(jobs, impatient.partition)
            await hub.wait("began", 4)
            await timeouts.wait(2 * MAX_DELIVERIES)
            hub.gate.set()
            for tag in tags:
                await hub.wait("ended", 1, tag)
            await _wait_empty(node, impatient)

    assert [hub.count("began", tag) for tag in tags] == [1, 1, 1, 1]
    assert [hub.count("ended", tag) for tag in tags] == [1, 1, 1, 1]


async def test_jobs_that_wait_for_a_long_one_run_after_it(
    impatient: Setup, hub: Hub, timeouts: Timeouts
) -> None:
    """What waits for an execution key is on loan too, for as long as the holder runs."""
    config = impatient.config(max_deliveries=MAX_DELIVERIES)
    with trio.fail_after(PATIENCE):
        async with serving(config) as node:
            first = Keyed(hub.name, "first", ekey="k", act="hold")
            await node.enqueue(first, impatient.partition)
            await hub.wait("began", 1, "first")
            for tag in ("second", "third"):
                await node.enqueue(Keyed(hub.name, tag, ekey="k"), impatient.partition)
            await timeouts.wait(MAX_DELIVERIES + 2)
            assert hub.count("began") == 1
            hub.gate.set()
            await hub.wait("began", 3)
            await _wait_empty(node, impatient)

    assert [tag for what, tag in hub.log if what == "began"] == ["first", "second", "third"]
    assert hub.count("cancelled") == 0
    assert not hub.overlapped


async def _wait_empty(node: roger.Node, setup: Setup) -> None:
    """Wait until nothing of the queue is left with the broker or runs; nothing may be buried."""

    async def is_empty() -> bool:
        running = await node.running_partitions()
        queues = [each[setup.partition].get("default") for each in running.values()]
        return all(each and not each.running and not each.message_count for each in queues)

    await eventually(is_empty)
    assert await node.buried_jobs(setup.partition, "default") == []
