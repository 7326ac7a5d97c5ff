"""Promise 3: at most one job per queue key, through all that can happen to it, and never leaked."""

from __future__ import annotations

import attrs
import pytest
import trio

import roger_trio as roger
from roger_trio._jobs import wire
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


def with_key(hub: Hub, tag: str, key: str = "k", act: str = "") -> Keyed:
    """Make a job with a queue key."""
    return Keyed(hub.name, tag, qkey=key, act=act)


async def refused(client: roger.Client, job: roger.Job, partition: str) -> roger.DuplicateJob:
    """Enqueue a job whose key is taken; return what is raised."""
    with pytest.raises(roger.DuplicateJob) as caught:
        await client.enqueue(job, partition)
    return caught.value


async def is_free(client: roger.Client, partition: str, key: str) -> bool:
    """Tell whether nobody holds a key."""
    return key not in await held(client, partition)


# Taken, and by whom...


@on_every_broker
async def test_a_second_job_of_a_key_is_refused_while_the_first_is_queued_or_runs(
    setup: Setup, hub: Hub
) -> None:
    """`DuplicateJob` names the key and the job that holds it; `keys` says since when and where."""
    partition = setup.partition
    async with (
        serving(setup.config({"default": 1})) as node,
        roger.connect(setup.client_config()) as client,
    ):
        with trio.fail_after(20):
            runs = await client.enqueue(with_key(hub, "runs", "a", "hold"), partition)
            await hub.wait("began")
            waits = await client.enqueue(with_key(hub, "waits", "b"), partition)
            assert (runs.queue_key, waits.queue_key) == ("a", "b")
            for each, asking in ((runs, client), (waits, node)):
                assert each.queue_key is not None
                error = await refused(asking, with_key(hub, "x", each.queue_key), partition)
                assert (error.key, error.job_id) == (each.queue_key, each.id)
                assert each.id in str(error)
                assert repr(each.queue_key) in str(error)
            found = {each.key: each for each in await client.keys(partition)}
            assert {key: each.job_id for key, each in found.items()} == {
                "a": runs.id,
                "b": waits.id,
            }
            assert (found["a"].kind, found["a"].queue) == ("queue", "default")
            assert (found["a"].node, found["b"].node) == (node.name, None)
            assert found["a"].since.tzinfo is not None
            hub.gate.set()
            await hub.wait("began", tag="waits")
            await node.drain()
            assert await held(client, partition) == {}
    assert hub.count("began") == 2


@on_every_broker
async def test_a_key_is_free_in_its_own_partition_only_and_for_other_keys(
    setup: Setup, hub: Hub
) -> None:
    """Keys of two partitions do not meet, nor queue keys with execution keys of the same text."""
    other = f"{setup.partition}b"
    config = setup.config(partitions={setup.partition: {"default": 3}, other: {"default": 3}})
    async with serving(config) as node:
        with trio.fail_after(20):
            await node.enqueue(with_key(hub, "1", act="hold"), setup.partition)
            await node.enqueue(with_key(hub, "2", act="hold"), other)
            await node.enqueue(Keyed(hub.name, "3", ekey="k", act="hold"), setup.partition)
            await hub.wait("began", 3)
            hub.gate.set()
            await node.drain()
            assert await held(node, setup.partition) == await held(node, other) == {}


