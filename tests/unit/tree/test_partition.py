"""A partition's queues: changed while they run, and stopped in time."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

import roger_trio as roger
from roger_trio._brokers.base import Broker, QueueRefused, QueueSpec
from roger_trio._topology import QueueNames
from roger_trio._tree.consumer import QueueConsumer
from roger_trio._tree.control import Control
from roger_trio._tree.membership import CLEAN_UP_TIMEOUT
from roger_trio._tree.partition import Partition, diff
from tests.unit.tree.fakes import FakeBroker, FakeChannel, make_membership, make_worker

Clock = trio.testing.MockClock
TIMEOUT = 30.0
queues = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9))
started: list[str] = []
ended: list[str] = []
cancelled: list[str] = []


@roger.job(name="partition:stay")
async def stay(seconds: float, clean_up: float = 0) -> None:
    """Stay for a while; once cancelled, for another."""
    queue = roger.current_job().queue
    started.append(queue)
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(clean_up)
        cancelled.append(queue)
        raise
    ended.append(queue)


class PartitionBroker(FakeBroker):
    """A broker that may refuse queues, and counts its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.channels_opened = 0

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> None:
        if hit := self.refused.intersection(each.name for each in queues):
            raise QueueRefused(f"refused by a test: {sorted(hit)}")
        await super().declare(queues, afresh=afresh)

    def add_channel(self) -> FakeChannel:
        self.channels_opened += 1
        return super().add_channel()

    def send_to(self, queue: str, count: int, seconds: float, clean_up: float = 0) -> list[str]:
        """Send jobs to a queue, whether it is consumed or not."""
        name = QueueNames.of("", "myapp", queue).work
        self.queues.setdefault(name, deque())
        return self.send(*[stay.job(seconds, clean_up) for _ in range(count)], queue=name)


def make(broker: FakeBroker, wanted: Mapping[str, int]) -> Partition:
    """Make the partition myapp."""
    started.clear()
    ended.clear()
    cancelled.clear()

    def make_consumer(
        partition: str, queue: str, max_workers: int, control: Control
    ) -> QueueConsumer:
        names = QueueNames.of("", partition, queue)
        worker = make_worker(broker, queue, control=control)
        return QueueConsumer(cast("Broker", broker), queue, names, worker, max_workers)

    return Partition("myapp", wanted, make_consumer, make_membership(broker), TIMEOUT)


@contextlib.asynccontextmanager
async def hosting(broker: FakeBroker, wanted: Mapping[str, int]) -> AsyncGenerator[Partition]:
    """Run the partition myapp; at the end it is stopped."""
    partition = make(broker, wanted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partition.run)
        with trio.fail_after(10):
            await partition.wait_tried()
        yield partition
        partition.stop()


def consumed(broker: FakeBroker) -> set[str]:
    """Name the work queues that have a consumer."""
    found = {each.queue for channel in broker.channels for each in channel.subscriptions}
    return {name.removeprefix("myapp-") for name in found if "." not in name}


async def settle() -> None:
    """Let everything happen that can without time."""
    with trio.testing.assert_checkpoints():
        await trio.testing.wait_all_tasks_blocked()


# What a change takes...


@given(current=queues, wanted=queues)
def test_a_change_brings_about_what_is_wanted_and_touches_nothing_else(
    current: dict[str, int], wanted: dict[str, int]
) -> None:
    """Applying the three parts gives the wanted queues; each queue is in one of them at most."""
    changes = diff(current, wanted)
    found = {queue: size for queue, size in current.items() if queue not in changes.stop}
    found |= changes.resize
    found |= changes.start
    assert found == wanted
    touched = [*changes.start, *changes.resize, *changes.stop]
    assert len(touched) == len(set(touched))
    assert all(current.get(queue) != wanted.get(queue) for queue in touched)
    assert not set(changes.start) & set(current)


def test_a_queue_that_runs_dry_is_called_back_by_resizing_it() -> None:
    """It still has its consumer, so none is started beside it."""
    changes = diff({"a": 0, "b": 2}, {"a": 3, "b": 2})
    assert (dict(changes.start), dict(changes.resize), changes.stop) == ({}, {"a": 3}, ())


# Running...


async def test_what_is_wanted_before_it_runs_is_what_it_starts_with(
    autojump_clock: Clock,
) -> None:
    """A partition that waits for its start is reconfigured, and drained, without waiting for it."""
    broker = FakeBroker()
    partition = make(broker, {"a": 2})
    with trio.fail_after(5):
        await partition.drain()
        await partition.reconfigure({"b": 1})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partition.run)
            await partition.wait_tried()
            assert consumed(broker) == {"b"}
            partition.stop()


async def test_queues_are_consumed_as_configured_and_reconfigured(autojump_clock: Clock) -> None:
    """New ones begin, those left out end, and a queue that stays keeps its channel."""
    broker = PartitionBroker()
    async with hosting(broker, {"a": 1, "b": 2}) as partition:
        assert consumed(broker) == {"a", "b"}
        await partition.reconfigure({"b": 2, "c": 3})
        await partition.wait_tried()
        await settle()
        assert consumed(broker) == {"b", "c"} == set(partition.consumers)
        assert partition.queues == {"b": 2, "c": 3}
        assert broker.channels_opened == 3
    assert broker.channels == []


