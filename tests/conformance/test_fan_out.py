"""Broadcasts: to everybody who listens now, kept for nobody."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from roger_trio._brokers.base import Broker, ConnectionLost
from roger_trio._brokers.listening import MAX_UNREAD
from tests.conformance.kit import PATIENCE, Inbox, Kit, messages, settles_at


@pytest.fixture
def topic(kit: Kit) -> str:
    """Return a fresh topic."""
    return kit.new_topic()


@asynccontextmanager
async def listening(
    broker: Broker, topic: str, count: int = 1
) -> AsyncIterator[list[trio.MemoryReceiveChannel[bytes]]]:
    """Listen several times at once."""
    if not count:
        yield []
        return
    async with broker.listen(topic) as first, listening(broker, topic, count - 1) as others:
        yield [first, *others]


async def test_all_who_listen_hear_it(kit: Kit, topic: str) -> None:
    """Every listener of a topic hears all of it, in order, in all brokers."""
    with trio.fail_after(PATIENCE):
        async with (
            kit.other_broker() as other,
            listening(kit.broker, topic, 3) as here,
            listening(other, topic, 2) as there,
        ):
            for number in range(20):
                await (kit.broker, other)[number // 10].broadcast(topic, b"%d" % number)
            for listener in (*here, *there):
                heard = [await listener.receive() for _ in range(20)]
                assert heard[:10] == [b"%d" % number for number in range(10)]
                assert heard[10:] == [b"%d" % number for number in range(10, 20)]


async def test_it_is_kept_for_nobody(broker: Broker, topic: str) -> None:
    """What was said before somebody listened, and after, is not heard."""
    with trio.fail_after(PATIENCE):
        await broker.broadcast(topic, b"before")
        async with broker.listen(topic) as heard:
            await broker.broadcast(topic, b"during")
            assert await heard.receive() == b"during"
        await broker.broadcast(topic, b"between")
        async with broker.listen(topic) as heard:
            await broker.broadcast(topic, b"again")
            assert await heard.receive() == b"again"


async def test_topics_are_apart(kit: Kit, topic: str) -> None:
    """Who listens to one topic does not hear another."""
    second = kit.new_topic()
    with trio.fail_after(PATIENCE):
        async with kit.broker.listen(topic) as one, kit.broker.listen(second) as two:
            await kit.broker.broadcast(second, b"2")
            await kit.broker.broadcast(topic, b"1")
            assert await one.receive() == b"1"
            assert await two.receive() == b"2"


async def test_who_hears_the_last_topic_hears_all(kit: Kit, topic: str) -> None:
    """Who begins to listen in the middle misses nothing that is said after that, on any topic.

    A node that hears what a coordinator answers it must not miss what is told to all nodes then.
    """
    topics = [topic, kit.new_topic()]

    async def talk(broker: Broker) -> None:
        async with broker.open_channel(speaks=True) as channel:
            for number in itertools.count():
                channel.say(topics[number % 2], b"%d" % number)
                await channel.flush()
                await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other, trio.open_nursery() as nursery:
            nursery.start_soon(talk, other)
            for _ in range(30):
                topics[:] = kit.new_topic(), kit.new_topic()
                async with kit.broker.listen(*topics) as listener:
                    first = 0
                    while not first % 2:  # On the topic that it began with.
                        first = int(await listener.receive())
                    later = [int(await listener.receive()) for _ in range(20)]
                assert later == list(range(first + 1, first + 21))
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [0, 200_000])
async def test_bodies_of_any_size(broker: Broker, topic: str, size: int) -> None:
    """Empty bodies and large ones are heard as they were said."""
    body = bytes(range(256)) * (size // 256)
    with trio.fail_after(PATIENCE):
        async with broker.listen(topic) as heard:
            await broker.broadcast(topic, body)
            assert await heard.receive() == body


async def test_one_that_leaves_leaves_the_others(broker: Broker, topic: str) -> None:
    """The end of one who listens, by an error or otherwise, is nobody else's."""
    with trio.fail_after(PATIENCE):
        async with broker.listen(topic) as stays:
            with pytest.raises(ZeroDivisionError):
                async with broker.listen(topic):
                    raise ZeroDivisionError
            with trio.CancelScope() as scope:
                async with broker.listen(topic):
                    scope.cancel()
                    await trio.sleep_forever()
            await broker.broadcast(topic, b"x")
            assert await stays.receive() == b"x"


