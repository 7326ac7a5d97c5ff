"""Promise 5: `cancel` stops a job wherever it is, and tells the truth about it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

import roger_trio as roger
from roger_trio._jobs import wire
from tests.apps import keyed as app
from tests.promises.support import (
    HUBS,
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

R = roger.CancelResult


def told(hub: Hub, tag: str) -> dict[str, int]:
    """Count the callbacks of a job."""
    names = ("after_run", "on_error", "on_cancel", "on_buried")
    return {name: hub.count(name, tag) for name in names if hub.count(name, tag)}


# Running...


@on_durable_brokers
async def test_a_job_that_runs_in_another_process_is_stopped(setup: Setup) -> None:
    """Hole i: its `finally` has run when the call returns, and `on_cancel` alone is called."""
    partition = setup.partition
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(40):
            async with (
                program(setup, app="tests.apps.keyed") as first,
                program(setup, app="tests.apps.keyed") as second,
            ):
                for node in (first, second):
                    await node.wait("ready")
                sent = [
                    await client.enqueue(app.Keyed(str(n), f"q{n}", f"e{n}", "hold"), partition)
                    for n in range(6)
                ]
                for n, each in enumerate(sent):
                    await eventually(lambda n=n: _began(n, first, second))  # type: ignore[misc]
                    assert await client.cancel(each.id, partition) is R.STOPPED
                    await eventually(lambda n=n: _cleaned(n, first, second))  # type: ignore[misc]
                    assert await client.cancel(each.id, partition) is R.FINISHED
                assert await held(client, partition) == {}
                lines = first.lines + second.lines
        for n in range(6):
            mine = [line.split()[0] for line in lines if line.split()[1:2] == [str(n)]]
            assert sorted(mine) == ["cleanup", "hold", "on_cancel"]


async def _began(number: int, *nodes: Any) -> bool:
    return any(node.count(f"hold {number} ") for node in nodes)


async def _cleaned(number: int, *nodes: Any) -> bool:
    return any(node.count(f"on_cancel {number}") for node in nodes)


@on_every_broker
async def test_child_tasks_end_with_their_job_and_finally_blocks_run(
    setup: Setup, hub: Hub
) -> None:
    """Whatever the job's tasks were about; the caller returns when all of it has ended."""

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            hub.tell("child", name)

    async def family() -> None:
        try:
            async with trio.open_nursery() as nursery:
                for name in "abc":
                    nursery.start_soon(child, name)
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            hub.tell("tidy")

    hub.extra["family"] = family
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(20):
            sent = await node.enqueue(Keyed(hub.name, "x", act="family"), setup.partition)
            await hub.wait("began")
            assert await node.cancel(sent.id, setup.partition) is R.STOPPED
            assert (hub.count("child"), hub.count("tidy")) == (3, 1)
            await hub.wait("on_cancel")
            await node.drain()
    assert told(hub, "x") == {"on_cancel": 1}
    assert hub.count("began") == 1


@pytest.mark.parametrize("end", ["returns", "fails", "retry", "bury", "snooze"])
@on_every_broker
async def test_however_a_cancelled_job_ends_it_counts_as_cancelled(
    setup: Setup, hub: Hub, end: str
) -> None:
    """A job that catches its cancellation and returns, raises or asks to come back does not."""
    errors: dict[str, BaseException] = {
        "fails": ValueError("in finally"),
        "retry": roger.Retry(0),
        "bury": roger.Bury("because"),
        "snooze": roger.Snooze(0),
    }

    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            hub.tell("waits")
            await hub.gate.wait()
        if end in errors:
            raise errors[end]
        return "a result"

    hub.extra["stubborn"] = stubborn
    results: list[roger.CancelResult] = []
    async with serving(setup.config(callbacks=Told())) as node:

        async def cancel() -> None:
            results.append(await node.cancel(sent.id, setup.partition))

        with trio.fail_after(20):
            job = Keyed(hub.name, "x", "q", "e", "stubborn")
            sent = await node.enqueue(job, setup.partition)
            await hub.wait("waits")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await eventually(lambda: _is_told(node))
                hub.gate.set()
            await hub.wait("on_cancel")
            await node.drain()
            assert await held(node, setup.partition) == {}
            assert await node.queued_jobs(setup.partition, "default") == []
            assert await node.buried_jobs(setup.partition, "default") == []
    assert results == [R.STOPPED]
    assert told(hub, "x") == {"on_cancel": 1}
    assert hub.count("began") == 1


