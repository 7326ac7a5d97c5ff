"""Declaring, publishing, counting and purging: what goes in, is in."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Broker, Message, QueueCount, QueueMissing, QueueSpec
from tests.conformance.kit import PATIENCE, Inbox, Kit, bodies, messages, settles_at


async def test_what_is_published_is_counted(broker: Broker, queue: str) -> None:
    """Once publish returns the broker has the message."""
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"one"))
        await broker.publish(queue, Message(b"two"))
        await settles_at(QueueCount(messages=2, consumers=0), lambda: broker.count(queue))


async def test_order_is_kept(broker: Broker, queue: str) -> None:
    """Messages of one publisher arrive in the order they were published in."""
    sent = messages(300)
    inbox = Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent[:100])
        for each in sent[100:120]:
            await broker.publish(queue, each)
        await broker.publish_many(queue, sent[120:])
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=10, on_delivery=inbox.put)
            await inbox.wait(300)
    assert inbox.bodies == bodies(sent)


async def test_thousands_at_once(broker: Broker, queue: str) -> None:
    """A batch above every window and buffer arrives whole and in order."""
    sent = messages(7000, size=200)
    inbox = Inbox(ack=True)
    with trio.fail_after(60):
        await broker.publish_many(queue, sent)
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=500, on_delivery=inbox.put)
            await inbox.wait(7000, within=60)
    assert inbox.bodies == bodies(sent)


async def test_many_publishers_at_once(broker: Broker, queue: str) -> None:
    """Hundreds of tasks publish at the same time, and each message arrives once."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for each in messages(500):
                nursery.start_soon(broker.publish, queue, each)
        async with broker.browse(queue, 1000) as found:
            assert sorted(each.body for each in found) == sorted(bodies(messages(500)))


async def test_no_messages_are_no_work(broker: Broker, queue: str) -> None:
    """Publishing nothing returns, and is allowed."""
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, [])
        assert (await broker.count(queue)).messages == 0


