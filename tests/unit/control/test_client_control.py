"""The client's calls that ask coordinators and nodes, against ones that can fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import roger_trio as roger
from roger_trio._brokers.base import Broker, Message
from roger_trio._brokers.embedded.open import memory_of_this_run
from roger_trio._control.bus import Bus
from roger_trio._control.cluster import Info, dump_info, dump_jobs, node_info
from roger_trio._state.operations import (
    Cancel,
    Claim,
    Conclude,
    Gone,
    Published,
    Release,
    Start,
    Sync,
    Withdraw,
)
from roger_trio._topology import QueueNames

from .fakes import FakeCoordinator, identity, memory_broker, node_bus, replying

EVERYTHING = "a/b c\nd \N{SNOWMAN} \N{GRINNING FACE}"


class Unique(roger.Job, name="control:Unique"):
    """A job with keys."""

    key: str | None
    serial: str | None = None

    def queue_key(self) -> str | None:
        """Give it."""
        return self.key

    def execution_key(self) -> str | None:
        """Give it."""
        return self.serial

    async def perform(self) -> None:
        """Do nothing."""


@attrs.frozen
class Stage:
    """A client, the broker behind it, and the coordinator of partition ``p``."""

    client: roger.Client
    broker: Broker
    coordinator: FakeCoordinator

    async def queued(self) -> list[str]:
        """Return the ids of the jobs that are in the queue."""
        return [each.id for each in await self.client.queued_jobs("p", "default")]

    async def member(self, bus: Bus) -> None:
        """Have a node be a member of the partition, which it tells all who ask."""
        self.coordinator.ledger.handle(Sync("n", bus.inbox, "host"), 0.0)


@contextlib.asynccontextmanager
async def stage(*, is_answering: bool = True, **options: Any) -> AsyncGenerator[Stage]:
    """Set it."""
    config = roger.Config(broker="memory:", **options)
    async with memory_broker(memory_of_this_run()) as broker, roger.connect(config) as client:
        coordinator = FakeCoordinator(broker)
        async with contextlib.AsyncExitStack() as stack:
            if is_answering:
                await stack.enter_async_context(coordinator.running())
            yield Stage(client, broker, coordinator)


def info_of(bus: Bus) -> dict[str, Any]:
    """Make what a node tells of itself."""
    partitions = bus.partitions()
    running = {
        name: {
            queue: roger.QueueInfo(
                max_workers=most, paused=False, message_count=1, consumer_count=1, running=0
            )
            for queue, most in queues.items()
        }
        for name, queues in partitions.items()
    }
    info = Info(node=node_info(identity("n"), partitions), running=running, waiting={"w": {"q": 3}})
    return dump_info(info)


@contextlib.asynccontextmanager
async def hosting(
    broker: Broker, name: str = "n", **replies: Mapping[str, Any]
) -> AsyncGenerator[Bus]:
    """Run a node that hosts queue ``default`` of partition ``p``."""
    async with node_bus(broker, name) as bus:
        bus.partitions = lambda: {"p": {"default": 10}}
        replying(bus, lambda question: {"info": info_of(bus), **replies}.get(str(question["ask"])))
        yield bus


# Keys...


async def test_a_queue_key_is_held_before_the_job_is_published() -> None:
    """And told to be published afterwards; the second job is refused with key and holder."""
    with trio.fail_after(10):
        async with stage() as here:
            job = await here.client.enqueue(Unique(EVERYTHING), "p", id="first")
            with pytest.raises(roger.DuplicateJob) as caught:
                await here.client.enqueue(Unique(EVERYTHING), "p")
            assert (caught.value.key, caught.value.job_id) == (EVERYTHING, "first")
            assert job.queue_key == EVERYTHING
            assert await here.queued() == ["first"]
            [held] = await here.client.keys("p")
            assert (held.key, held.kind, held.job_id, held.queue) == (
                EVERYTHING,
                "queue",
                "first",
                "default",
            )
            kinds = [type(each) for each in here.coordinator.operations[:2]]
            assert kinds == [Claim, Published]


async def test_many_with_keys_are_claimed_together_and_answered_in_order() -> None:
    """Also two of one key in the same call; those without a key go with them."""
    jobs = [Unique("k1"), Unique(None), Unique("k1"), Unique("k2"), Unique(None, "serial")]
    with trio.fail_after(10):
        async with stage() as here:
            results = await here.client.enqueue_many(jobs, "p")
            [first, _, duplicate, _, serial] = results
            assert isinstance(first, roger.Envelope)
            assert isinstance(serial, roger.Envelope)
            assert isinstance(duplicate, roger.DuplicateJob)
            assert duplicate.job_id == first.id
            ids = [each.id for each in results if isinstance(each, roger.Envelope)]
            assert await here.queued() == ids
            assert serial.execution_key == "serial"
            assert len(here.coordinator.batches) == 2
            again = await here.client.enqueue_many(jobs[:1] * 1000, "p")
            assert {type(each) for each in again} == {roger.DuplicateJob}


async def test_without_a_node_a_unique_job_is_not_enqueued(autojump_clock: MockClock) -> None:
    """After the timeout, and its claim is withdrawn should somebody come."""
    with trio.fail_after(300):
        async with stage(is_answering=False, enqueue_timeout=5.0) as here:
            began = trio.current_time()
            with pytest.raises(roger.PartitionNotRunning, match=r"'p' .*partitions that run: none"):
                await here.client.enqueue(Unique("k"), "p")
            assert 5 <= trio.current_time() - began < 8
            assert await here.queued() == []
            await here.client.enqueue(Unique(None, "serial"), "p")
            async with here.coordinator.running(), hosting(here.broker):
                assert await here.client.keys("p") == []
                await here.client.enqueue(Unique("k"), "p")


async def test_a_node_that_does_not_answer_is_told_apart(autojump_clock: MockClock) -> None:
    """The partition runs somewhere; nobody answered in time."""
    with trio.fail_after(300):
        async with stage(enqueue_timeout=5.0) as here, hosting(here.broker):
            here.coordinator.is_stuck = True
            with pytest.raises(roger.PartitionNotRunning, match="no node that runs it answered"):
                await here.client.enqueue(Unique("k"), "p")
            assert await here.queued() == []


async def test_a_job_that_is_refused_by_the_broker_gives_its_key_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was enqueued, and the key is free for another."""
    monkeypatch.setattr("roger_trio._brokers.embedded.broker.MAX_BODY", 1000)
    with trio.fail_after(10):
        async with stage() as here:
            with pytest.raises(roger.InvalidJob):
                await here.client.enqueue(Unique("k", "x" * 1000), "p")
            await here.client.enqueue(Unique("k"), "p")
            assert Withdraw in {type(each) for each in here.coordinator.operations}