async def test_a_queue_left_out_keeps_its_running_jobs_and_can_be_called_back(
    autojump_clock: Clock,
) -> None:
    """They finish; no further one starts until the queue is wanted again."""
    broker = PartitionBroker()
    broker.send_to("a", 5, seconds=20)
    async with hosting(broker, {"a": 2}) as partition:
        await settle()
        await partition.reconfigure({})
        assert partition.queues == {}
        assert len(partition.running) == 2
        await trio.sleep(10)
        await partition.reconfigure({"a": 3})
        await partition.wait_tried()
        await settle()
        assert len(started) == len(partition.running) == 3
        await trio.sleep(40)
        assert len(ended) == 5
        await partition.reconfigure({})
        await settle()
        assert dict(partition.consumers) == {}
    assert cancelled == []


async def test_drain_takes_no_more_jobs_and_waits_for_the_running_ones(
    autojump_clock: Clock,
) -> None:
    """However long they take; what was not begun stays in the broker."""
    broker = PartitionBroker()
    broker.send_to("a", 3, seconds=10_000)
    async with hosting(broker, {"a": 2}) as partition:
        await settle()
        began = trio.current_time()
        await partition.drain()
        assert trio.current_time() >= began + 9_999
        assert len(ended) == 2
        assert len(broker.queues["myapp-a"]) == 1


async def test_a_refused_queue_holds_up_nobody(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are consumed; it is tried again, and said once why not."""
    broker = PartitionBroker()
    broker.refused = {"myapp-bad"}
    async with hosting(broker, {"bad": 1, "good": 1}) as partition:
        assert consumed(broker) == {"good"}
        await trio.sleep(300)
        [line] = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert line == "cannot consume: refused by a test: ['myapp-bad']"
        broker.refused.clear()
        await trio.sleep(30)
        assert consumed(broker) == {"bad", "good"}
        assert partition.consumers["bad"].failure is None


# Stopping...


async def test_stopping_gives_jobs_their_time(autojump_clock: Clock) -> None:
    """Those that end within it are done; it stops as soon as there are none left."""
    broker = PartitionBroker()
    sent = broker.send_to("a", 2, seconds=TIMEOUT - 1)
    waiting = broker.send_to("b", 3, seconds=TIMEOUT - 2)
    async with hosting(broker, {"a": 5, "b": 2}):
        await settle()
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(TIMEOUT - 1, abs=0.5)
    assert sorted(ended) == ["a", "a", "b", "b"]
    assert cancelled == []
    assert sorted(broker.acked) == sorted(sent + waiting[:2])
    assert len(broker.queues["myapp-b"]) == 1


async def test_stopping_cancels_and_gives_back_what_takes_too_long(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """All of its queues share one time; the cleanup of cancelled jobs gets its own."""
    broker = PartitionBroker()
    sent = broker.send_to("a", 2, seconds=1e6, clean_up=CLEAN_UP_TIMEOUT - 1)
    sent += broker.send_to("b", 2, seconds=1e6)
    async with hosting(broker, {"a": 2, "b": 2}):
        await settle()
        began = trio.current_time()
    took = trio.current_time() - began
    assert took == pytest.approx(TIMEOUT + CLEAN_UP_TIMEOUT - 1, abs=0.5)
    assert sorted(cancelled) == ["a", "a", "b", "b"]
    assert sorted(broker.given_back) == sent
    assert "left behind" not in caplog.text
    assert broker.acked == []


async def test_an_idle_partition_stops_at_once(autojump_clock: Clock) -> None:
    """Waiting deliveries are no reason to stay."""
    broker = PartitionBroker()
    async with hosting(broker, {"a": 2}):
        began = trio.current_time()
    assert trio.current_time() - began < 1


async def test_a_partition_that_is_stopped_before_it_runs_ends_at_once(
    autojump_clock: Clock,
) -> None:
    """It does not wait for the end of what has not begun; the order of tasks is drawn by lot."""
    with trio.fail_after(600):
        for _ in range(20):
            broker = PartitionBroker()
            broker.is_connected = False
            partition = make(broker, {"a": 1})
            partition.stop()
            await partition.run()
    assert trio.current_time() == 0


async def test_cleanup_without_end_is_left_behind_and_said_so(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The partition does not wait for it longer than it said, where the job allows it."""
    broker = PartitionBroker()
    broker.send_to("a", 1, seconds=1e6, clean_up=CLEAN_UP_TIMEOUT + 1)
    async with hosting(broker, {"a": 1}):
        await settle()
    assert "they are left behind" in caplog.text
    assert "'myapp'" in caplog.text
    assert cancelled == ["a"]
    assert len(broker.given_back) == 1
