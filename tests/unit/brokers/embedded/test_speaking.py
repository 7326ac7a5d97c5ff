"""What a channel of the embedded broker says and sends on: in one transaction, or not at all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from roger_trio._brokers.base import ConnectionLost, Message, PublishRefused, QueueSpec
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._brokers.embedded.engine import Engine
from roger_trio._brokers.embedded.open import open_memory_broker, open_sqlite_broker
from roger_trio._brokers.embedded.pump import _LENT_AT_ONCE
from tests.conformance.kit import Inbox, messages

SPECS = (
    QueueSpec(name="q"),
    QueueSpec(name="single", single_active=True),
    QueueSpec(name="f", forwards=True),
)
OpenBroker = Callable[..., EmbeddedBroker]


@pytest.fixture(params=["memory", "sqlite"])
def open_broker(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBroker:
    """Return what makes brokers over the same queues."""
    if request.param == "memory":
        return open_memory_broker
    return lambda prefix="": open_sqlite_broker(str(tmp_path / "roger.db"), prefix)


@pytest.fixture
async def broker(open_broker: OpenBroker) -> AsyncIterator[EmbeddedBroker]:
    """Run a broker with a queue of each kind."""
    broker = open_broker()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare(SPECS)
            yield broker
            nursery.cancel_scope.cancel()


@pytest.fixture
async def other(open_broker: OpenBroker) -> AsyncIterator[EmbeddedBroker]:
    """Run another one over the same queues."""
    other = open_broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(other.run)
        yield other
        nursery.cancel_scope.cancel()


async def take_for_dead(broker: EmbeddedBroker, by: EmbeddedBroker) -> None:
    """Have one broker take another for dead, as if its lock were gone."""
    await by._take_back(broker._presence.name)


async def test_one_taken_for_dead_is_not_heard(
    broker: EmbeddedBroker, other: EmbeddedBroker
) -> None:
    """Taken for dead and superseded, a consumer settles nothing and says nothing, and learns it."""
    old, new = Inbox(), Inbox()
    async with (
        other.listen("t") as heard,
        broker.open_channel() as first,
        other.open_channel() as second,
    ):
        await first.subscribe("single", prefetch=9, on_delivery=old.put)
        await second.subscribe("single", prefetch=9, on_delivery=new.put)
        await broker.publish_many("single", messages(3))
        await old.wait(3)
        first.say("t", b"mine")
        assert await heard.receive() == b"mine"
        await take_for_dead(broker, by=other)
        await new.wait(3)
        with suppress(ConnectionLost):  # It may have learned it already.
            first.say("t", b"still mine?")
            old.deliveries[0].ack()
        with pytest.raises(ConnectionLost, match="taken for dead"):
            await first.wait_lost()
        with pytest.raises(ConnectionLost):
            first.say("t", b"and now?")
        second.say("t", b"no, mine")
        assert await heard.receive() == b"no, mine"
    assert new.bodies == [b"0", b"1", b"2"]
    assert (await other.count("single")).messages == 3


async def test_one_taken_for_dead_borrows_nothing(
    broker: EmbeddedBroker, other: EmbeddedBroker
) -> None:
    """Taken for dead, a consumer that only claims, or only settles, learns it too."""
    claims, settles, new = Inbox(), Inbox(), Inbox()
    await broker.declare([QueueSpec(name="r")])
    async with (
        broker.open_channel() as claiming,
        broker.open_channel() as settling,
        other.open_channel() as theirs,
    ):
        await claiming.subscribe("q", prefetch=9, on_delivery=claims.put)
        await settling.subscribe("r", prefetch=1, on_delivery=settles.put)
        await broker.publish("r", Message(b"held"))
        await settles.wait(1)
        await take_for_dead(broker, by=other)
        await broker.publish("q", Message(b"x"))
        with pytest.raises(ConnectionLost, match="taken for dead"):
            await claiming.wait_lost()
        with suppress(ConnectionLost):  # It may have learned it already.
            settles.deliveries[0].ack()
        with pytest.raises(ConnectionLost, match="taken for dead"):
            await settling.wait_lost()
        for queue in ("q", "r"):
            await theirs.subscribe(queue, prefetch=9, on_delivery=new.put)
        await new.wait(2)
    assert claims.bodies == []
    assert sorted(new.bodies) == [b"held", b"x"]


async def test_said_once_though_the_database_fails(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said and settled while the database fails is heard when it does not: once."""
    inbox, failed = Inbox(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def fail(*_: object) -> None:
        token.run_sync_soon(failed.set)
        raise PublishRefused("no room")

    async with broker.listen("t") as heard, broker.open_channel() as channel:
        await channel.subscribe("q", prefetch=9, on_delivery=inbox.put)
        await broker.publish_many("q", messages(2))
        await inbox.wait(2)
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "settle", fail)
            channel.say("t", b"1")
            inbox.deliveries[0].ack()
            await failed.wait()
            channel.say("t", b"2")
        channel.say("t", b"3")
        await channel.flush()
        assert [await heard.receive() for _ in range(3)] == [b"1", b"2", b"3"]
        with pytest.raises(trio.WouldBlock):
            heard.receive_nowait()