@pytest.mark.parametrize("size", [0, 1, 131_072 - 8, 131_072 - 7, 300_000, 5_000_000])
async def test_bodies_of_any_size_are_kept(broker: Broker, queue: str, size: int) -> None:
    """Bodies that are empty, fill a frame exactly, or take many, come back as they were."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    inbox = Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, [Message(body), Message(b"next"), Message(body)])
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=3, on_delivery=inbox.put)
            await inbox.wait(3)
    assert inbox.bodies == [body, b"next", body]


async def test_what_is_beside_the_body_is_kept(broker: Broker, queue: str) -> None:
    """Headers and message id come back as they were, and their absence as absence."""
    headers: dict[str, str | int] = {
        "text": "grüße " * 100,
        "number": -(2**40),
        "zero": 0,
        "empty": "",
    }
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"full", "ïd", headers))
        await broker.publish(queue, Message(b"bare"))
        async with broker.browse(queue, 2) as [full, bare]:
            assert full.queue == queue
            assert full.message_id == "ïd"
            assert {key: full.headers[key] for key in headers} == headers
            assert bare.message_id == ""
            assert not headers.keys() & bare.headers.keys()


async def test_declaring_again_changes_nothing(kit: Kit, queue: str) -> None:
    """A queue may be declared as often as one likes, by anybody; it keeps what it holds."""
    spec = QueueSpec(name=queue, takes_delayed=True)
    with trio.fail_after(PATIENCE):
        await kit.broker.publish(queue, Message(b"kept"))
        await kit.broker.declare([spec, spec])
        async with kit.other_broker() as other:
            await other.declare([spec])
            assert (await other.count(queue)).messages == 1


async def test_declaring_nothing(broker: Broker) -> None:
    """An empty list of queues is fine."""
    with trio.fail_after(PATIENCE):
        await broker.declare([])


async def test_declaring_at_the_same_time(kit: Kit) -> None:
    """Several tasks may declare the same queues at once."""
    buried = QueueSpec(name=kit.new_name())
    work = QueueSpec(name=kit.new_name(), dead_letter=buried.name, takes_delayed=True)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(kit.broker.declare, [buried, work])
        assert await kit.broker.count(work.name) == QueueCount(messages=0, consumers=0)


async def test_unknown_queues_are_missing(kit: Kit) -> None:
    """A queue that does not exist is `QueueMissing` to every verb, and made by none."""
    unknown = kit.new_name()
    broker = kit.broker
    with trio.fail_after(PATIENCE):
        with pytest.raises(QueueMissing, match=unknown):
            await broker.publish(unknown, Message(b""))
        with pytest.raises(QueueMissing, match=unknown):
            await broker.publish(unknown, Message(b""), delay=0.2)
        with pytest.raises(QueueMissing, match=unknown):
            await broker.count(unknown)
        with pytest.raises(QueueMissing, match=unknown):
            await broker.purge(unknown)
        with pytest.raises(QueueMissing, match=unknown):
            async with broker.browse(unknown, 1):
                pass
        async with broker.open_channel() as channel:
            with pytest.raises(QueueMissing, match=unknown):
                await channel.subscribe(unknown, prefetch=1, on_delivery=Inbox().put)


async def test_an_unknown_queue_does_not_trouble_others(kit: Kit, queue: str) -> None:
    """What is published to real queues while others miss theirs arrives once, and in order."""
    unknown = kit.new_name()
    missed = 0

    async def miss() -> None:
        nonlocal missed
        with pytest.raises(QueueMissing):
            await kit.broker.publish(unknown, Message(b"same"))
        missed += 1

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(miss)
                nursery.start_soon(kit.broker.publish, queue, Message(b"same"))
        assert missed == 20
        await settles_at(QueueCount(messages=20, consumers=0), lambda: kit.broker.count(queue))


@pytest.mark.parametrize("delay", [0.0, 0.3])
async def test_a_queue_deleted_behind_our_back_is_made_again(kit: Kit, delay: float) -> None:
    """Publishing to a declared queue that somebody deleted declares it, and what goes with it."""
    broker = kit.broker
    buried = QueueSpec(name=kit.new_name())
    work = QueueSpec(name=kit.new_name(), dead_letter=buried.name, takes_delayed=True)
    with trio.fail_after(PATIENCE):
        await broker.declare([buried, work])
        await kit.delete_queue(work.name)
        await kit.delete_queue(buried.name)
        await broker.publish_many(work.name, messages(5))
        assert (await broker.count(work.name)).messages == 5
        assert (await broker.count(buried.name)).messages == 0
        await broker.publish(work.name, Message(b"later"), delay=delay)
        async with broker.open_channel() as channel:
            inbox = Inbox(ack=True)
            await channel.subscribe(work.name, prefetch=9, on_delivery=inbox.put)
            await inbox.wait(6)
    assert inbox.bodies == [*bodies(messages(5)), b"later"]


async def test_purge_deletes_what_is_ready(broker: Broker, queue: str) -> None:
    """Purging says how many it deleted, spares what is on loan, and leaves the queue usable."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(10))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=3, on_delivery=inbox.put)
            await inbox.wait(3)
            await settles_at(7, lambda: _ready(broker, queue))
            assert await broker.purge(queue) == 7
            assert await broker.purge(queue) == 0
        await settles_at(3, lambda: _ready(broker, queue))
        await broker.publish(queue, Message(b"after"))
        await settles_at(4, lambda: _ready(broker, queue))


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_count_sees_consumers_and_leaves_out_loans(broker: Broker, queue: str) -> None:
    """A count tells messages that are ready, and the consumers; a loan is not ready."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(5))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            await inbox.wait(2)
            await settles_at(QueueCount(messages=3, consumers=1), lambda: broker.count(queue))
        await settles_at(QueueCount(messages=5, consumers=0), lambda: broker.count(queue))


async def test_a_running_broker_is_connected_and_without_trouble(broker: Broker) -> None:
    """While all is well the broker says so."""
    with trio.fail_after(PATIENCE):
        await broker.wait_connected()
    assert broker.is_connected
    assert broker.trouble == ""


async def test_a_cancelled_publish_harms_nobody(broker: Broker, queue: str) -> None:
    """A publisher that gives up in the middle leaves the broker as usable as before."""
    with trio.fail_after(PATIENCE):
        for each in messages(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await broker.publish(queue, each)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.publish_many, queue, messages(5000))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await broker.publish(queue, Message(b"last"))
        async with broker.open_channel() as channel:
            inbox = Inbox(ack=True)
            await channel.subscribe(queue, prefetch=100, on_delivery=inbox.put)
            await settles_at(b"last", lambda: inbox.bodies[-1:] and inbox.bodies[-1])