@on_every_broker
async def test_duplicates_within_one_enqueue_many_are_told_apart(setup: Setup, hub: Hub) -> None:
    """Each gets its own answer, in its place; the others are enqueued."""
    async with serving(setup.config()) as node:
        with trio.fail_after(20):
            await node.pause(setup.partition, "default")
            first = await node.enqueue(with_key(hub, "0", "taken"), setup.partition)
            jobs: list[roger.Job] = [
                with_key(hub, "1", "a"),
                with_key(hub, "2", "a"),
                note.job(hub.name, "3"),
                with_key(hub, "4", "taken"),
                with_key(hub, "5", "b"),
                with_key(hub, "6", "a"),
            ]
            found = await node.enqueue_many(jobs, setup.partition)
            tags = [each.args["tag"] if isinstance(each, roger.Envelope) else "" for each in found]
            assert tags == ["1", "", "3", "", "5", ""]
            errors = [each for each in found if isinstance(each, roger.DuplicateJob)]
            holder = found[0]
            assert isinstance(holder, roger.Envelope)
            assert [(each.key, each.job_id) for each in errors] == [
                ("a", holder.id), ("taken", first.id), ("a", holder.id),
            ]  # fmt: skip
            queued = await node.queued_jobs(setup.partition, "default")
            assert [each.args["tag"] for each in queued] == ["0", "1", "3", "5"]
            await node.resume(setup.partition, "default")
            await hub.wait("began", 3)
            await hub.wait("ran", 1)
            await eventually(lambda: is_free(node, setup.partition, "b"))


@on_every_broker
async def test_a_key_is_any_text_of_up_to_1000_bytes(setup: Setup, hub: Hub) -> None:
    """Slashes, spaces, newlines, emoji; longer or empty ones are refused and enqueue nothing."""
    texts = [
        "a/b//c", " ", "line\nbreak\r\n\t", "\N{SNAKE}" * 250, "x" * 1000, "ключ", "\x00\x01",
        '"}]', "-.coordinator", "%s {0}", "..", "*#.>",
    ]  # fmt: skip
    async with serving(setup.config()) as node:
        with trio.fail_after(30):
            await node.pause(setup.partition, "default")
            for number, text in enumerate(texts):
                job = Keyed(hub.name, str(number), qkey=text, ekey=text)
                sent = await node.enqueue(job, setup.partition)
                error = await refused(node, with_key(hub, "x", text), setup.partition)
                assert (error.key, error.job_id) == (text, sent.id)
            assert set(await held(node, setup.partition)) == set(texts)
            for bad in ("", "x" * 1001, "\N{SNAKE}" * 251):
                for job in (with_key(hub, "bad", bad), Keyed(hub.name, "bad", ekey=bad)):
                    with pytest.raises(roger.InvalidJob, match="1000 bytes"):
                        await node.enqueue(job, setup.partition)
            await node.resume(setup.partition, "default")
            await hub.wait("began", len(texts))
            await node.drain()
            assert await held(node, setup.partition) == {}
    assert hub.count("began", "bad") == 0


# Held...


@on_every_broker
async def test_a_key_is_held_through_delay_snooze_and_retry(setup: Setup, hub: Hub) -> None:
    """Hole f: a job that waits for its time still holds its key, and the same job takes it up."""
    partition = setup.partition
    turns: list[BaseException | None] = [roger.Snooze(0.3), ValueError("again"), None]

    async def act() -> None:
        error = turns.pop(0)
        if error is not None:
            raise error

    hub.extra["act"] = act
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(30):
            sent = await node.enqueue(with_key(hub, "x", act="act"), partition, delay=0.3)
            tries: list[str] = []
            while not hub.count("after_run", "x"):
                await _try_to_take(node, with_key(hub, "late"), partition, hub, tries)
                await trio.sleep(0.02)
            await hub.wait("after_run", tag="x")
            assert len(tries) > 5
            assert set(tries) == {sent.id}
    assert (hub.count("began", "x"), hub.count("on_error", "x")) == (3, 1)


async def _try_to_take(
    client: roger.Client, job: roger.Job, partition: str, hub: Hub, holders: list[str]
) -> None:
    """Enqueue a job; note who holds its key, which has to be taken until the third attempt."""
    try:
        await client.enqueue(job, partition)
    except roger.DuplicateJob as exc:
        holders.append(exc.job_id)
    else:
        assert hub.count("began", "x") == 3, "the key was free too early"
        await hub.wait("after_run", tag="x")


