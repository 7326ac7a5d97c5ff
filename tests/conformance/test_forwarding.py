"""A queue whose messages are sent on, each to the queue that its publisher named."""

from __future__ import annotations

import random
from collections.abc import Mapping

import attrs
import pytest
import trio

from roger_trio._brokers.base import (
    AlreadySettled,
    Broker,
    ConnectionLost,
    HeaderValue,
    Message,
    PublishRefused,
    QueueRefused,
    QueueSpec,
)
from tests.conformance.kit import PATIENCE, Inbox, Kit, bodies, messages, settles_at

HEADERS: Mapping[str, HeaderValue] = {"roger-execution-key": "key \u20ac", "n": 3}


@pytest.fixture
async def waiting(kit: Kit) -> str:
    """Return a fresh queue that forwards."""
    name = kit.new_name()
    with trio.fail_after(PATIENCE):
        await kit.broker.declare([QueueSpec(name=name, forwards=True)])
    return name


@pytest.fixture
async def elsewhere(kit: Kit) -> str:
    """Return another fresh queue, with a dead-letter target of its own."""
    target, name = kit.new_name(), kit.new_name()
    with trio.fail_after(PATIENCE):
        await kit.broker.declare([QueueSpec(name=target), QueueSpec(name=name, dead_letter=target)])
    return name


def onward(queue: str, count: int, size: int = 0) -> list[Message]:
    """Make messages that go on to `queue`."""
    return [attrs.evolve(each, onward=queue) for each in messages(count, size)]


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_what_is_sent_on_after_those_behind_it_were_acked_arrives(
    broker: Broker, waiting: str, queue: str
) -> None:
    """Settlements of one moment may leave together, and still mean each its own message."""
    inbox, there = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(waiting, onward(queue, 4))
        async with broker.open_channel() as channel:
            await channel.subscribe(waiting, prefetch=4, on_delivery=inbox.put)
            await inbox.wait(4)
            for number in (1, 2):
                inbox.deliveries[number].ack()
            for number in (0, 3):
                inbox.deliveries[number].forward()
            await channel.flush()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=4, on_delivery=there.put)
            await there.wait(2)
    assert there.bodies == [b"0", b"3"]


async def test_each_goes_where_its_publisher_said(
    broker: Broker, waiting: str, queue: str, elsewhere: str
) -> None:
    """Each message is sent on to its own queue with all that is its own, and is gone here."""
    inbox, here, there = Inbox(), Inbox(), Inbox()
    sent = [
        Message(b"0", "id0", HEADERS, onward=queue),
        Message(b"1" * 200_000, "id1", onward=elsewhere),
        Message(b"", "id2", HEADERS, onward=elsewhere),
    ]
    with trio.fail_after(PATIENCE):
        await broker.publish_many(waiting, sent)
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            await other.subscribe(elsewhere, prefetch=9, on_delivery=there.put)
            for each in list(await inbox.wait(3)):
                assert each.queue == waiting
                each.forward()
            await here.wait(1)
            await there.wait(2)
            got = {each.message_id: each for each in (*here.deliveries, *there.deliveries)}
            for message in sent:
                delivery = got[message.message_id]
                assert delivery.body == message.body
                assert delivery.queue == message.onward
                assert dict(message.headers or {}).items() <= dict(delivery.headers).items()
                delivery.ack()
            await settles_at(0, lambda: _ready(broker, waiting))


async def test_one_that_came_back_can_be_forwarded(
    broker: Broker, waiting: str, queue: str
) -> None:
    """Whether it is said to have been handed out before is up to the broker: RabbitMQ 4 does."""
    inbox, here = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish(waiting, Message(b"x", onward=queue))
        async with broker.open_channel() as channel:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await inbox.wait(1)
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            (await inbox.wait(2))[1].forward()
            await here.wait(1)
            assert here.bodies == [b"x"]
            here.deliveries[0].ack()
            await other.flush()


async def test_hundreds_in_any_order(broker: Broker, waiting: str, queue: str) -> None:
    """Hundreds sent on in one go and in any order arrive, and the others come back in order."""
    inbox, again, everything = Inbox(), Inbox(), Inbox(ack=True)
    chosen = list(range(0, 600, 2))
    random.Random(7).shuffle(chosen)
    with trio.fail_after(60):
        await broker.publish_many(waiting, onward(queue, 600))
        async with broker.open_channel() as other:
            await other.subscribe(queue, prefetch=100, on_delivery=everything.put)
            async with broker.open_channel() as channel:
                await channel.subscribe(waiting, prefetch=65_535, on_delivery=inbox.put)
                await inbox.wait(600)
                for number in chosen:
                    inbox.deliveries[number].forward()
                await everything.wait(300)
            async with broker.open_channel() as channel:
                await channel.subscribe(waiting, prefetch=65_535, on_delivery=again.put)
                await again.wait(300)
    assert sorted(everything.bodies, key=int) == bodies(messages(600))[::2]
    assert again.bodies == bodies(messages(600))[1::2]


