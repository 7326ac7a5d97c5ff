"""Looks and moves on RabbitMQ: what is looked at, replayed and purged, and what the log says."""

from __future__ import annotations

import json

import attrs
import pytest
import trio

import roger_trio as roger
from tests.promises.support import Setup, Witness, eventually, note, serving


async def _ready(witness: Witness, queue: str, count: int) -> bool:
    return witness.count(queue) == count


async def test_a_look_at_some_after_a_look_at_all_keeps_the_order(setup: Setup) -> None:
    """Whatever the limits of the looks, each sees the head of the same line.

    A quorum queue hands out first what was given back, and puts behind that what is given back.
    """
    jobs: list[roger.Job] = [note.job("h", str(number)) for number in range(130)]
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(30):
            await client.enqueue_many(jobs, setup.partition)
            for limit in (130, 3, 100, 1, 129, 140, 5, 100):
                found = await client.queued_jobs(setup.partition, "default", limit)
                assert [each.args["tag"] for each in found] == [
                    str(number) for number in range(min(limit, 130))
                ]


@pytest.mark.parametrize("what", ["replay", "purge buried", "purge"])
async def test_what_was_just_looked_at_is_replayed_and_purged(
    setup: Setup, witness: Witness, what: str
) -> None:
    """Nothing is left out because a look held it a moment ago."""
    work, _, buried = setup.names()
    partition, total = setup.partition, 200
    async with roger.connect(setup.config()) as client:
        await client.enqueue(note.job("x"), partition)
        assert await client.purge(partition, "default") == 1
        queue = work if what == "purge" else buried
        with trio.fail_after(30):
            for _ in range(5):
                witness.publish_all(
                    queue, [(b"x", {"message_id": f"m{number}"}) for number in range(total)]
                )
                await eventually(lambda: _ready(witness, queue, total))
                look = client.queued_jobs if what == "purge" else client.buried_jobs
                assert len(await look(partition, "default", 1000)) == total
                if what == "purge":
                    assert await client.purge(partition, "default") == total
                elif what == "purge buried":
                    assert await client.purge_buried(partition, "default") == total
                else:
                    assert await client.replay_buried(partition, "default") == total
                    await eventually(lambda: _ready(witness, work, total))
                    assert await client.purge(partition, "default") == total


@pytest.mark.parametrize("step", [1, 2], ids=["all", "every second one"])
async def test_what_was_replayed_is_no_longer_buried(
    setup: Setup, witness: Witness, step: int
) -> None:
    """Of many single acknowledgements RabbitMQ drops those beyond 32 with the channel."""
    work, _, buried = setup.names()
    partition, total = setup.partition, 200
    moving = total // step
    async with roger.connect(setup.config()) as client:
        await client.enqueue(note.job("x"), partition)
        assert await client.purge(partition, "default") == 1
        witness.publish_all(
            buried, [(b"x", {"message_id": f"m{number}"}) for number in range(total)]
        )
        await eventually(lambda: _ready(witness, buried, total))
        ids = None if step == 1 else [f"m{number}" for number in range(0, total, step)]
        with trio.fail_after(20):
            assert await client.replay_buried(partition, "default", ids) == moving
        await eventually(lambda: _ready(witness, work, moving))
        await eventually(lambda: _ready(witness, buried, total - moving))
        left = await client.buried_jobs(partition, "default", total)
        assert [each.id for each in left] == [
            f"m{number}" for number in range(total) if step == 2 and number % 2
        ]


async def test_any_buried_job_is_found_for_a_replay(setup: Setup, witness: Witness) -> None:
    """Near the head, deep in the queue, or nowhere: it costs the others neither place nor order."""
    work, _, buried = setup.names()
    partition, total = setup.partition, 1200
    left = list(range(total))
    async with roger.connect(setup.config()) as client:
        await client.enqueue(note.job("x"), partition)
        assert await client.purge(partition, "default") == 1
        witness.publish_all(
            buried, [(b"x", {"message_id": f"m{number}"}) for number in range(total)]
        )
        await eventually(lambda: _ready(witness, buried, total))
        with trio.fail_after(30):
            for number in (3, 150, 1199):
                ids = [f"m{number}"]
                assert await client.replay_buried(partition, "default", ids) == 1
                left.remove(number)
            assert await client.replay_buried(partition, "default", ["m3", "m1200"]) == 0
            await eventually(lambda: _ready(witness, work, 3))
            found = await client.buried_jobs(partition, "default", total)
        assert [each.id for each in found] == [f"m{number}" for number in left]


async def test_a_look_that_is_too_large_says_what_can_be_had(setup: Setup) -> None:
    """Not that the broker cannot be reached, as trying again would not help."""
    config = setup.config()
    assert isinstance(config.broker, roger.AmqpConfig)
    amqp = attrs.evolve(config.broker, channel_max=4)
    async with roger.connect(attrs.evolve(config, broker=amqp)) as client:
        with trio.fail_after(30):
            jobs: list[roger.Job] = [note.job("h", str(number)) for number in range(100)]
            await client.enqueue_many(jobs, setup.partition)
            with pytest.raises(roger.RogerError, match=r"100 messages .* but 64 can") as caught:
                await client.queued_jobs(setup.partition, "default", 1000)
            assert not isinstance(caught.value, roger.BrokerUnavailable)
            assert len(await client.queued_jobs(setup.partition, "default", 64)) == 64


async def test_a_job_that_fails_again_at_once_does_not_make_a_replay_endless(
    setup: Setup,
) -> None:
    """What is buried again while others are still replayed waits for the next replay."""
    async with serving(setup.config({"default": 20})) as node:
        await node.enqueue_many([fails.job() for _ in range(30)], setup.partition)
        await eventually(lambda: _buried(node, setup, 30))
        with trio.fail_after(20):
            assert await node.replay_buried(setup.partition, "default") == 30
        await eventually(lambda: _buried(node, setup, 30))


@roger.job
async def fails() -> None:
    """Be buried."""
    raise roger.Bury("as always")


async def _buried(node: roger.Client, setup: Setup, count: int) -> bool:
    return len(await node.buried_jobs(setup.partition, "default")) == count


async def test_names_and_ids_from_the_wire_forge_no_log_line(
    setup: Setup, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """A line about a job is one line, whatever its name and id, or a foreign message's id, are."""
    evil = "x\nERROR root: all is lost\x1b[2J"
    body = json.dumps({"roger": 1, "id": f"id {evil}", "name": evil, "args": {}}).encode()
    async with serving(setup.config(retry_levels=())) as node:
        witness.publish(setup.names()[0], body)
        witness.publish(setup.names()[0], b"no job", properties={"message_id": evil})
        await eventually(lambda: _buried(node, setup, 2))
    lines = [each.getMessage() for each in caplog.records]
    assert not [line for line in lines if "\n" in line or "\x1b" in line]