async def test_one_that_is_too_slow_loses_the_newest(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is unread is bounded; who reads nothing loses the newest, and one WARNING says so."""
    with trio.fail_after(60):
        async with broker.listen(topic) as slow, broker.listen(topic) as quick:
            for number in range(MAX_UNREAD + 20):
                await broker.broadcast(topic, b"%d" % number)
                assert await quick.receive() == b"%d" % number
            for number in range(MAX_UNREAD):
                assert await slow.receive() == b"%d" % number
            await broker.broadcast(topic, b"at last")
            assert await slow.receive() == b"at last"
    assert sum("too slow" in each.message for each in caplog.records) == 1


async def test_it_goes_on_after_a_loss(kit: Kit, topic: str) -> None:
    """Who listens hears again once the connection is back, and need do nothing for it."""
    with trio.fail_after(60):
        async with kit.broker.listen(topic) as heard:
            await kit.broker.broadcast(topic, b"before")
            assert await heard.receive() == b"before"
            await kit.lose_connection()
            while True:
                await kit.broker.broadcast(topic, b"after")
                with trio.move_on_after(0.2):
                    assert await heard.receive() == b"after"
                    break


async def test_who_may_have_missed_something_is_told(kit: Kit, topic: str) -> None:
    """Where a loss keeps something from being heard, it is said when all is heard again."""
    again, said = trio.Event(), 0
    with trio.fail_after(60):
        async with kit.broker.listen(topic, on_again=again.set) as heard:
            await kit.broker.broadcast(topic, b"before")
            assert await heard.receive() == b"before"
            assert not again.is_set()
            await kit.lose_connection()
            while not await kit.broker.broadcast(topic, b"%d" % said):
                said += 1
                await trio.lowlevel.checkpoint()
            if await heard.receive() != b"0":
                await again.wait()


async def test_several_topics_in_the_order_they_were_said(kit: Kit, topic: str) -> None:
    """One who listens to several topics hears them all as one row, and nothing else."""
    second, foreign = kit.new_topic(), kit.new_topic()
    with trio.fail_after(PATIENCE):
        async with kit.broker.listen(topic, second) as heard, kit.broker.listen(second) as part:
            for number in range(12):
                where = (topic, second, foreign)[number % 3]
                await kit.broker.broadcast(where, b"%d" % number)
            assert [await heard.receive() for _ in range(8)] == [
                b"%d" % number for number in range(12) if number % 3 < 2
            ]
            assert [await part.receive() for _ in range(4)] == [b"1", b"4", b"7", b"10"]


async def test_one_topic_twice_is_heard_once(broker: Broker, topic: str) -> None:
    """Naming a topic twice changes nothing."""
    with trio.fail_after(PATIENCE):
        async with broker.listen(topic, topic) as heard:
            await broker.broadcast(topic, b"1")
            await broker.broadcast(topic, b"2")
            assert [await heard.receive(), await heard.receive()] == [b"1", b"2"]


async def test_it_tells_whether_anybody_listens(kit: Kit, topic: str) -> None:
    """A broadcast says whether somebody listens, in whatever process; and nobody who has left."""
    second = kit.new_topic()
    with trio.fail_after(PATIENCE):
        assert await kit.broker.broadcast(topic, b"x") is False
        async with kit.broker.listen(topic, second):
            assert await kit.broker.broadcast(topic, b"x") is True
            assert await kit.broker.broadcast(second, b"x") is True
            assert await kit.broker.broadcast(kit.new_topic(), b"x") is False
        await settles_at(False, lambda: kit.broker.broadcast(topic, b"x"))
        async with kit.other_broker() as other, other.listen(topic):
            assert await kit.broker.broadcast(topic, b"x") is True
        await settles_at(False, lambda: kit.broker.broadcast(topic, b"x"))


async def test_all_topics_are_heard_again_after_a_loss(kit: Kit, topic: str) -> None:
    """Once one topic is heard again after a lost connection, all others of it are."""
    second = kit.new_topic()
    with trio.fail_after(60):
        async with kit.broker.listen(topic, second) as heard:
            await kit.lose_connection()
            while not await kit.broker.broadcast(second, b"first"):
                await trio.lowlevel.checkpoint()
            assert await kit.broker.broadcast(topic, b"second")
            assert [await heard.receive(), await heard.receive()] == [b"first", b"second"]


# Said on a channel...


async def test_what_a_channel_says_is_heard(kit: Kit, topic: str) -> None:
    """What is said on a channel is heard in order, of any size, by all who listen anywhere."""
    sizes = [0, 10, 200_000, 10, 5_000, 70_000]
    said = [b"%d" % number + b"x" * size for number, size in enumerate(sizes)]
    with trio.fail_after(PATIENCE):
        async with (
            kit.other_broker() as other,
            other.listen(topic) as there,
            kit.broker.listen(topic) as here,
            kit.broker.open_channel(speaks=True) as channel,
        ):
            for body in said:
                channel.say(topic, body)
            assert [await here.receive() for _ in said] == said
            assert [await there.receive() for _ in said] == said


async def test_a_channel_may_speak_to_nobody(kit: Kit, topic: str, queue: str) -> None:
    """With nobody listening it is gone, and the channel goes on as before."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        async with kit.broker.open_channel(speaks=True) as channel:
            channel.say(topic, b"nobody")
            await channel.subscribe(queue, prefetch=9, on_delivery=inbox.put)
            channel.say(topic, b"nobody")
            await kit.broker.publish_many(queue, messages(2))
            await inbox.wait(2)
            async with kit.broker.listen(topic) as heard:
                inbox.deliveries[0].ack()
                channel.say(topic, b"now")
                inbox.deliveries[1].ack()
                assert await heard.receive() == b"now"


async def test_a_channel_that_is_gone_says_nothing(kit: Kit, topic: str) -> None:
    """What is said on a channel that is closed or lost is an error, and heard by nobody."""
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other, other.listen(topic) as heard:
            async with kit.broker.open_channel(speaks=True) as closed:
                pass
            with pytest.raises(ConnectionLost):
                closed.say(topic, b"closed")
            async with kit.broker.open_channel(speaks=True) as lost:
                await kit.lose_connection()
                with pytest.raises(ConnectionLost):
                    await lost.wait_lost()
                with pytest.raises(ConnectionLost):
                    lost.say(topic, b"lost")
            await other.broadcast(topic, b"the end")
            assert await heard.receive() == b"the end"


async def test_hundreds_said_among_settlements(kit: Kit, topic: str, queue: str) -> None:
    """Said between settlements, in one go, all is heard in order and all is settled."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await kit.broker.publish_many(queue, messages(300))
        async with (
            kit.broker.listen(topic) as heard,
            kit.broker.open_channel(speaks=True) as channel,
        ):
            await channel.subscribe(queue, prefetch=300, on_delivery=inbox.put)
            for each in list(await inbox.wait(300)):
                each.ack()
                channel.say(topic, each.body)
            assert [await heard.receive() for _ in range(300)] == inbox.bodies
            await settles_at(True, lambda: _is_all_settled(kit.broker, queue))
        again = Inbox()
        async with kit.broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=300, on_delivery=again.put)
            await kit.broker.publish(queue, messages(1)[0])
            await again.wait(1)


async def _is_all_settled(broker: Broker, queue: str) -> bool:
    async with broker.browse(queue, 1) as found:
        return not found