async def test_nothing_is_lost_by_closing_at_once(broker: Broker, waiting: str, queue: str) -> None:
    """When the channel closes right after a thousand forwards, each is forwarded or comes back."""
    inbox, again, everything = Inbox(), Inbox(), Inbox(ack=True)
    with trio.fail_after(60):
        await broker.publish_many(waiting, onward(queue, 1000))
        async with broker.open_channel() as channel:
            await channel.subscribe(waiting, prefetch=65_535, on_delivery=inbox.put)
            for each in list(await inbox.wait(1000)):
                each.forward()
            await channel.flush()
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=65_535, on_delivery=again.put)
            await other.subscribe(queue, prefetch=100, on_delivery=everything.put)
            await settles_at(
                True, lambda: {*everything.bodies, *again.bodies} == set(bodies(messages(1000)))
            )
    assert again.bodies == sorted(again.bodies, key=int)


async def test_nothing_is_lost_with_the_connection(kit: Kit, waiting: str, queue: str) -> None:
    """When the connection is lost right after the forwards, each is forwarded or comes back."""
    inbox, again, everything = Inbox(), Inbox(), Inbox(ack=True)
    with trio.fail_after(60):
        await kit.broker.publish_many(waiting, onward(queue, 100))
        async with kit.broker.open_channel() as channel:
            await channel.subscribe(waiting, prefetch=65_535, on_delivery=inbox.put)
            for each in list(await inbox.wait(100))[:50]:
                each.forward()
            await kit.lose_connection()
            with pytest.raises(ConnectionLost):
                await channel.wait_lost()
            with pytest.raises(ConnectionLost):
                inbox.deliveries[60].forward()
        await kit.broker.wait_connected()
        async with kit.broker.open_channel() as channel, kit.broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=65_535, on_delivery=again.put)
            await other.subscribe(queue, prefetch=100, on_delivery=everything.put)
            await settles_at(
                True, lambda: {*everything.bodies, *again.bodies} == set(bodies(messages(100)))
            )
    assert set(bodies(messages(100))[50:]) <= set(again.bodies)


async def test_the_other_settlements(broker: Broker, waiting: str, queue: str) -> None:
    """What is acknowledged goes nowhere; what is given back comes again and can go on then."""
    inbox, here = Inbox(), Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(waiting, onward(queue, 3))
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            await inbox.wait(3)
            inbox.deliveries[0].ack()
            inbox.deliveries[1].give_back()
            again = (await inbox.wait(4))[3]
            assert (again.body, again.redelivered) == (b"1", True)
            again.forward()
            await here.wait(1)
            inbox.deliveries[2].forward()
            await here.wait(2)
            for each in (inbox.deliveries[0], again):
                with pytest.raises(AlreadySettled):
                    each.forward()
                with pytest.raises(AlreadySettled):
                    each.ack()
        assert here.bodies == [b"1", b"2"]
        await settles_at(0, lambda: _ready(broker, waiting))


async def test_a_body_let_go_of_is_the_brokers_alone(
    broker: Broker, waiting: str, queue: str
) -> None:
    """Without its body a delivery keeps id and headers, and what the broker has stays whole."""
    inbox, here = Inbox(), Inbox()
    sent = [Message(b"a" * 9000, "a", HEADERS, queue), Message(b"b" * 9000, "b", HEADERS, queue)]
    with trio.fail_after(PATIENCE):
        await broker.publish_many(waiting, sent)
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            for each, message in zip(list(await inbox.wait(2)), sent, strict=True):
                each.drop_body()
                each.drop_body()
                assert each.body == b""
                assert each.message_id == message.message_id
                assert HEADERS.items() <= dict(each.headers).items()
            inbox.deliveries[0].forward()
            inbox.deliveries[1].give_back()
            assert (await here.wait(1))[0].body == sent[0].body
            assert (await inbox.wait(3))[2].body == sent[1].body


