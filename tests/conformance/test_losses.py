"""The way to the broker is lost, and comes back."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Broker, ConnectionLost, Message
from tests.conformance.kit import PATIENCE, Inbox, Kit, bodies, messages, settles_at


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_unsettled_deliveries_come_again(kit: Kit, queue: str) -> None:
    """After a lost connection what was not settled is delivered again, in order and marked."""
    broker = kit.broker
    inbox, again = Inbox(), Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish_many(queue, messages(5))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=5, on_delivery=inbox.put)
            first, second, *_ = await inbox.wait(5)
            first.ack()
            await channel.flush()
            await settles_at(0, lambda: _ready(broker, queue))
            await kit.lose_connection()
            with pytest.raises(ConnectionLost):
                await channel.wait_lost()
            with pytest.raises(ConnectionLost):
                await channel.wait_interrupted()
            with pytest.raises(ConnectionLost):
                second.ack()
            await channel.flush()
        await broker.wait_connected()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=5, on_delivery=again.put)
            await settles_at(True, lambda: set(bodies(messages(5))[1:]) <= set(again.bodies))
    # The acknowledgement was written, and may have been lost with the connection.
    assert again.bodies in (bodies(messages(5))[1:], bodies(messages(5)))
    assert all(each.redelivered for each in again.deliveries)


async def test_a_publish_waits_for_the_connection(kit: Kit, queue: str) -> None:
    """A publish during an outage completes when the broker is back; a deadline bounds it."""
    with trio.fail_after(PATIENCE):
        await kit.lose_connection()
        await kit.broker.publish(queue, Message(b"during"))
        await kit.lose_connection()
        await kit.broker.publish(queue, Message(b"delayed"), delay=0.2)
        await settles_at(2, lambda: _ready(kit.broker, queue))


async def test_a_batch_survives_losses(kit: Kit, queue: str) -> None:
    """A connection lost in the middle of a batch, twice: all is confirmed, and all is there."""
    sent = messages(8000, size=100)
    done = trio.Event()

    async def publish() -> None:
        await kit.broker.publish_many(queue, sent)
        done.set()

    everything = Inbox(ack=True)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for least in (100, 300):
                await settles_at(True, lambda least=least: _has_at_least(kit.broker, queue, least))
                await kit.lose_connection()
            await done.wait()
        async with kit.broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=500, on_delivery=everything.put)
            await settles_at(set(), lambda: set(bodies(sent)) - set(everything.bodies))


async def _has_at_least(broker: Broker, queue: str, least: int) -> bool:
    try:
        return await _ready(broker, queue) >= least
    except ConnectionLost:
        return False


async def test_a_look_interrupted_by_a_loss(kit: Kit, queue: str) -> None:
    """A look whose connection is lost ends without noise; all messages are there afterwards."""
    with trio.fail_after(PATIENCE):
        await kit.broker.publish_many(queue, messages(5))
        async with kit.broker.browse(queue, 5) as found:
            await kit.lose_connection()
            with pytest.raises(ConnectionLost):
                found[0].ack()
        await kit.broker.wait_connected()
        await settles_at(5, lambda: _ready(kit.broker, queue))


async def test_losses_again_and_again(kit: Kit, queue: str) -> None:
    """However often it is lost, the connection is made anew, and everything works on it."""
    for number in range(3):
        with trio.fail_after(PATIENCE):
            await kit.lose_connection()
            await kit.broker.wait_connected()
            await kit.broker.publish(queue, Message(b"%d" % number))
    with trio.fail_after(PATIENCE):
        await settles_at(3, lambda: _ready(kit.broker, queue))
    assert kit.broker.trouble == ""
