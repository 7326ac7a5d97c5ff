"""What the conformance suite cannot see of the embedded broker."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from roger_trio._brokers.base import (
    ConnectionLost,
    ConnectionRefused,
    Delivery,
    Message,
    MessageTooLarge,
    PublishRefused,
    QueueSpec,
)
from roger_trio._brokers.embedded import broker as module
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._brokers.embedded.clock import SharedClock
from roger_trio._brokers.embedded.database import open_file
from roger_trio._brokers.embedded.engine import Engine
from roger_trio._brokers.embedded.open import open_memory_broker, open_sqlite_broker
from tests.conformance.kit import Inbox, messages, settles_at


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    """Run a broker in memory with queue ``q``."""
    broker = open_memory_broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        await broker.declare([QueueSpec(name="q", takes_delayed=True)])
        yield broker
        nursery.cancel_scope.cancel()


async def test_a_refused_file_is_one_clear_error(tmp_path: Path) -> None:
    """Running raises `ConnectionRefused` itself, naming the path, and nothing was started."""
    path = tmp_path / "no" / "roger.db"
    broker = open_sqlite_broker(str(path))
    with pytest.raises(ConnectionRefused, match=f"sqlite:{path}: No such file"):
        await broker.run()
    assert not broker.is_connected
    assert "is not open" in broker.trouble


async def test_calls_wait_for_it_to_open(tmp_path: Path) -> None:
    """What is asked before it runs is done when it does; after its end it waits for ever."""
    broker = open_sqlite_broker(str(tmp_path / "roger.db"))
    async with trio.open_nursery() as callers:
        callers.start_soon(broker.declare, [QueueSpec(name="q")])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            assert (await broker.count("q")).messages == 0
            nursery.cancel_scope.cancel()
        assert not broker.is_connected
        with trio.move_on_after(0.05) as scope:
            await broker.publish("q", Message(b""))
        assert scope.cancelled_caught


async def test_what_nobody_has_on_loan_is_taken_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A message lent to a channel that is not there is ready again once a broker starts."""
    path = tmp_path / "roger.db"

    async def start() -> AsyncGenerator[EmbeddedBroker]:
        broker = open_sqlite_broker(str(path))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(broker.run)
                yield broker
                nursery.cancel_scope.cancel()

    async with asynccontextmanager(start)() as broker:
        await broker.declare([QueueSpec(name="q")])
        await broker.publish("q", Message(b"x"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE messages SET channel = 1")
    async with asynccontextmanager(start)() as broker:

        async def ready() -> int:
            return (await broker.count("q")).messages

        await settles_at(1, ready)
    assert "unknown processes" in caplog.text


def locked(path: Path) -> closing[sqlite3.Connection]:
    """Make the file, and hold the lock on it as another process would."""
    open_file(str(path), SharedClock()).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return closing(other)


async def test_it_waits_for_a_file_that_is_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts, says what is the matter and what to do, and does all when the file is free."""
    path = tmp_path / "roger.db"
    broker = open_sqlite_broker(str(path))
    with trio.fail_after(30), locked(path) as other:
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            assert not broker.is_connected
            assert broker.trouble.startswith(f"sqlite:{path}: the database is locked by another")
            async with trio.open_nursery() as callers:
                callers.start_soon(broker.declare, [QueueSpec(name="q")])
                await wait_all_tasks_blocked(0.01)
                other.execute("COMMIT")
            assert (broker.is_connected, broker.trouble) == (True, "")
            assert (await broker.count("q")).messages == 0
            nursery.cancel_scope.cancel()
    assert caplog.text.count("waiting for it") == 1


async def test_it_stops_soon_though_it_waits_for_a_locked_file(tmp_path: Path) -> None:
    """Cancelled while it waits, it ends at once."""
    path = tmp_path / "roger.db"
    broker = open_sqlite_broker(str(path))
    with trio.fail_after(30), locked(path):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 2


async def test_a_locked_file_that_is_not_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose it is, is seen when it is free: that is said, and waited for, too."""
    path = tmp_path / "other.db"
    broker = open_sqlite_broker(str(path))
    with trio.fail_after(30), closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN EXCLUSIVE")
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            other.execute("COMMIT")
            words = f"sqlite:{path}: expected a database of roger_trio, got another program's"
            await settles_at(words, lambda: broker.trouble)
            assert not broker.is_connected
            nursery.cancel_scope.cancel()
    assert caplog.text.count("another program's") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["other.db"]  # noqa: ASYNC240 -- a moment


async def test_it_stops_soon_though_another_process_writes(tmp_path: Path) -> None:
    """While the file is locked, a broker with a consumer ends within seconds, and no node waits."""
    path = tmp_path / "roger.db"
    broker, inbox = open_sqlite_broker(str(path)), Inbox()
    with (
        trio.fail_after(30),
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare([QueueSpec(name="q")])

            async def consume() -> None:
                async with broker.open_channel() as channel:
                    await channel.subscribe("q", prefetch=1, on_delivery=inbox.put)
                    await trio.sleep_forever()

            nursery.start_soon(consume)
            await broker.publish("q", Message(b"x"))
            [delivery] = await inbox.wait(1)
            other.execute("BEGIN IMMEDIATE")
            delivery.ack()
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 4.5


def test_a_day_in_no_time() -> None:
    """In memory, on a mock clock, a delay of a day takes no time, and is exact."""
    arrived: list[float] = []

    async def main() -> None:
        broker = open_memory_broker()
        done = trio.Event()

        def take(delivery: Delivery) -> None:
            arrived.append(trio.current_time())
            delivery.ack()
            done.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare([QueueSpec(name="q", takes_delayed=True)])
            began = trio.current_time()
            await broker.publish("q", Message(b""), delay=86400.0)
            async with broker.open_channel() as channel:
                await channel.subscribe("q", prefetch=1, on_delivery=take)
                await done.wait()
            assert arrived == [began + 86400.0]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_body_too_large(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body above the limit is refused, wherever it goes."""
    monkeypatch.setattr(module, "MAX_BODY", 10)
    with pytest.raises(MessageTooLarge, match="11 bytes; at most 10"):
        await broker.publish("q", Message(b"x" * 11))
    with pytest.raises(MessageTooLarge):
        await broker.broadcast("t", b"x" * 11)
    async with broker.open_channel() as channel:
        with pytest.raises(MessageTooLarge):
            channel.say("t", b"x" * 11)


async def test_a_consumer_that_raises_loses_its_channel_alone(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in one consumer costs its channel, and its messages go to others."""
    inbox = Inbox(ack=True)

    def fail(_: Delivery) -> None:
        raise ZeroDivisionError

    async with broker.open_channel() as good, broker.open_channel() as bad:
        await bad.subscribe("q", prefetch=5, on_delivery=fail)
        await broker.publish_many("q", messages(5))
        with pytest.raises(ConnectionLost, match="'q' could not be handed over"):
            await bad.wait_lost()
        await good.subscribe("q", prefetch=5, on_delivery=inbox.put)
        await inbox.wait(5)
    assert "ZeroDivisionError" in caplog.text


async def test_settlements_survive_a_failing_database(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settled or closed while the database fails: it is done when it does not, and said once."""
    inbox = Inbox()
    await broker.publish_many("q", messages(4))

    def fail(*_: object) -> None:
        raise PublishRefused("no room")

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:

            async def consume() -> None:
                async with broker.open_channel() as channel:
                    await channel.subscribe("q", prefetch=3, on_delivery=inbox.put)
                    await inbox.wait(3)
                    patch.setattr(Engine, "settle", fail)
                    inbox.deliveries[0].ack()
                    inbox.deliveries[1].give_back()

            nursery.start_soon(consume)
            await settles_at(True, lambda: broker.trouble.endswith("no room"))
            with trio.move_on_after(0.6):
                await trio.sleep_forever()
    await settles_at("", lambda: broker.trouble)
    async with broker.browse("q", 10) as found:
        assert [each.body for each in found] == [b"1", b"2", b"3"]
    lines = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(lines) == 1


async def test_more_is_due_than_one_transaction_moves(broker: EmbeddedBroker) -> None:
    """Everything that is due is counted, though nobody consumed for long."""
    await broker.publish_many("q", [Message(b"")] * 2500, delay=0.01)
    await trio.sleep(0.02)
    assert (await broker.count("q")).messages == 2500
    assert await broker.purge("q") == 2500


async def test_a_large_queue_is_purged_in_pieces(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge takes as many transactions as it needs, and counts them all."""
    monkeypatch.setattr(module, "_PURGED_AT_ONCE", 10)
    for size in (0, 9, 10, 11, 30):
        await broker.publish_many("q", messages(size))
        assert await broker.purge("q") == size
        assert (await broker.count("q")).messages == 0