@on_every_broker
async def test_a_job_with_both_keys_that_has_to_wait_holds_its_queue_key_and_runs(
    setup: Setup, hub: Hub
) -> None:
    """Failure 5, hole g: waiting crashes nobody, and does not make the job its own duplicate."""
    partition = setup.partition
    async with serving(setup.config()) as node:
        with trio.fail_after(20):
            await node.enqueue(Keyed(hub.name, "1", qkey="q1", ekey="e", act="hold"), partition)
            await hub.wait("began")
            second = await node.enqueue(Keyed(hub.name, "2", qkey="q2", ekey="e"), partition)
            await eventually(lambda: _waits(node, partition, "e", 1))
            error = await refused(node, with_key(hub, "3", "q2"), partition)
            assert (error.key, error.job_id) == ("q2", second.id)
            hub.gate.set()
            await hub.wait("began", tag="2")
            await node.drain()
            assert await held(node, partition) == {}
    assert (hub.count("began"), hub.overlapped) == (2, set())


async def _waits(client: roger.Client, partition: str, key: str, count: int) -> bool:
    keys = await client.keys(partition)
    return [each.waiting for each in keys if (each.key, each.kind) == (key, "execution")] == [count]


@on_every_broker
async def test_a_key_is_held_while_its_job_is_given_back_and_no_node_runs(
    setup: Setup, hub: Hub
) -> None:
    """Through the end of all nodes, and the start of others: hole k."""
    partition = setup.partition
    with trio.fail_after(40):
        async with serving(setup.config(shutdown_timeout=0)) as node:
            sent = await node.enqueue(with_key(hub, "x", act="hold"), partition)
            asleep = await node.enqueue(with_key(hub, "late", "l"), partition, delay=60)
            await hub.wait("began")
        async with serving(setup.config(callbacks=Told())) as node:
            await hub.wait("began", 2)
            assert (await refused(node, with_key(hub, "y"), partition)).job_id == sent.id
            assert (await refused(node, with_key(hub, "y", "l"), partition)).job_id == asleep.id
            hub.gate.set()
            await hub.wait("after_run", tag="x")
            await node.enqueue(with_key(hub, "next"), partition)
            await hub.wait("after_run", tag="next")
            await eventually(lambda: is_free(node, partition, "k"))
    assert hub.count("cancelled") == 1
    assert hub.count("began", "y") == 0


@on_every_broker
async def test_a_key_is_held_through_a_lost_connection(setup: Setup, hub: Hub) -> None:
    """Of a running job, and of one that waits for its time."""
    partition = setup.partition
    async with serving(setup.config({"default": 1}, callbacks=Told())) as node:
        with trio.fail_after(30):
            sent = await node.enqueue(with_key(hub, "x", act="hold"), partition)
            await hub.wait("began")
            behind = await node.enqueue(with_key(hub, "behind", "b"), partition, delay=60)
            await drop_connections(node)
            assert (await refused(node, with_key(hub, "y"), partition)).job_id == sent.id
            assert (await refused(node, with_key(hub, "y", "b"), partition)).job_id == behind.id
            hub.gate.set()
            await hub.wait("after_run", tag="x")
            await eventually(lambda: is_free(node, partition, "k"))
            assert await held(node, partition) == {"b": behind.id}
    assert hub.count("began", "x") == 1


@on_durable_brokers
async def test_a_key_is_held_through_sigkill_of_the_only_node(setup: Setup) -> None:
    """Failure 7: the redelivered job meets its own key, is not its own duplicate, and frees it."""
    partition = setup.partition
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(40):
            async with program(setup, app="tests.apps.keyed") as first:
                await first.wait("ready")
                sent = await client.enqueue(app.Keyed("x", "k", "e", "hold"), partition)
                await first.wait(f"hold x {sent.id}")
                await first.die()
            async with program(setup, app="tests.apps.keyed") as second:
                await second.wait(f"hold x {sent.id}")
                error = await refused(client, app.Keyed("y", "k"), partition)
                assert (error.key, error.job_id) == ("k", sent.id)
                assert await client.cancel(sent.id, partition) is roger.CancelResult.STOPPED
                await second.wait("on_cancel x")
                await client.enqueue(app.Keyed("y", "k", "e"), partition)
                await second.wait("after_run y")
                await eventually(lambda: is_free(client, partition, "k"))
    assert second.count("hold x") == 1


