"""Promises 7 and 8, and the callbacks: each attempt ends in one outcome, and what it asks for."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
import trio

import roger_trio as roger
from tests.promises.support import (
    HUBS,
    Hub,
    Setup,
    brief,
    do,
    eventually,
    fail,
    hold,
    note,
    on_every_broker,
    serving,
)

LATE = 1.0
"""Seconds that a retry may be late."""


@roger.job(max_execution_time=0.2, retryable=True, retry_levels=(0,))
async def too_long(hub: str) -> None:
    """Take too long."""
    HUBS[hub].tell("began")
    try:
        await trio.sleep_forever()
    finally:
        HUBS[hub].tell("cleanup")


@on_every_broker
async def test_a_job_that_takes_too_long_is_cancelled_and_counts_as_failed(
    setup: Setup, hub: Hub
) -> None:
    """Promise 7: the deadline cancels it, it is retried, and buried with JobTimeout."""
    errors: list[BaseException] = []

    class Watch(roger.Callbacks):
        async def on_error(self, partition: str, job: Any, error: Any, state: Any) -> None:
            errors.append(error)

        async def on_buried(self, partition: str, job: Any, error: Any, state: Any) -> None:
            errors.append(error)
            hub.tell("buried")

    async with serving(setup.config(callbacks=Watch())) as node:
        await node.enqueue(too_long.job(hub.name), setup.partition)
        with trio.fail_after(15):
            await hub.wait("buried")
        await eventually(lambda: _is_buried(node, setup, 1))
        [envelope] = await node.buried_jobs(setup.partition, "default")
    assert (hub.count("began"), hub.count("cleanup")) == (2, 2)
    assert [type(each) for each in errors] == [roger.JobTimeout] * 2
    assert envelope.error is not None
    assert envelope.error.type == "roger_trio:JobTimeout"


async def _is_buried(node: roger.Client, setup: Setup, count: int) -> bool:
    return len(await node.buried_jobs(setup.partition, "default")) == count


@on_every_broker
async def test_retries_come_after_their_level_and_the_last_failure_buries(
    setup: Setup, hub: Hub
) -> None:
    """Promise 8: never early, at most a second late; buried with error, message, traceback."""
    async with serving(setup.config()) as node:
        sent = await node.enqueue(fail.job(hub.name, "x"), setup.partition)
        with trio.fail_after(20):
            await hub.wait("ran", 3)
        await eventually(lambda: _is_buried(node, setup, 1))
        [envelope] = await node.buried_jobs(setup.partition, "default")
    times = hub.times["ran", "x"]
    for (before, after), level in zip(pairwise(times), (0.25, 1.0), strict=True):
        assert level <= after - before <= level + LATE
    assert (envelope.id, envelope.retry_count) == (sent.id, 2)
    assert envelope.error is not None
    assert envelope.error.type == "ValueError"
    assert envelope.error.message == "no x"
    assert "raise ValueError" in envelope.error.traceback
    assert "roger_trio/_tree" not in envelope.error.traceback


@on_every_broker
async def test_buried_jobs_are_listed_replayed_and_purged(setup: Setup, hub: Hub) -> None:
    """Promise 8: by ids or all; a replayed job has all of its attempts before it."""
    hub.extra["do"] = _bury
    partition = setup.partition
    async with serving(setup.config()) as node:
        sent = [await node.enqueue(do.job(hub.name, str(n)), partition) for n in range(4)]
        await eventually(lambda: _is_buried(node, setup, 4))
        hub.extra["do"] = _succeed
        assert await node.replay_buried(partition, "default", [sent[1].id, "no such id"]) == 1
        with trio.fail_after(10):
            await hub.wait("ran", 2, "1")
        assert {each.id for each in await node.buried_jobs(partition, "default")} == {
            sent[n].id for n in (0, 2, 3)
        }
        assert await node.replay_buried(partition, "default") == 3
        with trio.fail_after(10):
            await hub.wait("ran", 8)
        hub.extra["do"] = _bury
        await node.enqueue(do.job(hub.name, "last"), partition)
        await eventually(lambda: _is_buried(node, setup, 1))
        assert await node.purge_buried(partition, "default") == 1
        assert await node.buried_jobs(partition, "default") == []


async def _bury() -> None:
    raise roger.Bury("enough")


async def _succeed() -> str:
    return "done"


@pytest.mark.parametrize(
    ("signal", "runs", "retry_counts"),
    [
        (lambda: roger.Retry(0.5), 2, [0, 1]),
        (lambda: roger.Snooze(0.5), 2, [0, 0]),
        (lambda: ExceptionGroup("nursery", [roger.Retry(0.5)]), 2, [0, 1]),
    ],
    ids=["retry", "snooze", "retry-in-a-group"],
)
@on_every_broker
async def test_a_job_may_ask_to_come_back_later(
    setup: Setup, hub: Hub, signal: Any, runs: int, retry_counts: list[int]
) -> None:
    """Retry spends an attempt and Snooze none; neither comes back early."""
    seen: list[int] = []

    async def ask() -> None:
        seen.append(roger.current_job().retry_count)
        if len(seen) == 1:
            raise signal()

    hub.extra["do"] = ask
    async with serving(setup.config()) as node:
        await node.enqueue(do.job(hub.name), setup.partition)
        with trio.fail_after(10):
            await hub.wait("ran", runs)
    first, second = hub.times["ran", ""]
    assert 0.5 <= second - first <= 0.5 + LATE
    assert seen == retry_counts


@on_every_broker
async def test_a_job_that_asks_for_the_end_of_time_is_kept(setup: Setup, hub: Hub) -> None:
    """A delay beyond what the broker can wait is cut, and does not disturb other publishes."""

    async def ask() -> None:
        raise roger.Snooze(1e15)

    hub.extra["do"] = ask
    async with serving(setup.config()) as node:
        await node.enqueue(do.job(hub.name, "snoozed"), setup.partition)
        with trio.fail_after(10):
            await hub.wait("ran", 1, "snoozed")
            await node.drain()
    assert hub.count("ran", "snoozed") == 1


@on_every_broker
async def test_retry_after_the_last_level_buries(setup: Setup, hub: Hub) -> None:
    """Retry(after) cannot prolong a job's life beyond its levels."""

    async def ask() -> None:
        raise roger.Retry(0)

    hub.extra["do"] = ask
    async with serving(setup.config(retry_levels=(0, 0))) as node:
        await node.enqueue(do.job(hub.name), setup.partition)
        await eventually(lambda: _is_buried(node, setup, 1))
        [envelope] = await node.buried_jobs(setup.partition, "default")
    assert hub.count("ran") == 3
    assert envelope.error is not None
    assert envelope.error.type.endswith(":Retry")


