"""Looks at more than the channels of a connection can hold."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from roger_trio._brokers.base import TooManyMessages
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._tree.burial import BuriedLimit
from tests.bridge.running import configure, new_queue, ready, running
from tests.conformance.kit import PATIENCE, Inbox, bodies, messages, settles_at

ROOM = 5 * 32
"""What half of ten channels hold."""


@pytest.fixture
async def broker(amqp_url: str, prefix: str) -> AsyncIterator[RabbitBroker]:
    """Run a broker that may use ten channels on a connection."""
    async with running(configure(amqp_url, channel_max=10), prefix=prefix) as broker:
        yield broker


@pytest.fixture
async def queue(broker: RabbitBroker, created_queues: set[str], prefix: str) -> str:
    """Return a fresh queue."""
    return await new_queue(broker, created_queues, prefix)


async def look(broker: RabbitBroker, queue: str, limit: int) -> list[bytes]:
    """Return the bodies of the oldest messages."""
    async with broker.browse(queue, limit) as found:
        return [each.body for each in found]


async def test_a_look_that_is_too_large_spoils_no_other(broker: RabbitBroker, queue: str) -> None:
    """It is refused before it takes anything: what was taken, later looks would have to take."""
    sent = messages(500)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        for _ in range(2):
            with pytest.raises(TooManyMessages, match=r"500 messages .* but 160 can"):
                await look(broker, queue, 1000)
            assert await look(broker, queue, 1) == bodies(sent)[:1]


async def test_the_largest_look_changes_no_order(broker: RabbitBroker, queue: str) -> None:
    """What it gives back is taken by the looks after it, so that its order stays."""
    sent = messages(ROOM + 90)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        for limit in (ROOM, 1, 33, ROOM):
            assert await look(broker, queue, limit) == bodies(sent)[:limit]


async def test_looks_do_not_grow_much(broker: RabbitBroker, queue: str) -> None:
    """A look has to take what the one before gave back; it takes one more, not a page more."""
    sent = messages(300)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        for _ in range(20):
            assert await look(broker, queue, 3) == bodies(sent)[:3]
            assert await look(broker, queue, 0) == []
        await settles_at(len(sent), lambda: ready(broker, queue))
        async with broker.open_channel() as channel:
            inbox = Inbox()
            await channel.subscribe(queue, prefetch=300, on_delivery=inbox.put)
            await inbox.wait(300)
    assert [each.redelivered for each in inbox.deliveries].count(True) <= 3 + 20
    assert inbox.bodies == bodies(sent)


async def test_a_look_loses_the_order_rather_than_fail(broker: RabbitBroker, queue: str) -> None:
    """Where those before it had more room, the next one makes do with what there is."""
    sent = messages(ROOM * 2)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        assert await look(broker, queue, ROOM) == bodies(sent)[:ROOM]
        async with broker.browse(queue, ROOM - 40), broker.browse(queue, 1) as found:
            assert len(found) == 1
        await settles_at(len(sent), lambda: ready(broker, queue))
        assert await look(broker, queue, 1)


async def test_any_excess_of_buried_jobs_is_dropped(broker: RabbitBroker, queue: str) -> None:
    """Also one that is larger than what can be held at a time: page by page."""
    sent = messages(ROOM * 2 + 10)
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, sent)
        await BuriedLimit(broker, queue, 10).enforce()
        assert await look(broker, queue, 11) == bodies(sent)[-10:]