# Let go...


@on_every_broker
async def test_every_end_of_a_job_frees_its_key(setup: Setup, hub: Hub) -> None:
    """When its callback is called, the key can be taken, whichever way it ended."""
    partition = setup.partition

    async def discard() -> None:
        hub.tell("discards")
        raise roger.Discard("stale")

    async def bury() -> None:
        raise roger.Bury("rotten")

    async def fail() -> None:
        raise ValueError("no luck")

    hub.extra.update(discard=discard, bury=bury, fail=fail)

    class Fragile(Keyed, name="promises:fragile", retryable=False):
        pass

    class Hasty(Keyed, name="promises:hasty", retryable=False, max_execution_time=0.05):
        pass

    ends: list[tuple[Keyed, str]] = [
        (with_key(hub, "done"), "after_run"),
        (Fragile(hub.name, "failed", "k", None, "fail"), "on_error"),
        (Hasty(hub.name, "timed out", "k", None, "hold"), "on_error"),
        (with_key(hub, "buried", act="bury"), "on_buried"),
        (with_key(hub, "buried after its retry", act="fail"), "on_buried"),
    ]
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(30):
            for job, callback in ends:
                await node.enqueue(job, partition)
                await hub.wait(callback, tag=job.tag)
            await node.enqueue(with_key(hub, "discarded", act="discard"), partition)
            await hub.wait("discards")
            await eventually(lambda: is_free(node, partition, "k"))
            await _cancel_each_kind(node, hub, partition)
            await node.enqueue(with_key(hub, "last"), partition)
            await node.resume(partition, "default")
            await hub.wait("after_run", tag="last")
            await node.drain()
            assert await held(node, partition) == {}
    assert hub.count("began", "queued") == hub.count("began", "delayed") == 0


async def _cancel_each_kind(node: roger.Node, hub: Hub, partition: str) -> None:
    """Cancel a job that runs, one that is delayed, and one that is queued; pause the queue."""
    sent = await node.enqueue(with_key(hub, "stopped", act="hold"), partition)
    await hub.wait("began", tag="stopped")
    assert await node.cancel(sent.id, partition) is roger.CancelResult.STOPPED
    late = await node.enqueue(with_key(hub, "delayed"), partition, delay=60)
    assert await node.cancel(late.id, partition) is roger.CancelResult.RECORDED
    await node.pause(partition, "default")
    queued = await node.enqueue(with_key(hub, "queued"), partition)
    assert await node.cancel(queued.id, partition) is roger.CancelResult.RECORDED