@on_every_broker
async def test_discard_ends_a_job_without_a_trace(setup: Setup, hub: Hub) -> None:
    """A discarded job is neither retried nor buried nor still queued, and calls nothing back."""
    called: list[str] = []

    class Watch(roger.Callbacks):
        async def after_run(self, *args: Any) -> None:
            called.append("after_run")

        async def on_error(self, *args: Any) -> None:
            called.append("on_error")

    async def ask() -> None:
        raise roger.Discard("not wanted")

    hub.extra["do"] = ask
    async with serving(setup.config(callbacks=Watch())) as node:
        await node.enqueue(do.job(hub.name), setup.partition)
        with trio.fail_after(10):
            await hub.wait("ran")
            await node.drain()
        assert await node.buried_jobs(setup.partition, "default") == []
        assert await node.queued_jobs(setup.partition, "default") == []
    assert (hub.count("ran"), called) == (1, [])


@on_every_broker
async def test_a_failure_that_is_not_retried_is_over_and_says_so(
    setup: Setup, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """on_error fires, and one ERROR line has the id, the name, the partition and the traceback."""

    @roger.job(name="promises:breaks")
    async def breaks() -> None:
        raise ValueError("broken")

    class Watch(roger.Callbacks):
        async def on_error(self, partition: str, job: Any, error: Any, state: Any) -> None:
            hub.tell("on_error", str(error))

    async with serving(setup.config(callbacks=Watch())) as node:
        sent = await node.enqueue(breaks.job(), setup.partition)
        with trio.fail_after(10):
            await hub.wait("on_error", tag="broken")
            await node.drain()
        assert await node.buried_jobs(setup.partition, "default") == []
    [line] = [each for each in caplog.records if each.levelno == logging.ERROR]
    for part in (sent.id, "promises:breaks", setup.partition):
        assert part in line.getMessage()
    assert line.exc_info is not None
    assert line.exc_info[0] is ValueError


@on_every_broker
async def test_max_buried_keeps_the_newest_and_counts_the_others(
    setup: Setup, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Hole c: what is dropped beyond the limit is the oldest, exactly so many, and said so."""
    hub.extra["do"] = _bury
    config = setup.config({"default": 1}, max_buried=3)
    async with serving(config) as node:
        sent = [await node.enqueue(do.job(hub.name, str(n)), setup.partition) for n in range(8)]
        with trio.fail_after(15):
            await hub.wait("ran", 8)
            await node.drain()
        left = [each.id for each in await node.buried_jobs(setup.partition, "default")]
    assert left == [each.id for each in sent[-3:]]
    dropped = [each for each in caplog.records if "max_buried is 3" in each.getMessage()]
    assert sum(int(each.args[0]) for each in dropped) == 5  # type: ignore[index,arg-type,misc]


@on_every_broker
async def test_many_that_are_buried_at_once_drop_no_more_than_the_excess(
    setup: Setup, hub: Hub
) -> None:
    """Hole c: workers that bury at the same moment do not each drop the same excess."""
    hub.extra["do"] = _bury
    async with serving(setup.config({"default": 20}, max_buried=10)) as node:
        await node.enqueue_many([do.job(hub.name, str(n)) for n in range(60)], setup.partition)
        with trio.fail_after(20):
            await hub.wait("ran", 60)
            await node.drain()
        assert len(await node.buried_jobs(setup.partition, "default")) == 10


@on_every_broker
async def test_an_exception_that_cannot_say_what_it_is_buries_its_job_alone(
    setup: Setup, hub: Hub
) -> None:
    """Failure 4: user code that fails while its error is described harms no neighbour."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    async def ask() -> None:
        raise Mute

    hub.extra["do"] = ask
    async with serving(setup.config(retry_levels=())) as node:
        await node.enqueue(hold.job(hub.name, "neighbour"), setup.partition)
        await node.enqueue(do.job(hub.name), setup.partition)
        await eventually(lambda: _is_buried(node, setup, 1))
        hub.gate.set()
        with trio.fail_after(10):
            await hub.wait("ended", tag="neighbour")
    assert hub.count("cancelled") == 0


async def test_a_long_error_is_buried_over_a_connection_of_small_frames(
    setup: Setup, hub: Hub
) -> None:
    """What is kept beside a buried job travels in one frame, whatever size was agreed on."""

    async def ask() -> None:
        raise ValueError("\x01" * 5000)

    hub.extra["do"] = ask
    broker = roger.AmqpConfig.from_url(f"{setup.url}?queue_settle_time=0&frame_max=4096")
    config = roger.Config(
        broker=broker, prefix=setup.prefix, retry_levels=(), enqueue_timeout=5.0,
        partitions={setup.partition: {"default": 2}},
    )  # fmt: skip
    async with serving(config) as node:
        await node.enqueue(do.job(hub.name), setup.partition)
        await eventually(lambda: _is_buried(node, setup, 1))
    assert hub.count("ran") == 1


# Callbacks...


@on_every_broker
async def test_callbacks_come_in_order_and_hand_their_state_on(setup: Setup, hub: Hub) -> None:
    """before_run → after_run or on_error … on_buried, each with the state of its attempt."""
    calls: list[tuple[Any, ...]] = []

    class Watch(roger.Callbacks):
        async def before_run(self, partition: str, job: roger.Envelope) -> Any:
            assert partition == job.partition == setup.partition
            assert job.started_at is not None
            calls.append(("before_run", job.name, job.retry_count))
            return job.retry_count

        async def after_run(self, partition: str, job: Any, result: Any, state: Any) -> None:
            calls.append(("after_run", result, state))
            hub.tell("after_run")

        async def on_error(self, partition: str, job: Any, error: Any, state: Any) -> None:
            calls.append(("on_error", str(error), state, error.__traceback__ is not None))

        async def on_buried(self, partition: str, job: Any, error: Any, state: Any) -> None:
            calls.append(("on_buried", str(error), state, error.__traceback__ is not None))
            hub.tell("on_buried")

    async with serving(setup.config({"default": 1}, callbacks=Watch())) as node:
        await node.enqueue(note.job(hub.name, "a"), setup.partition)
        with trio.fail_after(15):
            await hub.wait("after_run")
            await node.enqueue(fail.job(hub.name, "b"), setup.partition)
            await hub.wait("on_buried")
    ran, failed = note.options.name, fail.options.name
    assert calls == [
        ("before_run", ran, 0),
        ("after_run", "result of a", 0),
        ("before_run", failed, 0),
        ("on_error", "no b", 0, True),
        ("before_run", failed, 1),
        ("on_error", "no b", 1, True),
        ("before_run", failed, 2),
        ("on_buried", "no b", 2, True),
    ]


@on_every_broker
async def test_a_callback_that_raises_changes_nothing_but_the_log(
    setup: Setup, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Hole m: an error in after_run neither repeats nor fails the job; likewise all others."""

    class Broken(roger.Callbacks):
        async def before_run(self, *args: Any) -> None:
            raise SystemExit("before_run")

        async def after_run(self, *args: Any) -> None:
            raise ValueError("after_run")

        async def on_error(self, *args: Any) -> None:
            raise ExceptionGroup("on_error", [ValueError()])

        async def on_buried(self, *args: Any) -> None:
            hub.tell("on_buried")
            raise KeyError("on_buried")

    async with serving(setup.config(callbacks=Broken())) as node:
        await node.enqueue(note.job(hub.name, "fine"), setup.partition)
        await node.enqueue(fail.job(hub.name, "bad"), setup.partition)
        with trio.fail_after(15):
            await hub.wait("on_buried")
            await node.drain()
        assert await node.queued_jobs(setup.partition, "default") == []
        assert len(await node.buried_jobs(setup.partition, "default")) == 1
    assert (hub.count("ran", "fine"), hub.count("ran", "bad")) == (1, 3)
    text = "\n".join(each.getMessage() for each in caplog.records)
    for name in ("before_run", "after_run", "on_error", "on_buried"):
        assert f"the callback {name} failed" in text


@on_every_broker
async def test_a_job_that_ends_the_program_only_fails(setup: Setup, hub: Hub) -> None:
    """SystemExit is the failure of one job: the node and its other jobs go on."""

    async def leave() -> None:
        raise SystemExit(3)

    hub.extra["do"] = leave
    async with serving(setup.config(retry_levels=())) as node:
        await node.enqueue(do.job(hub.name), setup.partition)
        await node.enqueue(brief.job(hub.name, "other"), setup.partition)
        await eventually(lambda: _is_buried(node, setup, 1))
        with trio.fail_after(10):
            await hub.wait("ran", tag="other")
