"""Delayed messages: never early, at most a second late, none in the way of another."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import (
    Broker,
    Delivery,
    Message,
    PublishRefused,
    QueueSpec,
)
from tests.conformance.kit import PATIENCE, Kit, messages

LATEST = 1.0
"""Seconds a delayed message may be late."""


class Clock:
    """Takes deliveries and notes when each came."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[bytes, float]] = []
        self._arrived = trio.Event()

    def put(self, delivery: Delivery) -> None:
        self.arrivals.append((delivery.body, trio.current_time()))
        delivery.ack()
        self._arrived.set()

    async def wait(self, count: int) -> list[tuple[bytes, float]]:
        with trio.fail_after(PATIENCE):
            while len(self.arrivals) < count:
                self._arrived = trio.Event()
                await self._arrived.wait()
        return self.arrivals


async def test_never_early_and_a_second_late_at_most(broker: Broker, queue: str) -> None:
    """Delays of mixed lengths, longest first, each come in their own time: nothing is blocked."""
    delays = [3.0, 0.01, 2.0, 1.3, 0.125, 1.0, 0.9, 0.5]
    clock = Clock()
    due: dict[bytes, float] = {}
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=20, on_delivery=clock.put)
            for delay in delays:
                body = b"%f" % delay
                due[body] = trio.current_time() + delay
                await broker.publish(queue, Message(body), delay=delay)
            arrivals = await clock.wait(len(delays))
    assert {body for body, _ in arrivals} == due.keys()
    assert {
        body: at - due[body] for body, at in arrivals if not 0 <= at - due[body] <= LATEST
    } == {}


async def test_an_undelayed_message_overtakes(broker: Broker, queue: str) -> None:
    """A message without delay does not wait behind delayed ones."""
    clock = Clock()
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"later"), delay=0.5)
        await broker.publish(queue, Message(b"now"))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=5, on_delivery=clock.put)
            arrivals = await clock.wait(2)
    assert [body for body, _ in arrivals] == [b"now", b"later"]


async def test_a_delayed_batch_keeps_its_order(broker: Broker, queue: str) -> None:
    """Messages of one delay arrive in the order they were published in."""
    clock = Clock()
    sent = messages(200)
    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=50, on_delivery=clock.put)
            await broker.publish_many(queue, sent, delay=0.4)
            arrivals = await clock.wait(200)
    assert [body for body, _ in arrivals] == [each.body for each in sent]


async def test_a_delayed_message_keeps_what_is_beside_it(broker: Broker, queue: str) -> None:
    """Headers, id and body pass through a delay unchanged, and it is no redelivery."""
    got: list[Delivery] = []
    arrived = trio.Event()

    def put(delivery: Delivery) -> None:
        got.append(delivery)
        arrived.set()

    with trio.fail_after(PATIENCE):
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=5, on_delivery=put)
            await broker.publish(queue, Message(b"body", "id", {"kept": "yes"}), delay=0.3)
            await arrived.wait()
            [delivery] = got
    assert (delivery.body, delivery.message_id, delivery.queue) == (b"body", "id", queue)
    assert delivery.headers["kept"] == "yes"
    assert not delivery.redelivered


async def test_a_long_delay_is_taken(broker: Broker, queue: str) -> None:
    """A delay of years is confirmed, and the message is not in the queue meanwhile."""
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"far"), delay=8 * 365 * 86400.0)
        assert (await broker.count(queue)).messages == 0


async def test_a_delay_that_cannot_be_kept_is_refused(kit: Kit, queue: str) -> None:
    """A delay too long, or into a queue that takes none, is refused before anything is sent."""
    plain = kit.new_name()
    with trio.fail_after(PATIENCE):
        await kit.broker.declare([QueueSpec(name=plain)])
        with pytest.raises(PublishRefused, match="delay"):
            await kit.broker.publish(queue, Message(b""), delay=1e12)
        with pytest.raises(PublishRefused, match="delayed"):
            await kit.broker.publish(plain, Message(b""), delay=1.0)