@on_every_broker
async def test_purging_frees_the_keys_of_what_waits_and_of_nothing_else(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Of jobs in the queue, of those that came back, and of those that wait for their turn."""
    partition = setup.partition
    work, redelivered, _ = setup.names()
    async with serving(setup.config()) as node:
        with trio.fail_after(30):
            await node.enqueue(Keyed(hub.name, "r", qkey="r", ekey="e", act="hold"), partition)
            await hub.wait("began")
            await node.enqueue(Keyed(hub.name, "w", qkey="w", ekey="e"), partition)
            await eventually(lambda: _waits(node, partition, "e", 1))
            await node.pause(partition, "default")
            await node.enqueue(with_key(hub, "back", "b"), partition)
            [body] = await outsider.take_all(work)
            await outsider.publish(redelivered, body)
            await node.enqueue(with_key(hub, "queued", "q"), partition)
            await node.enqueue(note.job(hub.name, "plain"), partition)
            later = await node.enqueue(with_key(hub, "later", "l"), partition, delay=60)
            assert set(await held(node, partition)) == {"r", "w", "b", "q", "l", "e"}
            assert await node.purge(partition, "default") == 4
            kept = await held(node, partition)
            assert set(kept) == {"r", "e", "l"}
            assert kept["l"] == later.id
            for key in ("w", "b", "q"):
                await node.enqueue(with_key(hub, f"new {key}", key), partition)
            await node.resume(partition, "default")
            hub.gate.set()
            for key in ("w", "b", "q"):
                await hub.wait("began", tag=f"new {key}")
    assert hub.count("began", "w") == hub.count("began", "back") == hub.count("ran") == 0


@on_every_broker
async def test_a_replayed_job_takes_its_key_again_and_is_not_replayed_while_it_is_taken(
    setup: Setup, hub: Hub
) -> None:
    """It stays buried where another job holds the key."""
    partition = setup.partition

    async def act() -> None:
        if not hub.gate.is_set():
            raise roger.Bury("for now")

    hub.extra["act"] = act
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(30):
            sent = await node.enqueue(with_key(hub, "x", act="act"), partition)
            await hub.wait("on_buried")
            await eventually(lambda: _buried(node, partition, 1))
            await node.pause(partition, "default")
            other = await node.enqueue(with_key(hub, "other"), partition)
            assert await node.replay_buried(partition, "default") == 0
            assert await node.replay_buried(partition, "default", [sent.id]) == 0
            assert await _buried(node, partition, 1)
            assert await held(node, partition) == {"k": other.id}
            assert await node.purge(partition, "default") == 1
            assert await node.replay_buried(partition, "default") == 1
            assert await held(node, partition) == {"k": sent.id}
            assert (await refused(node, with_key(hub, "y"), partition)).job_id == sent.id
            hub.gate.set()
            await node.resume(partition, "default")
            await hub.wait("after_run", tag="x")
            await eventually(lambda: is_free(node, partition, "k"))
    assert hub.count("began", "other") == 0


async def _buried(client: roger.Client, partition: str, count: int) -> bool:
    return len(await client.buried_jobs(partition, "default")) == count


@on_every_broker
async def test_an_operator_frees_a_key_by_hand(setup: Setup, hub: Hub) -> None:
    """`release_key` says whose it was; one that nobody holds is named in the error."""
    partition = setup.partition
    async with serving(setup.config()) as node:
        with trio.fail_after(20):
            await node.pause(partition, "default")
            sent = await node.enqueue(with_key(hub, "x"), partition)
            [freed] = await node.release_key(partition, "k")
            assert (freed.key, freed.kind, freed.job_id) == ("k", "queue", sent.id)
            other = await node.enqueue(with_key(hub, "y"), partition)
            assert await held(node, partition) == {"k": other.id}
            with pytest.raises(roger.RogerError, match="'nobody has it'"):
                await node.release_key(partition, "nobody has it")


# Never leaked...


@on_every_broker
async def test_without_a_node_nothing_is_enqueued_and_no_key_stays(setup: Setup, hub: Hub) -> None:
    """Failure 1: not "a duplicate", not "ok": `PartitionNotRunning`, within `enqueue_timeout`."""
    partition = setup.partition
    async with roger.connect(setup.client_config(enqueue_timeout=0.5)) as client:
        with trio.fail_after(30):
            began = trio.current_time()
            with pytest.raises(roger.PartitionNotRunning, match=partition) as caught:
                await client.enqueue(with_key(hub, "never"), partition)
            assert caught.value.partition == partition
            assert trio.current_time() - began < 2.5
            with pytest.raises(roger.PartitionNotRunning):
                await client.enqueue_many([with_key(hub, "never")], partition)
            await client.enqueue(note.job(hub.name, "plain"), partition)
            serial = Keyed(hub.name, "serial", ekey="e")
            await client.enqueue(serial, partition)
            assert len(await client.queued_jobs(partition, "default")) == 2
            async with serving(setup.config(callbacks=Told())) as node:
                await hub.wait("ran", tag="plain")
                await hub.wait("after_run", tag="serial")
                await eventually(lambda: is_free(client, partition, "k"))
                await node.enqueue(with_key(hub, "x"), partition)
                await hub.wait("after_run", tag="x")
    assert hub.count("began", "never") == 0


@on_every_broker
async def test_an_enqueue_that_is_cancelled_at_any_step_leaks_no_key(
    setup: Setup, hub: Hub
) -> None:
    """Hole e: whatever step it reached, no key is held by a job that is not there."""
    partition = setup.partition
    async with serving(setup.config()) as node, roger.connect(setup.client_config()) as client:
        with trio.fail_after(30):
            await node.pause(partition, "default")
            await client.enqueue(with_key(hub, "warm", "warm"), partition)
            for steps in range(0, 60, 3):
                async with trio.open_nursery() as nursery:
                    job = with_key(hub, str(steps), f"k{steps}")
                    nursery.start_soon(client.enqueue, job, partition)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()

            async def holders_are_there() -> bool:
                holders = set((await held(client, partition)).values())
                queued = {each.id for each in await client.queued_jobs(partition, "default")}
                return holders <= queued

            await eventually(holders_are_there)
            assert not await is_free(client, partition, "warm")
            await node.purge(partition, "default")
            assert await held(client, partition) == {}


@on_durable_brokers
async def test_a_client_killed_between_its_claim_and_its_publish_leaks_no_key(
    setup: Setup, hub: Hub
) -> None:
    """Nobody listens at the dead client's inbox, so its claim is void."""
    partition = setup.partition
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            async with program(setup, app="tests.apps.claiming") as client:
                await client.wait("claimed")
                assert "k" in await held(node, partition)
                await client.die()
            await eventually(lambda: is_free(node, partition, "k"), within=25)
            await node.enqueue(with_key(hub, "x"), partition)
            await hub.wait("after_run", tag="x")


@on_durable_brokers
async def test_a_confirmed_job_is_not_lost_when_its_key_was_forgotten(
    setup: Setup, hub: Hub
) -> None:
    """Another job takes the key; the first one is buried, and can be replayed."""
    partition, queues = setup.partition, {"default": 1, "later": 1}
    setup.created_queues.update(setup.names("later"))
    jobs: list[str] = []
    with trio.fail_after(40):
        for tag in ("first", "second"):
            async with serving(setup.config(persister=roger.MemoryPersister())) as node:
                sent = await node.enqueue(with_key(hub, tag), partition, queue="later")
                jobs.append(sent.id)
        async with serving(setup.config(persister=roger.MemoryPersister())) as node:
            third = await node.enqueue(with_key(hub, "third"), partition, queue="later")
            await node.reconfigure(partition, queues)
            await hub.wait("began", tag="third")

            async def are_buried() -> bool:
                buried = await node.buried_jobs(partition, "later")
                return [each.id for each in buried] == jobs

            await eventually(are_buried)
            [error, _] = [each.error for each in await node.buried_jobs(partition, "later")]
            assert error is not None
            assert error.message == f"queue key 'k' is held by job {third.id}"
            await eventually(lambda: is_free(node, partition, "k"))
            assert await node.replay_buried(partition, "later", ids=jobs[:1]) == 1
            await hub.wait("began", tag="first")


@on_every_broker
async def test_an_undecodable_job_and_an_unknown_one_leak_no_key(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Failure 3, hole l: a job that no node knows holds its key till it is buried, no longer."""
    partition = setup.partition
    async with serving(setup.config(callbacks=Told(), retry_levels=())) as node:
        with trio.fail_after(30):
            await node.pause(partition, "default")
            sent = await node.enqueue(with_key(hub, "x"), partition)
            [body] = await outsider.take_all(setup.names()[0])
            envelope = wire.load(body, partition=partition, queue="default")
            unknown = attrs.evolve(envelope, name="no:such_job")
            await outsider.publish(setup.names()[0], b"\xff no job", "junk")
            await outsider.publish(setup.names()[0], wire.dump(unknown), sent.id)
            await node.resume(partition, "default")
            await eventually(lambda: _buried(node, partition, 2))
            await eventually(lambda: is_free(node, partition, "k"))
            await node.enqueue(with_key(hub, "y"), partition)
            await hub.wait("after_run", tag="y")
