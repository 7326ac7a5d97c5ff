"""The watch that finds consumers the broker has forgotten."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from roger_trio._brokers.base import BrokerError, QueueCount, QueueMissing, SubscriptionRenewed
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from roger_trio._brokers.rabbitmq.watch import INTERVAL, RENEW_AFTER, ConsumerWatch


class Counter:
    """Says what a queue holds."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.asked = 0

    async def __call__(self, queue: str) -> QueueCount:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return QueueCount(messages=self.messages, consumers=1)


def consuming(prefetch: int = 2) -> ConsumeChannel:
    """Make a channel that consumes a queue; nothing is sent on it."""
    channel = ConsumeChannel(None, 1)  # type: ignore[arg-type]
    channel.add("1", "queue", prefetch, lambda _: None)
    return channel


async def interrupted(
    channel: ConsumeChannel,
    counter: Counter,
    looks: float,
    *,
    may_idle: bool = False,
    may_be_deaf: bool = False,
    expected: type[BrokerError] = QueueMissing,
) -> bool:
    """Watch a channel for the time of so many looks; tell whether it was interrupted."""
    watch = ConsumerWatch(counter, lambda _: may_idle, lambda: may_be_deaf)
    result = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        with watch.watching(channel), trio.move_on_after(looks * INTERVAL):
            with pytest.raises(expected):
                await channel.wait_interrupted()
            result = True
        nursery.cancel_scope.cancel()
    return result


async def test_an_idle_consumer_of_a_queue_with_messages_is_interrupted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two looks that find messages and no delivery are enough."""
    assert await interrupted(consuming(), Counter(1), 4)
    assert trio.current_time() <= 3 * INTERVAL


async def test_an_idle_consumer_of_an_empty_queue_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """There is nothing it could get."""
    counter = Counter(0)
    assert not await interrupted(consuming(), counter, 10)
    assert counter.asked > 5


async def test_an_idle_consumer_that_may_be_deaf_is_renewed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After five minutes without a delivery, and not where the broker would have told it."""
    looks = 2 * RENEW_AFTER / INTERVAL
    assert not await interrupted(consuming(), Counter(0), looks)
    began = trio.current_time()
    renewed = SubscriptionRenewed
    assert await interrupted(consuming(), Counter(0), looks, may_be_deaf=True, expected=renewed)
    assert RENEW_AFTER <= trio.current_time() - began <= RENEW_AFTER + 2 * INTERVAL


async def test_a_deaf_consumer_is_not_renewed_while_it_holds_something(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nor is one that waits for its turn: to renew the coordinator would cost it its term."""
    looks = 2 * RENEW_AFTER / INTERVAL
    busy = consuming(prefetch=2)
    busy.on_loan = 1
    assert not await interrupted(busy, Counter(0), looks, may_be_deaf=True)
    assert not await interrupted(consuming(), Counter(0), looks, may_idle=True, may_be_deaf=True)


async def test_one_that_waits_for_its_turn_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of a queue with a single active consumer the others get nothing, and nothing is wrong."""
    assert not await interrupted(consuming(), Counter(1), 10, may_idle=True)


async def test_a_consumer_that_is_busy_is_not_even_asked_about(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With all it may have on loan, it gets nothing more; that is as it should be."""
    counter, channel = Counter(1), consuming(prefetch=2)
    channel.on_loan = 2
    assert not await interrupted(channel, counter, 10)
    assert counter.asked == 0


async def test_consumers_of_a_queue_that_is_made_anew_are_interrupted() -> None:
    """They belonged to the queue that is gone."""
    watch = ConsumerWatch(Counter(0), lambda _: False, lambda: False)
    channel, other = consuming(), consuming()
    other.add("1", "another", 2, lambda _: None)
    with watch.watching(channel), watch.watching(other):
        watch.queue_was_missing("queue")
        with trio.fail_after(1), pytest.raises(QueueMissing):
            await channel.wait_interrupted()
        with trio.move_on_after(0):
            await other.wait_interrupted()
            pytest.fail("the other one was interrupted too")