@pytest.mark.parametrize("steps", range(12))
async def test_said_once_though_the_broker_closes(
    broker: EmbeddedBroker, open_broker: OpenBroker, steps: int
) -> None:
    """Whatever a broker is doing when it is closed: what was said before is heard once."""
    closing, said = open_broker(), trio.Event()
    async with broker.listen("t") as heard:
        async with trio.open_nursery() as nursery:
            await nursery.start(closing.run)

            async def speak() -> None:
                async with closing.open_channel() as channel:
                    for number in range(3):
                        channel.say("t", b"%d" % number)
                    said.set()
                    await trio.sleep_forever()

            nursery.start_soon(speak)
            await said.wait()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [await heard.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(trio.WouldBlock):
            heard.receive_nowait()


async def test_what_a_dropped_channel_said_last_is_void(broker: EmbeddedBroker) -> None:
    """As with a connection that is cut, what was not yet on its way is heard by nobody."""
    async with broker.listen("t") as heard, broker.open_channel() as channel:
        channel.say("t", b"lost")
        await broker.drop_connections()
        assert await broker.broadcast("t", b"the end")
        assert await heard.receive() == b"the end"


def test_sending_on_waits_for_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    """What has nowhere to go is kept and said once; it goes on when the queue is there."""

    async def main() -> None:
        broker = open_memory_broker()
        inbox, there = Inbox(), Inbox(ack=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare(SPECS)
            async with broker.open_channel() as channel, broker.open_channel() as target:
                await channel.subscribe("f", prefetch=9, on_delivery=inbox.put)
                for onward in ("later", "q", "later"):
                    await broker.publish("f", Message(onward.encode(), onward=onward))
                for each in await inbox.wait(3):
                    each.forward()
                await channel.flush()
                assert (await broker.count("q")).messages == 1
                await trio.sleep(60)
                await broker.declare([QueueSpec(name="later")])
                await target.subscribe("later", prefetch=9, on_delivery=there.put)
                await there.wait(2)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "'later'" in warnings[0]


async def test_what_has_nowhere_to_go_comes_back(broker: EmbeddedBroker) -> None:
    """With its channel's end it is in its queue again, and in its place."""
    inbox = Inbox()
    async with broker.open_channel() as channel:
        await channel.subscribe("f", prefetch=9, on_delivery=inbox.put)
        await broker.publish_many("f", [Message(b"%d" % each, onward="no") for each in range(3)])
        (await inbox.wait(3))[1].forward()
        await channel.flush()
    async with broker.browse("f", 9) as found:
        assert [each.body for each in found] == [b"0", b"1", b"2"]


async def test_a_large_prefetch_is_filled_in_pieces(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is lent at once comes all the same, in order, and no transaction is long."""
    limits: list[int] = []
    claim = Engine.claim

    def note(engine: Engine, channel: int, queue: int, limit: int) -> object:
        limits.append(limit)
        return claim(engine, channel, queue, limit)

    count = 2 * _LENT_AT_ONCE + 1
    inbox = Inbox()
    await broker.publish_many("q", messages(count))
    monkeypatch.setattr(Engine, "claim", note)
    async with broker.open_channel() as channel:
        await channel.subscribe("q", prefetch=65_535, on_delivery=inbox.put)
        await inbox.wait(count)
    assert inbox.bodies == [b"%d" % each for each in range(count)]
    assert max(limits) == _LENT_AT_ONCE


async def test_a_declaration_that_was_cancelled_is_told_by_the_next(
    broker: EmbeddedBroker,
) -> None:
    """Who is cancelled while its queue is made does not take the news with it."""
    new = QueueSpec(name="new")
    told: list[str] = []

    async def declare() -> None:
        told.extend(await broker.declare([new]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(declare)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await declare()
    assert told == ["new"]
    assert await broker.declare([new], afresh=True) == frozenset()


async def test_one_that_left_uncleanly_does_not_listen(
    broker: EmbeddedBroker, open_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is gone listens no more, although the database still says so."""
    other = open_broker()

    async def fail(*_: object) -> bool:
        return False

    async with trio.open_nursery() as nursery:
        await nursery.start(other.run)
        await nursery.start(listen, other)
        assert await broker.broadcast("t", b"x") is True
        monkeypatch.setattr(other._pump, "stop", fail)
        nursery.cancel_scope.cancel()
    assert await broker.broadcast("t", b"x") is False


async def listen(broker: EmbeddedBroker, task_status: trio.TaskStatus[None]) -> None:
    """Listen until cancelled."""
    async with broker.listen("t"):
        task_status.started()
        await trio.sleep_forever()


async def test_clusters_do_not_hear_each_other(
    broker: EmbeddedBroker, open_broker: OpenBroker
) -> None:
    """What is said in a cluster with another prefix is not heard here."""
    foreign = open_broker("other.")
    async with trio.open_nursery() as nursery:
        await nursery.start(foreign.run)
        async with (
            broker.listen("t") as heard,
            foreign.open_channel(speaks=True) as there,
            broker.open_channel(speaks=True) as here,
        ):
            assert not await foreign.broadcast("t", b"foreign")
            there.say("t", b"foreign too")
            await there.flush()
            here.say("t", b"ours")
            assert await heard.receive() == b"ours"
            assert await broker.broadcast("t", b"ours again")
            assert await heard.receive() == b"ours again"
        nursery.cancel_scope.cancel()
