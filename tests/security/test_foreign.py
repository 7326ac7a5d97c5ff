"""What others send to a cluster: it is refused, and the cluster goes on; nothing crashes a node."""

from __future__ import annotations

import logging
import random
from typing import Any

import attrs
import orjson
import pytest
import trio

import roger_trio as roger
from roger_trio._state import operations
from roger_trio._topology import NODES_TOPIC, PartitionNames, QueueNames
from tests.promises.support import (
    Hub,
    Keyed,
    Outsider,
    Setup,
    Witness,
    eventually,
    note,
    on_every_broker,
    serving,
)
from tests.security.bombs import BOMBS, CONTROL, JOB

LONG = "x" * 300
"""More than a routing key, or a queue's name, can have."""
ODD_INBOXES = [LONG, "\ud7ff" * 90, "", "amq.rabbitmq.reply-to.xxx", "a\0b", "nodes"]
MEGABYTE = 1024 * 1024


def question(inbox: str, content: object, **more: object) -> bytes:
    """Make a question to all nodes."""
    fields = {"roger": 1, "kind": "question", "inbox": inbox, "request": 1, "question": content}
    return orjson.dumps({**fields, **more})


def commands(inbox: str, *ops: object) -> bytes:
    """Make commands for a coordinator."""
    return orjson.dumps(
        {"roger": 1, "kind": "commands", "inbox": inbox, "batch": 1, "ops": list(ops)}
    )


def card(inbox: str) -> dict[str, object]:
    """Make the card of a node that is none."""
    who = {"name": "n", "host": "h", "pid": 1, "version": "1", "started_at": "2024-01-01T00:00:00Z"}
    return {**who, "inbox": inbox, "partitions": {}, "settled": True}


async def check_works(node: roger.Node, setup: Setup, hub: Hub) -> None:
    """Check that the cluster does what it is for: jobs, keys, cancellation, pauses, questions."""
    partition = setup.partition
    with trio.fail_after(40):
        await node.enqueue(note.job(hub.name, "plain"), partition)
        await hub.wait("ran", tag="plain")
        keyed = Keyed(hub.name, "keyed", "own key", "own turn", "hold")
        held = await node.enqueue(keyed, partition)
        await hub.wait("began", tag="keyed")
        with pytest.raises(roger.DuplicateJob):
            await node.enqueue(keyed, partition)
        assert await node.cancel(held.id, partition) is roger.CancelResult.STOPPED
        await node.pause(partition, "default")
        assert "default" in await node.paused(partition)
        await node.resume(partition, "default")
        assert await node.running_jobs(partition) == {node.name: []}


def check_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """Check that nothing ended in an exception that nobody had thought of, or in a long line."""
    ours = [each for each in caplog.records if each.name.startswith("roger_trio")]
    assert [each.getMessage() for each in ours if each.exc_info] == []
    assert [each.getMessage()[:99] for each in ours if len(each.getMessage()) > 2_000] == []