async def test_an_enqueue_that_is_given_up_leaves_no_key(autojump_clock: MockClock) -> None:
    """Cancelled while the coordinator thinks: its answer, which comes later, claims nothing."""
    with trio.fail_after(60):
        async with stage(is_answering=False) as here, hosting(here.broker):
            await here.broker.declare([here.coordinator.names.coordinator_spec()])
            with trio.move_on_after(1) as scope:
                await here.client.enqueue(Unique("k"), "p")
            assert scope.cancelled_caught
            async with here.coordinator.running():
                assert await here.client.keys("p") == []
            assert await here.queued() == []


async def test_leaving_a_client_withdraws_what_it_gave_up(autojump_clock: MockClock) -> None:
    """What was told in the background reaches the broker before the client is gone."""
    with trio.fail_after(60):
        async with memory_broker(memory_of_this_run()) as broker:
            coordinator = FakeCoordinator(broker)
            await broker.declare([coordinator.names.coordinator_spec()])
            async with (
                roger.connect(roger.Config(broker="memory:")) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(client.enqueue, Unique("k"), "p")
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            async with coordinator.running():
                while len(coordinator.batches) < 2:
                    await coordinator.heard.park()
            assert [type(each) for each in coordinator.operations] == [Claim, Withdraw]


async def test_a_cancelled_client_is_left_at_once(autojump_clock: MockClock) -> None:
    """Its connection is being cancelled too; the coordinator finds out that nobody listens."""
    with trio.fail_after(60):
        async with memory_broker(memory_of_this_run()):
            began = trio.current_time()
            with trio.CancelScope() as scope:
                async with (
                    roger.connect(roger.Config(broker="memory:")) as client,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(client.enqueue, Unique("k"), "p")
                    await wait_all_tasks_blocked()
                    scope.cancel()
            assert trio.current_time() == began


async def test_a_key_is_released_by_hand() -> None:
    """Told what was freed; a key nobody holds is named."""
    with trio.fail_after(10):
        async with stage() as here:
            job = await here.client.enqueue(Unique("k"), "p")
            [freed] = await here.client.release_key("p", "k")
            assert (freed.key, freed.job_id) == ("k", job.id)
            with pytest.raises(roger.RogerError, match="no job holds the key 'k'"):
                await here.client.release_key("p", "k")
            for bad in ("", "x" * 1001, 7):
                with pytest.raises(roger.RogerError, match="key: expected text of 1 to 1000"):
                    await here.client.release_key("p", bad)  # type: ignore[arg-type]


# Cancel, pause, resume...


@pytest.mark.parametrize("found", ["stopped", "stopping", "unstoppable", "finished", "absent"])
async def test_cancel_tells_what_the_nodes_found(autojump_clock: MockClock, found: str) -> None:
    """The most telling reply counts; without one the cancellation is recorded."""
    with trio.fail_after(60):
        async with stage() as here, hosting(here.broker, cancel={"found": found}) as bus:
            await here.member(bus)
            result = await here.client.cancel("job", "p")
            assert result.value == found.replace("absent", "recorded")
            concluded = [each for each in here.coordinator.operations if isinstance(each, Conclude)]
            assert len(concluded) == (found == "finished")


async def test_a_job_that_is_stopped_on_one_node_has_not_finished(
    autojump_clock: MockClock,
) -> None:
    """Another node knows an earlier job with its id, and replies first."""
    asked: list[Mapping[str, Any]] = []

    def reply(question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        asked.append(question)
        return {"found": "stopped"} if len(asked) > 1 else None

    with trio.fail_after(60):
        async with (
            stage() as here,
            hosting(here.broker, cancel={"found": "finished"}) as former,
            node_bus(here.broker, "m") as bus,
        ):
            replying(bus, reply)
            await here.member(former)
            here.coordinator.ledger.handle(Sync("m", bus.inbox, "host"), 0.0)
            assert await here.client.cancel("job", "p") is roger.CancelResult.STOPPED


async def test_cancel_of_a_job_that_is_over() -> None:
    """The coordinator knows."""
    with trio.fail_after(10):
        async with stage() as here:
            job = await here.client.enqueue(Unique("k"), "p")
            here.coordinator.ledger.handle(Release(job.id), 0.0)
            assert await here.client.cancel(job.id, "p") is roger.CancelResult.FINISHED


async def test_a_dead_member_is_reported_and_a_silent_one_is_bounded(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits without end; the coordinator learns who is gone."""
    with trio.fail_after(60):
        async with stage() as here, hosting(here.broker) as silent:
            here.coordinator.ledger.handle(Sync("dead", "inbox.dead", "host"), 0.0)
            await here.member(silent)
            began = trio.current_time()
            assert await here.client.cancel("job", "p") is roger.CancelResult.RECORDED
            assert trio.current_time() - began < 8
            await wait_all_tasks_blocked()
            assert Gone("inbox.dead") in here.coordinator.operations
            assert await here.client.pause("p", "default") == frozenset({"n"})
    assert "does not answer now (n)" in caplog.text


async def test_a_member_that_comes_back_is_not_told_to_be_dead(autojump_clock: MockClock) -> None:
    """Nobody listened at its inbox for a moment; what it runs must not be started elsewhere."""
    with trio.fail_after(60):
        async with stage() as here, hosting(here.broker) as silent, trio.open_nursery() as nursery:

            async def come_back(inbox: str) -> None:
                await trio.sleep(3)
                async with here.broker.listen(inbox):
                    await trio.sleep(30)

            here.coordinator.ledger.handle(Sync("back", "inbox.back", "host"), 0.0)
            here.coordinator.ledger.handle(Sync("dead", "inbox.dead", "host"), 0.0)
            await here.member(silent)
            nursery.start_soon(come_back, "inbox.back")
            assert await here.client.pause("p", "default") == frozenset({"n"})
            await wait_all_tasks_blocked()
            gone = [each for each in here.coordinator.operations if isinstance(each, Gone)]
            assert gone == [Gone("inbox.dead")]


async def test_pause_and_resume_hold_on_all_members(autojump_clock: MockClock) -> None:
    """An empty set: everywhere; remembered by the coordinator."""
    with trio.fail_after(60):
        async with stage() as here, hosting(here.broker, pause={"done": True}) as bus:
            await here.member(bus)
            assert await here.client.pause("p", "default") == frozenset()
            assert await here.client.paused("p") == {"default"}
            assert await here.client.resume("p", "default") == frozenset()
            assert await here.client.paused("p") == frozenset()


async def test_unknown_partitions_and_queues_are_named_with_what_there_is(
    autojump_clock: MockClock,
) -> None:
    """Long before the timeout."""
    with trio.fail_after(300):
        async with stage() as here, hosting(here.broker):
            client = here.client
            calls: list[Any] = [
                lambda: client.cancel("job", "nope"),
                lambda: client.pause("nope", "default"),
                lambda: client.resume("nope", "default"),
                lambda: client.paused("nope"),
                lambda: client.keys("nope"),
                lambda: client.release_key("nope", "k"),
                lambda: client.running_jobs("nope"),
            ]
            for call in calls:
                began = trio.current_time()
                with pytest.raises(roger.PartitionNotRunning, match=r"'nope' .*that run: 'p'"):
                    await call()
                assert trio.current_time() - began < 3
            for pausing in (client.pause, client.resume):
                with pytest.raises(
                    roger.RogerError, match="no queue 'nope'; its queues: 'default'"
                ):
                    await pausing("p", "nope")
            for bad in ("", "x" * 201, "\ud800", 7):
                with pytest.raises(roger.InvalidJob, match="id: expected text of 1 to 200 bytes"):
                    await client.cancel(bad, "p")  # type: ignore[arg-type]


# The cluster...


async def test_a_bare_client_sees_all_nodes(autojump_clock: MockClock) -> None:
    """With those that do not answer named; what runs, what waits, and both."""
    with trio.fail_after(60):
        async with stage() as here, hosting(here.broker, "a") as a, node_bus(here.broker, "b") as b:
            b.partitions = lambda: {"p": {"other": 1}}
            b.hello_soon()
            await wait_all_tasks_blocked()
            nodes = await here.client.nodes()
            assert nodes["a"] == node_info(identity("a"), a.partitions())
            assert not nodes["b"].answering
            assert nodes["b"].partitions == {"p": {"other": 1}}
            assert nodes.not_answering == {"b"}
            running = await here.client.running_partitions()
            assert running["a"]["p"]["default"].max_workers == 10
            assert await here.client.waiting_partitions() == {"a": {"w": {"q": 3}}}
            both = await here.client.partitions()
            assert set(both["a"]) == {"p", "w"}
            assert both.not_answering == {"b"}


async def test_running_jobs_come_with_their_arguments(autojump_clock: MockClock) -> None:
    """All of a job's bookkeeping survives the way; foreign replies are ignored and logged."""
    with trio.fail_after(60):
        async with stage() as here:
            job = await here.client.enqueue(Unique(None, "serial"), "p")
            reply = dump_jobs({"p": [job]})
            async with hosting(here.broker, "a", jobs=reply), hosting(here.broker, "b", jobs={}):
                assert await here.client.running_jobs("p") == {"a": [job]}
                assert await here.client.running_jobs() == {"a": {"p": [job]}}


async def test_without_nodes_the_cluster_is_empty() -> None:
    """At once."""
    with trio.fail_after(5):
        async with stage(is_answering=False) as here:
            assert await here.client.nodes() == {}
            assert await here.client.partitions() == {}
            assert await here.client.running_jobs() == {}


# Purge and replay...


async def test_a_purge_without_keys_is_the_coordinators() -> None:
    """It purges between two commands; without a coordinator the client does it."""
    for is_answering in (True, False):
        with trio.fail_after(10):
            async with stage(is_answering=is_answering) as here:
                await here.client.enqueue_many([Unique(None)] * 7, "p")
                assert await here.client.purge("p", "default") == 7
                assert await here.queued() == []


async def test_a_purge_frees_the_keys_of_what_it_deletes() -> None:
    """Page by page; a job with a key that runs keeps it."""
    with trio.fail_after(20):
        async with stage() as here:
            jobs = [Unique(f"k{number}" if number % 2 else None) for number in range(1100)]
            await here.client.enqueue_many([Unique("running")], "p", queue="other")
            await here.client.enqueue_many(jobs, "p")
            assert len(await here.client.keys("p")) == 551
            assert await here.client.purge("p", "default") == 1100
            assert [each.key for each in await here.client.keys("p")] == ["running"]


async def test_a_purge_ends_the_jobs_that_wait_for_an_execution_key() -> None:
    """They are counted; the one that runs keeps its keys, also if a copy of it is purged."""
    with trio.fail_after(20):
        async with stage() as here:
            for attempt, id in enumerate(["runs", "waits"]):
                start = Start(id, "default", None, "e", "n", "inbox.n", "", str(attempt))
                here.coordinator.ledger.handle(start, 0.0)
            await here.client.enqueue(Unique(None, "e"), "p", id="runs")
            assert await here.client.purge("p", "default") == 2
            [held] = await here.client.keys("p")
            assert (held.job_id, held.waiting) == ("runs", 0)


async def bury(here: Stage, *jobs: roger.Envelope | roger.DuplicateJob) -> None:
    """Move all queued jobs to the buried ones, as if they had failed."""
    names = QueueNames.of("", "p", "default")
    async with here.broker.browse(names.work, 10_000) as deliveries:
        await here.broker.publish_many(
            names.buried, [Message(each.body, each.message_id) for each in deliveries]
        )
        for each in deliveries:
            each.ack()
    for job in jobs:
        assert isinstance(job, roger.Envelope)
        here.coordinator.ledger.handle(Release(job.id), 0.0)


async def test_replayed_jobs_take_their_keys_again(caplog: pytest.LogCaptureFixture) -> None:
    """Those whose key another job holds stay buried, are logged, and are not counted."""
    jobs = [Unique(f"k{n}" if n % 2 else None) for n in range(250)]
    with trio.fail_after(20):
        async with stage() as here:
            await bury(here, *await here.client.enqueue_many(jobs, "p"))
            blocking = await here.client.enqueue(Unique("k7"), "p", queue="other")
            assert await here.client.replay_buried("p", "default") == 249
            [stuck] = await here.client.buried_jobs("p", "default")
            assert stuck.queue_key == "k7"
            held = {each.key: each.job_id for each in await here.client.keys("p")}
            assert len(held) == 125
            assert held["k7"] == blocking.id
            [record] = [each for each in caplog.records if each.levelname == "WARNING"]
            assert f"job {stuck.id} stays buried: job {blocking.id} holds" in record.getMessage()
            here.coordinator.ledger.handle(Release(blocking.id), 0.0)
            assert await here.client.replay_buried("p", "default", ids=[stuck.id]) == 1


async def test_a_replayed_job_may_run_again() -> None:
    """Also one without a key that was cancelled."""
    with trio.fail_after(20):
        async with stage() as here, hosting(here.broker) as bus:
            job = await here.client.enqueue(Unique(None), "p")
            here.coordinator.ledger.handle(Cancel(job.id, "", 0), 0.0)
            here.coordinator.ledger.handle(Conclude(job.id, bus.inbox, "n"), 0.0)
            await bury(here)
            assert await here.client.replay_buried("p", "default") == 1
            start = Start(job.id, "default", None, None, "n", bus.inbox)
            assert type(here.coordinator.ledger.handle(start, 0.0).answer).__name__ == "Run"


async def test_without_a_node_only_jobs_without_keys_are_replayed() -> None:
    """The others stay, and the error counts both."""
    with trio.fail_after(20):
        async with stage(is_answering=False) as here:
            await here.client.enqueue_many([Unique(None), Unique(None, "serial")], "p")
            await bury(here)
            with pytest.raises(roger.PartitionNotRunning, match=r"of 1 jobs.* 1 others were"):
                await here.client.replay_buried("p", "default")
            assert len(await here.queued()) == 1
            assert len(await here.client.buried_jobs("p", "default")) == 1