async def test_a_message_must_say_where_it_goes(
    kit: Kit, waiting: str, queue: str, elsewhere: str
) -> None:
    """A queue that forwards takes only messages that can be forwarded, and no other takes those."""
    broker = kit.broker
    with trio.fail_after(PATIENCE):
        with pytest.raises(PublishRefused, match=waiting):
            await broker.publish(waiting, Message(b"x"))
        with pytest.raises(PublishRefused, match=waiting):
            await broker.publish_many(waiting, [*onward(queue, 2), Message(b"x")])
        with pytest.raises(PublishRefused, match=queue):
            await broker.publish(queue, Message(b"x", onward=elsewhere))
        with pytest.raises(PublishRefused, match=queue):
            await broker.publish(queue, Message(b"x", onward=elsewhere), delay=1)
        with pytest.raises(PublishRefused, match=waiting):
            await broker.publish(waiting, Message(b"x", onward=queue), delay=1)
        assert [await _ready(broker, each) for each in (waiting, queue, elsewhere)] == [0, 0, 0]


async def test_only_what_can_go_on_is_forwarded(broker: Broker, queue: str) -> None:
    """Forwarding from a queue that does not forward is refused, and the delivery stays on loan."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"x"))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=9, on_delivery=inbox.put)
            [delivery] = await inbox.wait(1)
            with pytest.raises(PublishRefused, match=queue):
                delivery.forward()
            delivery.give_back()
            (await inbox.wait(2))[1].ack()
            await channel.flush()


async def test_looking_and_forwarding(broker: Broker, waiting: str, queue: str) -> None:
    """What was found by looking can be sent on too; the rest stays in order."""
    here = Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(waiting, onward(queue, 4))
        async with broker.browse(waiting, 3) as found:
            assert [each.body for each in found] == [b"0", b"1", b"2"]
            found[1].forward()
            found[2].drop_body()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=9, on_delivery=here.put)
            assert (await here.wait(1))[0].message_id == "id1"
        await settles_at(3, lambda: _ready(broker, waiting))
        async with broker.browse(waiting, 9) as found:
            assert [each.body for each in found] == [b"0", b"2", b"3"]
        assert await broker.purge(waiting) == 3


async def test_another_broker_may_publish_and_forward(kit: Kit, waiting: str, queue: str) -> None:
    """What one broker put there, another one sends on."""
    inbox, here = Inbox(), Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other:
            await other.declare([QueueSpec(name=waiting, forwards=True)])
            await other.publish_many(waiting, onward(queue, 2))
            await kit.broker.publish(waiting, Message(b"2", onward=queue))
            async with other.open_channel() as channel, kit.broker.open_channel() as target:
                await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
                await target.subscribe(queue, prefetch=9, on_delivery=here.put)
                for each in reversed(list(await inbox.wait(3))):
                    each.forward()
                await here.wait(3)
    assert sorted(here.bodies) == [b"0", b"1", b"2"]


async def test_the_same_message_round_and_round(broker: Broker, waiting: str, queue: str) -> None:
    """A message may be sent on, and published to the same queue again, any number of times."""
    inbox, here = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as channel, broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            for number in range(1, 6):
                await broker.publish(waiting, Message(b"x", "id", HEADERS, onward=queue))
                (await inbox.wait(number))[-1].forward()
                delivery = (await here.wait(number))[-1]
                assert HEADERS.items() <= dict(delivery.headers).items()
                delivery.ack()
            await other.flush()


async def test_it_is_part_of_the_declaration(kit: Kit, waiting: str, queue: str) -> None:
    """A queue cannot be declared again as the other kind."""
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other:
            with pytest.raises(QueueRefused, match=waiting):
                await other.declare([QueueSpec(name=waiting)])
            with pytest.raises(QueueRefused, match=queue):
                await other.declare([QueueSpec(name=queue, forwards=True)])


async def test_it_is_made_good_when_it_was_deleted(kit: Kit, waiting: str, queue: str) -> None:
    """A forwarding queue that was deleted behind our back is made anew for the next message."""
    inbox, here = Inbox(), Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await kit.delete_queue(waiting)
        await kit.broker.publish(waiting, Message(b"x", onward=queue))
        async with kit.broker.open_channel() as channel, kit.broker.open_channel() as other:
            await channel.subscribe(waiting, prefetch=9, on_delivery=inbox.put)
            await other.subscribe(queue, prefetch=9, on_delivery=here.put)
            (await inbox.wait(1))[0].forward()
            await here.wait(1)
