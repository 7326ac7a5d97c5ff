"""A queue that has one consumer at a time."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Broker, Message, QueueRefused, QueueSpec
from tests.conformance.kit import PATIENCE, Inbox, Kit, bodies, messages, settles_at


@pytest.fixture
async def single(kit: Kit) -> str:
    """Return a fresh queue with a single active consumer."""
    name = kit.new_name()
    with trio.fail_after(PATIENCE):
        await kit.broker.declare([QueueSpec(name=name, single_active=True)])
    return name


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_the_first_gets_all(broker: Broker, single: str) -> None:
    """All goes to the first consumer, within its prefetch; the others wait, and are not counted."""
    one, two = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as first, broker.open_channel() as second:
            await first.subscribe(single, prefetch=2, on_delivery=one.put)
            await second.subscribe(single, prefetch=2, on_delivery=two.put)
            await broker.publish_many(single, messages(5))
            await one.wait(2)
            await settles_at(3, lambda: _ready(broker, single))
            one.deliveries[0].ack()
            one.deliveries[1].give_back()
            await one.wait(4)
            assert sorted(one.bodies[2:]) == [b"1", b"2"]
            assert (await broker.count(single)).consumers == 1
    assert two.bodies == []


async def test_when_it_closes_the_next_takes_over(broker: Broker, single: str) -> None:
    """The end of the active channel makes the next one active, with what was on loan, in order."""
    inboxes = [Inbox() for _ in range(3)]
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as last:
            async with broker.open_channel() as second:
                async with broker.open_channel() as first:
                    for channel, inbox in zip((first, second, last), inboxes, strict=True):
                        await channel.subscribe(single, prefetch=3, on_delivery=inbox.put)
                    await broker.publish_many(single, messages(4))
                    await inboxes[0].wait(3)
                    inboxes[0].deliveries[0].ack()
                    await first.flush()
                await inboxes[1].wait(3)
                assert inboxes[1].bodies == bodies(messages(4))[1:]
            await inboxes[2].wait(3)
            assert inboxes[2].bodies == bodies(messages(4))[1:]


async def test_when_it_unsubscribes_the_next_takes_over(broker: Broker, single: str) -> None:
    """An active consumer that leaves hands over, and can come back at the end of the line."""
    one, two = Inbox(ack=True), Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as first, broker.open_channel() as second:
            await first.subscribe(single, prefetch=1, on_delivery=one.put)
            await second.subscribe(single, prefetch=1, on_delivery=two.put)
            await broker.publish(single, Message(b"1"))
            await one.wait(1)
            await first.unsubscribe()
            await broker.publish(single, Message(b"2"))
            await two.wait(1)
            await first.subscribe(single, prefetch=1, on_delivery=one.put)
            await broker.publish(single, Message(b"3"))
            await two.wait(2)
    assert (one.bodies, two.bodies) == ([b"1"], [b"2", b"3"])


async def test_it_fails_over_between_brokers(kit: Kit, single: str) -> None:
    """When the broker object of the active consumer ends, one of another takes over."""
    one, two = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        async with kit.broker.open_channel() as second:
            async with kit.other_broker() as other, other.open_channel() as first:
                await first.subscribe(single, prefetch=9, on_delivery=one.put)
                await second.subscribe(single, prefetch=9, on_delivery=two.put)
                await kit.broker.publish_many(single, messages(3))
                await one.wait(3)
                assert two.bodies == []
            await two.wait(3)
            assert all(each.redelivered for each in two.deliveries)
    assert two.bodies == bodies(messages(3))


async def test_a_lost_connection_hands_over(kit: Kit, single: str) -> None:
    """When the active consumer's connection is lost, the next one gets what it had."""
    one, two = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other, kit.broker.open_channel() as first:
            await first.subscribe(single, prefetch=9, on_delivery=one.put)
            async with other.open_channel() as second:
                await second.subscribe(single, prefetch=9, on_delivery=two.put)
                await other.publish_many(single, messages(3))
                await one.wait(3)
                await kit.lose_connection()
                await two.wait(3)
    assert two.bodies == bodies(messages(3))


async def test_it_is_part_of_the_declaration(kit: Kit, single: str, queue: str) -> None:
    """A queue cannot be declared again as the other kind."""
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other:
            with pytest.raises(QueueRefused, match=single):
                await other.declare([QueueSpec(name=single)])
            with pytest.raises(QueueRefused, match=queue):
                await other.declare([QueueSpec(name=queue, single_active=True)])
