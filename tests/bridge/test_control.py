"""Control by aiormq: errors that name things, cancellation, channels that end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing
from pamqp import commands

from roger_trio._brokers.base import (
    ConnectionLost,
    Message,
    MessageTooLarge,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from roger_trio._brokers.rabbitmq import topology
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._brokers.rabbitmq.publishing import Confirmation, PublishChannel
from tests.amqp import AmqpSession
from tests.bridge.running import configure, drained, new_queue, running, works
from tests.conformance.kit import PATIENCE, Inbox, bodies, messages


@pytest.fixture
async def broker(amqp_url: str, prefix: str) -> AsyncIterator[RabbitBroker]:
    """Run a broker with both connections."""
    async with running(configure(amqp_url), prefix=prefix) as broker:
        yield broker


@pytest.fixture
async def queue(broker: RabbitBroker, created_queues: set[str], prefix: str) -> str:
    """Return a fresh queue."""
    return await new_queue(broker, created_queues, prefix)


async def test_a_cancelled_call_leaves_its_channel_usable(broker: RabbitBroker, queue: str) -> None:
    """Control calls that are cancelled at any moment cost neither channel nor connection."""
    with trio.fail_after(PATIENCE):
        for step in range(15):
            for act in (broker.count, broker.purge):
                with trio.move_on_after(step / 5000):
                    await act(queue)
            with trio.move_on_after(step / 5000):
                async with broker.open_channel() as channel:
                    await channel.subscribe(queue, prefetch=1, on_delivery=Inbox(ack=True).put)
                    await channel.unsubscribe()
        await works(broker, queue)
    assert [link.generation for link in broker._links] == [1, 1]


async def test_who_has_listened_leaves_at_once(amqp_url: str, prefix: str) -> None:
    """The answer to the close of a channel is never missed: that took as long as a heartbeat."""
    for _ in range(60):
        with trio.fail_after(10):
            async with (
                running(configure(amqp_url), prefix=prefix) as broker,
                broker.listen("a"),
                broker.open_channel(),
            ):
                await broker.broadcast("a", b"")


async def test_opening_and_closing_thousands_of_channels(broker: RabbitBroker, queue: str) -> None:
    """Channel numbers are used again: more channels than the broker has numbers, some kept long."""
    with trio.fail_after(60):
        for _ in range(20):
            async with broker.open_channel(), trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(_open_and_close, broker, 15)
        await works(broker, queue)
    assert broker._consuming.generation == 1


async def _open_and_close(broker: RabbitBroker, times: int) -> None:
    for _ in range(times):
        async with broker.open_channel():
            pass


async def test_those_that_make_a_queue_at_once_do_not_hang(
    amqp_url: str, broker: RabbitBroker, created_queues: set[str], prefix: str
) -> None:
    """They did, behind a lock that was a queue: the broker may never answer who makes it again."""
    made: list[str] = []

    async def declare(maker: RabbitBroker, spec: QueueSpec) -> None:
        made.extend(await maker.declare([spec]))

    async with (
        running(configure(amqp_url), prefix=prefix) as second,
        running(configure(amqp_url), prefix=prefix) as third,
    ):
        for number in range(12):
            spec = QueueSpec(name=f"{prefix}made-{number}")
            created_queues.add(spec.name)
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for maker in (broker, second, third):
                        nursery.start_soon(declare, maker, spec)
            assert spec.name in made


async def test_a_queue_declared_otherwise_is_refused(
    amqp_url: str, broker: RabbitBroker, queue: str, created_queues: set[str], prefix: str
) -> None:
    """The error names the queue and both declarations; other channels live on."""
    name = f"{prefix}classic-{queue}"
    created_queues.add(name)

    def declare_otherwise() -> None:
        with AmqpSession(amqp_url) as session:
            declare = commands.Queue.Declare(queue=name, durable=True)
            session.call(declare, commands.Queue.DeclareOk)

    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(declare_otherwise)
        await broker.publish(queue, Message(b""))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            [held] = await inbox.wait(1)
            for _ in range(2):
                with pytest.raises(QueueRefused) as refused:
                    await broker.declare([QueueSpec(name=name)])
            held.ack()
            await channel.flush()
    text = str(refused.value)
    assert f"queue {name!r}" in text
    assert "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'" in text
    assert "'x-queue-type': 'quorum'" in text
    assert [link.generation for link in broker._links] == [1, 1]


async def test_errors_on_one_consumer_are_its_own(broker: RabbitBroker, queue: str) -> None:
    """A 404 ends the channel that met it, and only that one."""
    inbox = Inbox()
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b""))
        async with broker.open_channel() as good, broker.open_channel() as bad:
            await good.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            [held] = await inbox.wait(1)
            with pytest.raises(QueueMissing, match="no queue 'nowhere'"):
                await bad.subscribe("nowhere", prefetch=1, on_delivery=inbox.put)
            with pytest.raises(QueueMissing):
                await bad.wait_interrupted()
            with pytest.raises(ConnectionLost):
                await bad.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            held.ack()
            await good.flush()
    assert broker._consuming.generation == 1


async def test_a_flood_is_confirmed_each_exactly_once(broker: RabbitBroker, queue: str) -> None:
    """Under a flood, where the broker confirms many at once, each message is kept once."""
    sent = messages(3000)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for start in range(0, 3000, 100):
                nursery.start_soon(broker.publish_many, queue, sent[start : start + 100])
        got = await drained(broker, queue, set(bodies(sent)))
    assert sorted(got) == sorted(bodies(sent))


async def test_a_header_that_fits_no_frame(broker: RabbitBroker, queue: str) -> None:
    """It is refused before it is sent; the rest of its batch is kept, in order."""
    batch = messages(10)
    batch[4] = Message(b"", "id", {"long": "x" * 140_000})
    with trio.fail_after(PATIENCE):
        with pytest.raises(MessageTooLarge, match="header takes 1400"):
            await broker.publish_many(queue, batch)
        got = await drained(broker, queue, {b"9"})
    assert got == [each.body for n, each in enumerate(batch) if n != 4]
    assert broker._publishing.generation == 1


async def test_a_level_deleted_behind_our_back_is_made_again(
    amqp_url: str, broker: RabbitBroker, queue: str, prefix: str
) -> None:
    """A delayed publish that meets a missing level makes it again, and others do not suffer."""

    def delete_level() -> None:
        with AmqpSession(amqp_url) as session:
            session.delete_exchange(topology.level_name(prefix, 1))

    with trio.fail_after(60):
        await broker.publish(queue, Message(b"warm"), delay=0.2)
        await trio.to_thread.run_sync(delete_level)
        async with trio.open_nursery() as nursery:
            for each in messages(50):
                nursery.start_soon(broker.publish, queue, each)
            late = partial(broker.publish, queue, Message(b"late"), delay=0.2)
            nursery.start_soon(late)
        got = await drained(broker, queue, {b"warm", b"late", *bodies(messages(50))})
    assert got.count(b"late") == 1


async def test_a_consumer_that_raises_costs_itself_alone(broker: RabbitBroker, queue: str) -> None:
    """A bug in taking a delivery ends its channel; the message comes again, others live on."""

    def on_delivery(_: object) -> None:
        raise ValueError("a bug")

    inbox = Inbox(ack=True)
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(b"one"))
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=on_delivery)
            with pytest.raises(ConnectionLost, match="could not be handed over"):
                await channel.wait_lost()
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=inbox.put)
            await inbox.wait(1)
    assert inbox.deliveries[0].redelivered
    assert broker._consuming.generation == 1


async def test_what_a_closed_channel_left_unconfirmed_goes_out_again_in_order(
    broker: RabbitBroker, queue: str
) -> None:
    """When the broker closes the publishing channel under a batch, all of it arrives, in order."""
    sent = messages(1500)
    with trio.fail_after(60):
        publisher = await (await broker._publishing.wait_up()).publisher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.publish_many, queue, sent)
            await trio.testing.wait_all_tasks_blocked()
            # What goes to an exchange that is not there closes the channel under all others.
            with pytest.raises(QueueMissing):
                await _publish_into_nowhere(publisher)
        got = await drained(broker, queue, set(bodies(sent)))
    assert list(dict.fromkeys(got)) == bodies(sent)


async def _publish_into_nowhere(publisher: PublishChannel) -> None:
    confirmation = Confirmation(1)
    publisher.publish("nowhere", "", b"", b"", None, confirmation=confirmation, position=0)
    await confirmation.wait()
    raise confirmation.failures[0]


async def test_a_missing_queue_is_made_only_after_its_consumers_were_told(
    amqp_url: str, prefix: str, created_queues: set[str]
) -> None:
    """By who never heard of it, too: somebody else may have deleted it just now."""
    spec = QueueSpec(name=f"{prefix}anew")
    created_queues.add(spec.name)
    async with running(configure(amqp_url, queue_settle_time=0.1), prefix=prefix) as broker:
        with trio.fail_after(PATIENCE):
            began = trio.current_time()
            assert await broker.declare([spec]) == {spec.name}
            assert trio.current_time() - began >= 0.5
            began = trio.current_time()
            assert await broker.declare([spec], afresh=True) == frozenset()
            assert trio.current_time() - began < 0.4
