"""Deliveries: prefetch, settling, giving back, ending."""

from __future__ import annotations

import itertools

import pytest
import trio

from roger_trio._brokers.base import (
    AlreadySettled,
    Broker,
    ConnectionLost,
    Message,
    QueueMissing,
    QueueSpec,
)
from tests.conformance.kit import PATIENCE, Inbox, Kit, bodies, messages, settles_at


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_prefetch_bounds_what_is_on_loan(broker: Broker, queue: str) -> None:
    """No more than `prefetch` deliveries are unsettled; each settled one makes room for one."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(10))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=4, on_delivery=inbox.put)
            await inbox.wait(4)
            await settles_at(6, lambda: _ready(broker, queue))
            assert len(inbox.deliveries) == 4
            inbox.deliveries[2].ack()
            await inbox.wait(5)
            await settles_at(5, lambda: _ready(broker, queue))
            assert inbox.bodies == bodies(messages(5))


async def test_what_is_acked_is_gone(broker: Broker, queue: str) -> None:
    """An acknowledged message never comes back, an unsettled one does, marked, in order."""
    inbox, again = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(6))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=6, on_delivery=inbox.put)
            await inbox.wait(6)
            assert not any(each.redelivered for each in inbox.deliveries)
            inbox.deliveries[1].ack()
            inbox.deliveries[4].ack()
            await channel.flush()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=6, on_delivery=again.put)
            await again.wait(4)
            await settles_at(0, lambda: _ready(broker, queue))
    assert again.bodies == [b"0", b"2", b"3", b"5"]
    assert all(each.redelivered for each in again.deliveries)


async def test_what_is_given_back_comes_again(broker: Broker, queue: str) -> None:
    """A message given back keeps its place at the head, and is marked when it comes again."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(3))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            [first] = await inbox.wait(1)
            first.give_back()
            _, second = await inbox.wait(2)
            assert (second.body, second.redelivered) == (first.body, True)
            second.ack()
            *_, third = await inbox.wait(3)
            assert (third.body, third.redelivered) == (b"1", False)


async def test_what_is_given_back_after_those_behind_it_were_acked_comes_again(
    broker: Broker, queue: str
) -> None:
    """Settlements of one moment may leave together, and still mean each its own message."""
    inbox, again = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(6))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=6, on_delivery=inbox.put)
            await inbox.wait(6)
            await channel.unsubscribe()
            for number in (1, 2):
                inbox.deliveries[number].ack()
            inbox.deliveries[0].give_back()
            for number in (4, 5):
                inbox.deliveries[number].ack()
            inbox.deliveries[3].give_back()
            await channel.flush()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=6, on_delivery=again.put)
            await again.wait(2)
            await settles_at(0, lambda: _ready(broker, queue))
    assert again.bodies == [b"0", b"3"]


async def test_settling_twice_is_a_bug(broker: Broker, queue: str) -> None:
    """The second settlement of a delivery raises, whichever the two are."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(2))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            first, second = await inbox.wait(2)
            first.ack()
            with pytest.raises(AlreadySettled):
                first.give_back()
            await channel.unsubscribe()
            second.give_back()
            with pytest.raises(AlreadySettled):
                second.ack()
            await channel.flush()
        await settles_at(1, lambda: _ready(broker, queue))


async def test_unsubscribing_ends_intake_alone(broker: Broker, queue: str) -> None:
    """After unsubscribing nothing new comes, and what was delivered can still be settled."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(2))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            first, _second = await inbox.wait(2)
            await channel.unsubscribe()
            await broker.publish(queue, Message(b"new"))
            first.ack()
            await channel.flush()
            assert len(inbox.deliveries) == 2
        await settles_at(2, lambda: _ready(broker, queue))


async def test_the_end_of_a_channel_loses_no_settlement(broker: Broker, queue: str) -> None:
    """However many are settled at once, each has reached its queue before the channel ends."""
    inbox, count = Inbox(), 6000
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(count))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=count, on_delivery=inbox.put)
            await inbox.wait(count)
            await channel.unsubscribe()
            for each in inbox.deliveries[: count // 2]:
                each.give_back()
            for each in inbox.deliveries[count // 2 :]:
                each.ack()
            for taken in await channel.wait_settled():
                taken.give_back()
            await channel.flush()
        await settles_at(count // 2, lambda: _ready(broker, queue))
        rest = Inbox(ack=True)
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=100, on_delivery=rest.put)
            await rest.wait(count // 2)
    assert sorted(rest.bodies) == sorted(bodies(messages(count))[: count // 2])


async def test_the_end_of_a_channel_hands_nothing_out(broker: Broker, queue: str) -> None:
    """Waiting for a few settlements takes no message that others wait for."""
    inbox, next_inbox = Inbox(), Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"1"))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            [held] = await inbox.wait(1)
            await channel.unsubscribe()
            await broker.publish(queue, Message(b"2"))
            held.ack()
            assert not await channel.wait_settled()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=next_inbox.put)
            [following] = await next_inbox.wait(1)
    assert (following.body, following.redelivered) == (b"2", False)


async def test_several_can_wait_for_settlements_at_once(broker: Broker, queue: str) -> None:
    """Each of them comes to an end, also while the subscription is ended."""
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=Inbox().put)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(channel.wait_settled)
                    nursery.start_soon(channel.unsubscribe)


async def test_whatever_was_delivered_while_unsubscribing_is_handed_over(
    broker: Broker, queue: str
) -> None:
    """Nothing comes back by itself, as it does where a consumer died with it."""
    count = 1000
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(count))
        inboxes = [Inbox() for _ in range(40)]
        async with broker.open_channel() as channel:
            for inbox in inboxes:
                await channel.subscribe(queue, prefetch=20, on_delivery=inbox.put)
                inbox.deliveries += await channel.unsubscribe()
                came = len(inbox.deliveries)
                assert not any(each.redelivered for each in inbox.deliveries)
                await _ready(broker, queue)  # A round trip, in which something could still come.
                assert len(inbox.deliveries) == came
            for each in itertools.chain.from_iterable(inbox.deliveries for inbox in inboxes):
                each.ack()
            for taken in await channel.wait_settled():
                taken.give_back()