@on_every_broker
async def test_inboxes_that_nobody_can_have(
    setup: Setup, hub: Hub, outsider: Outsider, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for an answer at an impossible place gets none; it ended every node there was."""
    names = PartitionNames.of(setup.prefix, setup.partition)
    async with serving(setup.config()) as node:
        for inbox in ODD_INBOXES:
            for content in (
                {"ask": "ping"},
                {"ask": "info"},
                {"ask": "jobs"},
                {"ask": "cancel", "partition": setup.partition, "job": "j"},
                {"ask": "cancel", "partition": "elsewhere", "job": "j"},
                {"ask": "pause", "partition": setup.partition, "queue": "q", "paused": True},
                {"ask": "hello", "card": card(inbox), "roster": True},
            ):
                await node._broker.broadcast(NODES_TOPIC, question(inbox, content))
            for op in (
                ["ListPaused"],
                ["Sync", "n", inbox, "h"],
                ["Cancel", "j", inbox, 1],
                ["Pause", "q", inbox, 1],
                ["Claim", "j", "k", "q", "n", inbox],
                ["Start", "j", "q", None, "e", "n", inbox, "", "", 1e308],
                ["Conclude", "j", inbox, "n", 0.0],
            ):
                await outsider.publish(names.coordinator, commands(inbox, op))
        await check_works(node, setup, hub)
    check_no_bug(caplog)


@on_every_broker
async def test_a_queue_that_cannot_be_is_purged_of_nothing(
    setup: Setup, hub: Hub, outsider: Outsider, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that breaks the rules reaches no other queue.

    A purge of it failed, and came again to each coordinator after the one that it ended.
    """
    names = PartitionNames.of(setup.prefix, setup.partition)
    other = QueueNames.of(setup.prefix, setup.partition, "other").work
    config = setup.config({"default": 10, "other": 1})
    async with serving(config) as node:
        await node.pause(setup.partition, "other")
        await node.enqueue(note.job(hub.name, "kept"), setup.partition, queue="other")
        for name in (LONG, "", "a-b", ".coordinator", "other.buried", "\ud7ff" * 90, "../other"):
            for op in ("PurgeKeyless", "PurgeWaiting"):
                await outsider.publish(names.coordinator, commands("i", [op, name]))
        await check_works(node, setup, hub)
        assert (await outsider.count(other)).messages == 1
    check_no_bug(caplog)


class Rubbish:
    """Makes control messages that are almost right.

    Args:
        seed: The same for the same messages.
        partition: The partition that some are about.
    """

    TEXTS = ("", "j", "k", "default", LONG, "a\0b", "\x1b[31m", "9" * 400, "inbox.0", "x" * 70_000)
    NUMBERS = (0.5, 1e308, -1e308, 5e-324, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1)
    ASKS = ("ping", "hello", "bye", "info", "jobs", "cancel", "pause", "ended", "else", 1, None)

    def __init__(self, seed: int, partition: str) -> None:
        self._chance = random.Random(seed)
        self._partition = partition

    def value(self, depth: int = 0) -> Any:
        """Make any JSON value."""
        chance = self._chance
        match chance.randrange(6 if depth < 3 else 4):
            case 0:
                return chance.choice(self.NUMBERS)
            case 1:
                return chance.choice([None, True, False])
            case 4:
                return [self.value(depth + 1) for _ in range(chance.randrange(4))]
            case 5:
                keys = chance.choices(self.TEXTS, k=chance.randrange(4))
                return {key: self.value(depth + 1) for key in keys}
            case _:
                return chance.choice([*self.TEXTS, self._partition])

    def tagged(self) -> list[Any]:
        """Make an operation or an event, mostly with fields of the right types."""
        chance = self._chance
        kind = chance.choice([*operations.Operation.__args__, *operations.Event.__args__])
        return [kind.__name__, *(self._field(str(each.type)) for each in attrs.fields(kind))]

    def _field(self, kind: str) -> Any:
        if self._chance.random() < 0.05:
            return self.value()
        if "str" in kind:
            return self._chance.choice(self.TEXTS)
        return self._chance.choice(self.NUMBERS if "float" in kind else self.NUMBERS[4:])

    def for_nodes(self) -> bytes:
        """Make a message to all nodes."""
        inbox, chance = self._chance.choice(self.TEXTS), self._chance
        content = {key: self.value() for key in ("job", "queue", "paused", "card", "roster")}
        content |= {"ask": chance.choice(self.ASKS), "partition": self._partition}
        reply = {"answer": {}, "card": card(inbox), "known": [card(LONG), self.value()]}
        fields = {"node": "n", "inbox": inbox, "request": 1, "reply": reply, "question": content}
        fields |= {"partition": self._partition, "event": self.tagged(), "batch": 1, "answers": []}
        if chance.random() < 0.3:
            fields[chance.choice(list(fields))] = self.value()
        kind = chance.choice(["question", "reply", "event", "answers"])
        return orjson.dumps({"roger": 1, "kind": kind, **fields})

    def for_coordinator(self) -> bytes:
        """Make a message to the coordinator."""
        return commands(self._chance.choice(self.TEXTS), *(self.tagged() for _ in range(3)))


@on_every_broker
@pytest.mark.parametrize("seed", [1, 2])
async def test_rubbish_on_the_control_bus(
    setup: Setup,
    hub: Hub,
    outsider: Outsider,
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    """Hundreds of messages that are almost right are no trouble for any node or coordinator."""
    names = PartitionNames.of(setup.prefix, setup.partition)
    caplog.set_level(logging.WARNING)
    rubbish = Rubbish(seed, setup.partition)
    async with serving(setup.config()) as node:
        for _ in range(200):
            await node._broker.broadcast(NODES_TOPIC, rubbish.for_nodes())
            await outsider.publish(names.coordinator, rubbish.for_coordinator())
        await node.resume(setup.partition, "default")  # Some of it was right.
        await check_works(node, setup, hub)
    check_no_bug(caplog)


@on_every_broker
async def test_bombs_in_every_queue(
    setup: Setup, hub: Hub, outsider: Outsider, caplog: pytest.LogCaptureFixture
) -> None:
    """What is made to take all memory is buried with the reason, or ignored; the queue flows on."""
    names, own = PartitionNames.of(setup.prefix, setup.partition), setup.names()
    bombs = [b"", b"\xff" * 1000, b"NaN", JOB + b'{"a":NaN}}', JOB + b'{"a":"\\ud800"}}']
    bombs += [JOB + b'{},"execution_key":"' + b"k" * MEGABYTE + b'"}', JOB + b'{},"queue_key":""}']
    bombs += [JOB + b'{},"deaths":1e99}', JOB + b'{},"retry_count":99999999999999999999}']
    bombs += [JOB + b'{},"queued_at":"' + b"9" * MEGABYTE + b'"}']
    bombs += [JOB + BOMBS[each][: 4 * MEGABYTE] for each in ("deep", "digits", "deep objects")]
    bombs += [JOB + b'{"a":[' + b"[]," * MEGABYTE + b"0]}}"]
    async with serving(setup.config(retry_levels=())) as node:
        for bomb in bombs:
            await outsider.publish(own[0], bomb)
            await outsider.publish(own[1], bomb)
        for bomb in bombs:
            await outsider.publish(names.coordinator, bomb)
            await outsider.publish(names.coordinator, CONTROL + bomb + b"}")
            await node._broker.broadcast(NODES_TOPIC, bomb)
        await check_works(node, setup, hub)

        async def all_buried() -> bool:
            return (await outsider.count(own[2])).messages == 2 * len(bombs)

        await eventually(all_buried)
        found = await node.buried_jobs(setup.partition, "default", limit=100)
    assert all(each.error is not None and each.error.message for each in found)
    assert all(len(each.error.message) < 500 for each in found if each.error is not None)
    check_no_bug(caplog)


async def test_headers_of_every_kind(
    setup: Setup, hub: Hub, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """Headers that other programs leave mean nothing to us, wherever the message is."""
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"x": deep, "y": [deep]} if len(str(deep)) < 5_000 else {"x": deep}
    tables: list[dict[str, Any]] = [
        {"headers": {"x-death": "none", "roger-error": deep, "roger-queue": 1, "": None}},
        {"headers": {"roger-error": '{"type": 1, "message": [], "traceback": {}, "buried_at": 5}'}},
        {"headers": {"roger-execution-key": [1], "roger-queue": {"a": 1}, "roger-state": [deep]}},
        {"headers": {"roger-execution-key": "e", "roger-queue": LONG, "x-delivery-count": -5}},
        {"message_id": "\x1b" * 255, "content_type": "text/html", "expiration": "9999999999"},
        {"headers": {"roger-state": "claim", "term": 2**63 - 1}, "priority": 255},
    ]
    names, own = PartitionNames.of(setup.prefix, setup.partition), setup.names()
    config = setup.config(retry_levels=(), persister=roger.BrokerPersister())
    async with serving(config) as node:
        waits = Keyed(hub.name, "1", None, "turn", "hold"), Keyed(hub.name, "2", None, "turn")
        await node.enqueue_many(waits, setup.partition)
        with trio.fail_after(20):
            await hub.wait("began")
        for properties in tables:
            for queue in (*own, names.coordinator, names.waiting, names.state):
                await trio.to_thread.run_sync(
                    lambda q=queue, p=properties: witness.publish(q, b"foreign", properties=p)
                )
        hub.gate.set()
        with trio.fail_after(20):
            await hub.wait("began", tag="2")
        hub.gate = trio.Event()
        await check_works(node, setup, hub)
        found = await node.buried_jobs(setup.partition, "default")
        assert len(found) >= len(tables)
    async with serving(config) as node:
        await check_works(node, setup, hub)
    check_no_bug(caplog)