async def _is_told(node: roger.Node) -> bool:
    """Tell whether a job that runs has been told to stop."""
    partitions = node._partitions.values()
    return any(each.scope.cancel_called for partition in partitions for each in partition.running)


@on_every_broker
async def test_a_job_that_takes_its_time_to_clean_up_is_said_to_be_stopping(
    setup: Setup, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call returns after a bounded time, and what was told comes true."""
    monkeypatch.setattr("roger_trio._tree.membership.CLEAN_UP_TIMEOUT", 0.3)

    async def slow() -> None:
        with trio.CancelScope(shield=True):
            await hub.gate.wait()

    hub.extra["slow"] = slow
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(20):
            sent = await node.enqueue(Keyed(hub.name, "x", act="slow"), setup.partition)
            await hub.wait("began")
            assert await node.cancel(sent.id, setup.partition) is R.STOPPING
            assert told(hub, "x") == {}
            hub.gate.set()
            await hub.wait("on_cancel")
            await node.drain()
    assert told(hub, "x") == {"on_cancel": 1}


@roger.job(name="promises:thread", retryable=True)
def thread(hub: str, tag: str, fails: bool) -> None:
    """Run in a thread until the test lets it go."""
    here = HUBS[hub]
    trio.from_thread.run_sync(here.tell, "began", tag)
    here.extra["release"].wait(30)
    if fails:
        raise ValueError("after all")


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@on_every_broker
async def test_a_thread_cannot_be_stopped_and_the_result_says_so(
    setup: Setup, hub: Hub, fails: bool
) -> None:
    """It goes on to its end, counts as cancelled then, and is not retried."""
    release = hub.extra["release"] = threading.Event()
    try:
        async with serving(setup.config(callbacks=Told())) as node:
            with trio.fail_after(20):
                sent = await node.enqueue(thread.job(hub.name, "x", fails), setup.partition)
                await hub.wait("began")
                assert await node.cancel(sent.id, setup.partition) is R.UNSTOPPABLE
                assert told(hub, "x") == {}
                release.set()
                await hub.wait("on_cancel")
                await node.drain()
                assert await node.queued_jobs(setup.partition, "default") == []
    finally:
        release.set()
    assert told(hub, "x") == {"on_cancel": 1}


@on_every_broker
async def test_a_job_cancels_itself_and_its_siblings(setup: Setup, hub: Hub) -> None:
    """Through the ambient client; neither the job nor the node hangs."""
    partition = setup.partition
    siblings: list[str] = []
    results: list[roger.CancelResult] = []

    async def cancels() -> None:
        client: roger.Node = hub.extra["node"]
        results.extend([await client.cancel(each, partition) for each in siblings])
        try:
            await client.cancel(roger.current_job().id, partition)
        finally:
            hub.tell("dies")
        await trio.sleep_forever()

    hub.extra["cancels"] = cancels
    async with serving(setup.config(callbacks=Told())) as node:
        hub.extra["node"] = node
        with trio.fail_after(30):
            for tag in ("a", "b"):
                job = Keyed(hub.name, tag, act="hold")
                siblings.append((await node.enqueue(job, partition)).id)
            late = await node.enqueue(note.job(hub.name, "c"), partition, delay=60)
            siblings.append(late.id)
            await hub.wait("began", 2)
            await node.enqueue(Keyed(hub.name, "self", act="cancels"), partition)
            await hub.wait("dies")
            for tag in ("a", "b", "self"):
                await hub.wait("on_cancel", tag=tag)
            await node.drain()
    assert results == [R.STOPPED, R.STOPPED, R.RECORDED]
    assert told(hub, "self") == {"on_cancel": 1}
    assert hub.count("began", "self") == 1


@on_every_broker
async def test_cancelling_races_with_success_and_everybody_is_told_the_same(
    setup: Setup, hub: Hub
) -> None:
    """200 jobs are cancelled as they end: each one was cancelled, or it was not."""
    partition, total = setup.partition, 200
    results: dict[str, roger.CancelResult] = {}
    turns = 0

    async def ends_soon() -> None:
        nonlocal turns
        turns += 1
        for _ in range(turns % 50):
            await trio.lowlevel.checkpoint()

    async def cancel(sent: roger.Envelope) -> None:
        tag = sent.args["tag"]
        await hub.wait("began", tag=tag)
        results[tag] = await node.cancel(sent.id, partition)

    hub.extra["ends_soon"] = ends_soon
    jobs: list[roger.Job] = [Keyed(hub.name, str(n), act="ends_soon") for n in range(total)]
    async with serving(setup.config({"default": 20}, callbacks=Told())) as node:
        with trio.fail_after(60):
            await node.pause(partition, "default")
            sent = await node.enqueue_many(jobs, partition)
            async with trio.open_nursery() as nursery:
                for each in sent:
                    assert isinstance(each, roger.Envelope)
                    nursery.start_soon(cancel, each)
                await node.resume(partition, "default")
            await node.drain()
    for n in range(total):
        tag = str(n)
        assert hub.count("began", tag) == 1
        expected = "after_run" if results[tag] is R.FINISHED else "on_cancel"
        assert results[tag] in (R.FINISHED, R.STOPPED)
        assert told(hub, tag) == {expected: 1}, results[tag]


# Not running...


@on_every_broker
async def test_copies_of_a_cancelled_job_that_are_met_at_once_are_told_of_once(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """A publish whose confirmation was lost is repeated: two workers meet the job, one calls."""
    partition, tags = setup.partition, [str(number) for number in range(5)]
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(30):
            await node.pause(partition, "default")
            for tag in tags:
                sent = await node.enqueue(Keyed(hub.name, tag), partition)
                await outsider.publish(setup.names()[0], wire.dump(sent), sent.id)
                assert await node.cancel(sent.id, partition) is R.RECORDED
            await node.resume(partition, "default")
            for tag in tags:
                await hub.wait("on_cancel", tag=tag)
            await eventually(lambda: is_drained(node, partition))
            await node.drain()
    assert [told(hub, tag) for tag in tags] == [{"on_cancel": 1}] * len(tags)
    assert hub.count("began") == 0


async def is_drained(node: roger.Node, partition: str) -> bool:
    """Tell whether nothing waits in the queue."""
    return not await node.queued_jobs(partition, "default")


@on_every_broker
async def test_a_job_that_waits_for_whatever_never_starts_again(  # noqa: PLR0915
    setup: Setup, hub: Hub
) -> None:
    """Queued, delayed, retrying, or waiting for its execution key: `on_cancel` once for each."""
    partition = setup.partition

    async def fail() -> None:
        raise ValueError("again")

    hub.extra["fail"] = fail
    async with serving(setup.config({"default": 2}, callbacks=Told())) as node:
        with trio.fail_after(30):
            sent: dict[str, roger.Envelope] = {}

            async def enqueue(tag: str, act: str = "", **options: Any) -> None:
                job = Keyed(hub.name, tag, f"key of {tag}", options.pop("ekey", None), act)
                sent[tag] = await node.enqueue(job, partition, **options)

            await enqueue("retrying", "fail")
            await hub.wait("on_error")
            assert await node.cancel(sent["retrying"].id, partition) is R.RECORDED
            await enqueue("delayed", delay=0.3)
            assert await node.cancel(sent["delayed"].id, partition) is R.RECORDED
            await enqueue("holder", "hold", ekey="e")
            await hub.wait("began", tag="holder")
            await enqueue("waiting", ekey="e")
            await eventually(lambda: _waits(node, partition))
            assert await node.cancel(sent["waiting"].id, partition) is R.RECORDED
            await enqueue("second", "hold")
            await hub.wait("began", tag="second")
            await enqueue("queued")
            assert await node.cancel(sent["queued"].id, partition) is R.RECORDED
            hub.gate.set()
            cancelled = ("retrying", "delayed", "waiting", "queued")
            for tag in cancelled:
                await hub.wait("on_cancel", tag=tag)
            await hub.wait("after_run", 2)
            await node.drain()
            assert await held(node, partition) == {}
            for tag in (*cancelled, "holder"):
                assert await node.cancel(sent[tag].id, partition) is R.FINISHED
    assert [hub.count("began", tag) for tag in cancelled] == [1, 0, 0, 0]
    assert [hub.count("on_cancel", tag) for tag in cancelled] == [1] * 4


async def _waits(client: roger.Client, partition: str) -> bool:
    return any(each.waiting == 1 for each in await client.keys(partition))


@on_every_broker
async def test_an_unknown_job_is_recorded_and_not_started_when_it_comes(
    setup: Setup, hub: Hub
) -> None:
    """An id given by the caller may be cancelled before it is enqueued."""
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(20):
            assert await node.cancel("comes later", setup.partition) is R.RECORDED
            job = Keyed(hub.name, "x")
            await node.enqueue(job, setup.partition, id="comes later")
            await hub.wait("on_cancel")
            await node.enqueue(Keyed(hub.name, "y"), setup.partition)
            await hub.wait("after_run")
    assert (told(hub, "x"), told(hub, "y")) == ({"on_cancel": 1}, {"after_run": 1})


@on_every_broker
async def test_a_cancellation_is_remembered_through_the_end_of_all_nodes(
    setup: Setup, hub: Hub
) -> None:
    """And through lost connections; `on_cancel` is called by the node that meets the job."""
    partition = setup.partition
    with trio.fail_after(40):
        async with serving(setup.config({"default": 1})) as node:
            late = await node.enqueue(Keyed(hub.name, "late"), partition, delay=1)
            await node.enqueue(Keyed(hub.name, "holder", act="hold"), partition)
            await hub.wait("began")
            queued = await node.enqueue(Keyed(hub.name, "queued"), partition)
            for each in (late, queued):
                assert await node.cancel(each.id, partition) is R.RECORDED
            await drop_connections(node)
            hub.gate.set()
            await node.stop_partition(partition)
        async with serving(setup.config(callbacks=Told())):
            await hub.wait("on_cancel", tag="late")
            await hub.wait("on_cancel", tag="queued")
    assert hub.count("began", "late") == hub.count("began", "queued") == 0
    assert hub.count("on_cancel") == 2


@on_every_broker
async def test_a_partition_that_nobody_runs_is_named_with_those_that_run(setup: Setup) -> None:
    """Cancelling there records nothing, and says so."""
    async with (
        serving(setup.config()),
        roger.connect(setup.client_config(enqueue_timeout=1.0)) as client,
    ):
        with trio.fail_after(20):
            with pytest.raises(roger.PartitionNotRunning, match=setup.partition) as caught:
                await client.cancel("some id", f"{setup.partition}x")
            assert caught.value.partition == f"{setup.partition}x"


@on_every_broker
async def test_a_replayed_job_is_not_taken_for_ended(setup: Setup, hub: Hub) -> None:
    """The node that saw it end is told that it starts anew, and cancelling it holds again."""

    async def bury() -> None:
        raise roger.Bury("enough")

    hub.extra["bury"] = bury
    partition = setup.partition
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(20):
            for tag, key in (("plain", None), ("with a key", "k")):
                sent = await node.enqueue(Keyed(hub.name, tag, key, act="bury"), partition)
                await hub.wait("on_buried", tag=tag)
                await eventually(lambda id=sent.id: _ended(node, id, partition))  # type: ignore[misc]
                await node.pause(partition, "default")
                assert await node.replay_buried(partition, "default") == 1
                assert await node.cancel(sent.id, partition) is R.RECORDED
                await node.resume(partition, "default")
                await hub.wait("on_cancel", tag=tag)
                assert told(hub, tag) == {"on_buried": 1, "on_cancel": 1}


async def _ended(node: roger.Node, id: str, partition: str) -> bool:
    return await node.cancel(id, partition) is R.FINISHED