async def test_subscribing_again_with_another_prefetch(broker: Broker, queue: str) -> None:
    """A channel may change its prefetch by leaving and coming back; loans stay valid."""
    inbox, more = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(10))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            [first] = await inbox.wait(1)
            for taken in await channel.unsubscribe():
                taken.give_back()
            await channel.subscribe(queue, prefetch=5, on_delivery=more.put)
            await more.wait(5)
            first.ack()
            await channel.flush()
            await settles_at(4, lambda: _ready(broker, queue))
        await settles_at(9, lambda: _ready(broker, queue))


async def test_a_prefetch_above_any_number_the_broker_knows(broker: Broker, queue: str) -> None:
    """A prefetch of 100,000 is as good as the most that the broker can do."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"one"))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=100_000, on_delivery=inbox.put)
            await inbox.wait(1)


async def test_two_queues_on_one_channel(kit: Kit, broker: Broker, queue: str) -> None:
    """A channel may consume several queues; a delivery says from which it is."""
    second = kit.new_name()
    inbox = Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.declare([QueueSpec(name=second)])
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            await channel.subscribe(second, prefetch=1, on_delivery=inbox.put)
            await broker.publish(queue, Message(b"1"))
            await inbox.wait(1)
            await broker.publish(second, Message(b"2"))
            await inbox.wait(2)
            assert [each.queue for each in inbox.deliveries] == [queue, second]
            await channel.unsubscribe()
            await broker.publish(second, Message(b"3"))
            assert await _ready(broker, second) == 1


async def test_two_consumers_share_a_queue(broker: Broker, queue: str) -> None:
    """Each message goes to one of the consumers, and an idle one gets its share."""
    one, two = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as first, broker.open_channel() as second:
            await first.subscribe(queue, prefetch=2, on_delivery=one.put)
            await second.subscribe(queue, prefetch=2, on_delivery=two.put)
            await broker.publish_many(queue, messages(4))
            await one.wait(2)
            await two.wait(2)
    assert sorted(one.bodies + two.bodies) == bodies(messages(4))


async def test_settling_after_the_channel_is_closed(broker: Broker, queue: str) -> None:
    """On a closed channel settling raises `ConnectionLost`, and the message is given again."""
    inbox, again = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(2))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            first, second = await inbox.wait(2)
        with pytest.raises(ConnectionLost):
            first.ack()
        with pytest.raises(ConnectionLost):
            second.give_back()
        with pytest.raises(ConnectionLost):
            await channel.wait_lost()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=again.put)
            await again.wait(2)
    assert again.bodies == bodies(messages(2))


async def test_a_channel_closed_in_the_middle_of_a_flood(broker: Broker, queue: str) -> None:
    """Channels that are closed while deliveries pour in cost nobody else anything."""
    sent, bystander = messages(3000), Inbox()
    with trio.fail_after(60):
        await broker.publish_many(queue, sent)
        async with broker.open_channel() as other:
            await other.subscribe(queue, prefetch=1, on_delivery=bystander.put)
            [held] = await bystander.wait(1)
            for _ in range(10):
                inbox = Inbox(ack=True)
                async with broker.open_channel() as channel:
                    await channel.subscribe(queue, prefetch=50, on_delivery=inbox.put)
                    await inbox.wait(30)
            held.ack()
            await other.flush()
        rest = Inbox(ack=True)
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=500, on_delivery=rest.put)
            await settles_at(0, lambda: _ready(broker, queue))
            await broker.publish(queue, Message(b"end"))
            await settles_at(True, lambda: b"end" in rest.bodies)
    assert broker.is_connected


async def test_a_deleted_queue_interrupts_its_consumer(kit: Kit, queue: str) -> None:
    """Its consumer is told that the queue is missing; settling what it held raises nothing."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await kit.broker.publish_many(queue, messages(2))
        async with kit.broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            first, second = await inbox.wait(2)
            await kit.delete_queue(queue)
            with pytest.raises(QueueMissing, match=queue):
                await channel.wait_interrupted()
            first.ack()
            second.give_back()
            await channel.flush()
            await channel.unsubscribe()
    assert kit.broker.is_connected


async def test_closing_with_publishers_and_deliveries_in_flight(kit: Kit, queue: str) -> None:
    """A broker that is closed in the middle of everything loses nothing that was confirmed."""
    confirmed: list[bytes] = []
    inbox = Inbox()

    async def publish_for_ever(other: Broker, number: int) -> None:
        count = 0
        while True:
            body = b"%d-%d" % (number, count)
            await other.publish(queue, Message(body))
            confirmed.append(body)
            count += 1

    with trio.fail_after(60):
        async with trio.open_nursery() as publishers:
            async with kit.other_broker() as other, other.open_channel() as channel:
                await channel.subscribe(queue, prefetch=20, on_delivery=inbox.put)
                for number in range(10):
                    publishers.start_soon(publish_for_ever, other, number)
                await inbox.wait(20)
            with pytest.raises(ConnectionLost):
                inbox.deliveries[0].ack()
            publishers.cancel_scope.cancel()
        async with kit.broker.open_channel() as channel:
            everything = Inbox(ack=True)
            await channel.subscribe(queue, prefetch=500, on_delivery=everything.put)
            await settles_at(set(), lambda: set(confirmed) - set(everything.bodies))
