"""Broadcasts: to everybody who listens now, kept for nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from roger_trio._brokers.base import Broker
from roger_trio._brokers.listening import MAX_UNREAD
from tests.conformance.kit import PATIENCE, Kit


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
