"""Looking at what waits, without effect on its order."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Broker, ConnectionLost, Message
from tests.conformance.kit import PATIENCE, Inbox, bodies, messages, settles_at


async def contents(broker: Broker, queue: str) -> list[bytes]:
    """Consume all that is ready; return the bodies in order."""
    inbox = Inbox(ack=True)
    count = (await broker.count(queue)).messages
    async with broker.open_channel() as channel:
        await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
        await inbox.wait(count)
        await channel.flush()
    return inbox.bodies


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


@pytest.mark.parametrize("limit", [0, 1, 4, 9, 10, 11, 1000])
async def test_a_look_changes_nothing(broker: Broker, queue: str, limit: int) -> None:
    """Up to `limit` from the head, oldest first; afterwards all are there, in order."""
    sent = messages(10)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        for _ in range(3):
            async with broker.browse(queue, limit) as found:
                assert [each.body for each in found] == bodies(sent)[:limit]
        await settles_at(10, lambda: _ready(broker, queue))
        assert await contents(broker, queue) == bodies(sent)


async def test_an_empty_queue_shows_nothing(broker: Broker, queue: str) -> None:
    """A look into an empty queue returns at once, with nothing."""
    with trio.fail_after(PATIENCE):
        async with broker.browse(queue, 10) as found:
            assert list(found) == []


async def test_a_look_is_no_delivery(broker: Broker, queue: str) -> None:
    """What nobody was given before says so to who looks at it.

    RabbitMQ marks it afterwards, as it tells a look from a delivery by nothing; that is no
    promise, and the jobs' own count of returns leaves the first one out for it.
    """
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b""))
        async with broker.browse(queue, 1) as [first]:
            assert not first.redelivered


async def test_a_look_follows_a_look_at_once(broker: Broker, queue: str) -> None:
    """However soon after another look: each one sees all that is there."""
    sent = messages(30)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        for _ in range(50):
            async with broker.browse(queue, 1000) as found:
                assert [each.body for each in found] == bodies(sent)


@pytest.mark.parametrize("taken", [[0], [4], [1, 3], [0, 1, 2, 3, 4]])
async def test_some_may_be_settled(broker: Broker, queue: str, taken: list[int]) -> None:
    """What is acknowledged during a look is gone; the rest stays, in order."""
    sent = messages(8)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        async with broker.browse(queue, 5) as found:
            for position in taken:
                found[position].ack()
        await settles_at(8 - len(taken), lambda: _ready(broker, queue))
        left = [each for n, each in enumerate(bodies(sent)) if n not in taken]
        assert await contents(broker, queue) == left


async def test_a_look_that_fails_gives_all_back(broker: Broker, queue: str) -> None:
    """An error, or a cancellation, in the middle of a look gives all back, in order."""
    sent = messages(20)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        with pytest.raises(ZeroDivisionError):
            async with broker.browse(queue, 10) as found:
                raise ZeroDivisionError
        with pytest.raises(ConnectionLost):
            found[0].ack()
        with trio.CancelScope() as scope:
            async with broker.browse(queue, 10):
                scope.cancel()
                await trio.sleep_forever()
        await settles_at(20, lambda: _ready(broker, queue))
        assert await contents(broker, queue) == bodies(sent)


async def test_a_look_cancelled_at_any_moment_keeps_the_order(broker: Broker, queue: str) -> None:
    """However early a look is cancelled, all messages are there afterwards, in order."""
    sent = messages(50)
    with trio.fail_after(60):
        await broker.publish_many(queue, sent)
        for step in range(12):
            with trio.move_on_after(step / 1000):
                async with broker.browse(queue, 30):
                    await trio.sleep_forever()
            await settles_at(50, lambda: _ready(broker, queue))
        assert await contents(broker, queue) == bodies(sent)
