"""What takes a RabbitMQ node of one's own: alarms, limits, restarts and crashes."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator

import attrs
import pytest
import trio

import roger_trio as roger
from roger_trio._brokers.base import (
    BrokerError,
    Message,
    MessageTooLarge,
    PublishRefused,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._brokers.rabbitmq.versions import timeout_warning
from roger_trio._config import AmqpConfig
from tests.bridge.conftest import MAX_MESSAGE
from tests.bridge.running import configure, drained, new_queue, ready, running, works
from tests.conformance.kit import PATIENCE, Inbox, bodies, messages, settles_at
from tests.promises.support import Setup, note
from tests.rabbitmq import PrivateRabbit

RESTART = 60.0
"""Seconds that a node may take to be back."""


@pytest.fixture
async def broker(node: PrivateRabbit) -> AsyncIterator[RabbitBroker]:
    """Run a broker with both connections to the node."""
    async with running(configure(node.url)) as broker:
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
        yield broker


@pytest.fixture
async def queue(broker: RabbitBroker) -> str:
    """Return a fresh queue; it ends with the node."""
    return await new_queue(broker, set())


async def test_our_limits_and_properties_are_used(node: PrivateRabbit) -> None:
    """The broker shows the limits, the virtual host and the properties that were asked for."""
    config = configure(
        node.url,
        channel_max=7,
        frame_max=8192,
        heartbeat=17,
        virtual_host="elsewhere",
        client_properties={"team": "blue", "nested": {"deep": [1, True]}},
    )
    async with running(config, consumes=False) as broker:
        columns = ("channel_max", "frame_max", "timeout", "vhost", "client_properties")
        listing = await trio.to_thread.run_sync(
            functools.partial(node.ctl, "--formatter", "json", "list_connections", *columns)
        )
        [shown] = json.loads(listing)
        queue = await new_queue(broker, set())
        body = b"x" * 50_000
        with trio.fail_after(PATIENCE):
            await broker.publish(queue, Message(body))
            assert await drained(broker, queue, {body}) == [body]
    found = {key: shown[key] for key in columns[:4]}
    assert found == {"channel_max": 7, "frame_max": 8192, "timeout": 17, "vhost": "elsewhere"}
    properties = json.dumps(shown["client_properties"])
    assert all(word in properties for word in ("blue", "deep", "roger_trio", "bridge publishing"))


async def test_channels_above_the_limit_are_refused(node: PrivateRabbit) -> None:
    """One channel too many is refused by us; the connection and the others live on."""
    async with running(configure(node.url, channel_max=4), consumes=False) as broker:
        queue = await new_queue(broker, set())
        with trio.fail_after(PATIENCE):
            await works(broker, queue)
            async with broker.open_channel(), broker.open_channel():
                with pytest.raises(QueueRefused, match=r"all 4 channels.*channel_max"):
                    async with broker.open_channel():
                        pass
                await broker.publish(queue, Message(b""))
            await works(broker, queue)
        assert broker._publishing.generation == 1


async def test_a_message_too_large_is_refused_alone(broker: RabbitBroker, queue: str) -> None:
    """The one above the limit is `MessageTooLarge`; others of its time and its batch are kept."""
    largest, too_large = Message(b"y" * MAX_MESSAGE), Message(b"x" * (MAX_MESSAGE + 1))
    batch = [*messages(20), largest, too_large, *messages(40)[20:]]
    refused = 0

    async def publish_too_large() -> None:
        nonlocal refused
        with pytest.raises(MessageTooLarge, match=f"message size {MAX_MESSAGE + 1} is larger"):
            await broker.publish(queue, too_large)
        refused += 1

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(broker.publish, queue, Message(b"other%d" % number))
            for _ in range(3):
                nursery.start_soon(publish_too_large)
            with pytest.raises(MessageTooLarge):
                await broker.publish_many(queue, batch)
        kept = {each.body for each in batch if each is not too_large}
        wanted = kept | {b"other%d" % number for number in range(100)}
        assert set(await drained(broker, queue, wanted)) == wanted
    assert refused == 3
    assert broker._publishing.generation == 1


async def test_a_job_too_large_is_invalid_and_the_next_one_is_taken(
    node: PrivateRabbit, prefix: str, partition: str
) -> None:
    """The broker's own limit; refused alone, and of many with all that came with it told."""
    large = note.job("x" * MAX_MESSAGE)
    async with roger.connect(Setup(node.url, prefix, partition, set()).config()) as client:
        with trio.fail_after(30):
            for _ in range(2):
                with pytest.raises(roger.InvalidJob, match="payload: expected one the broker"):
                    await client.enqueue(large, partition)
                await client.enqueue(note.job("small"), partition)
            with pytest.raises(roger.InvalidJob, match="payload: expected one the broker"):
                await client.enqueue_many([large, large], partition)
            await client.enqueue(note.job("last"), partition)
            found = await client.queued_jobs(partition, "default")
    assert [each.args["hub"] for each in found] == ["small", "small", "last"]


async def test_a_queue_we_may_not_write_to(node: PrivateRabbit) -> None:
    """Without the permission a publish is refused, once, and a declaration says who may not."""
    config = configure(node.url, username="reader", password="secret-word")
    async with running(configure(node.url)) as owner, running(config, consumes=False) as reader:
        queue = await new_queue(owner, set())
        with trio.fail_after(PATIENCE):
            with pytest.raises(PublishRefused, match=r"ACCESS_REFUSED.*'reader'"):
                await reader.publish(queue, Message(b""))
            with pytest.raises(QueueRefused, match="ACCESS_REFUSED") as refused:
                await reader.declare([QueueSpec(name=queue, takes_delayed=True)])
            assert (await reader.count(queue)).messages == 0
        assert "secret-word" not in str(refused.value)


async def test_a_memory_alarm_holds_publishers_alone(
    node: PrivateRabbit, broker: RabbitBroker, queue: str
) -> None:
    """During an alarm publishes wait and we can say why; consuming goes on; then all complete."""
    inbox = Inbox()
    published = trio.Event()

    async def publish() -> None:
        await broker.publish_many(queue, messages(10))
        published.set()

    async def alarm(on: bool) -> None:
        await trio.to_thread.run_sync(node.set_memory_alarm, on)

    with trio.fail_after(60):
        await broker.publish_many(queue, [Message(b"before%d" % n) for n in range(4)])
        async with broker.open_channel() as channel, trio.open_nursery() as nursery:
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            await inbox.wait(2)
            await alarm(True)
            try:
                nursery.start_soon(publish)
                await settles_at(True, lambda: "low on memory" in broker.trouble)
                for each in list(inbox.deliveries):
                    each.ack()
                assert [each.body for each in (await inbox.wait(4))[2:]] == [b"before2", b"before3"]
                assert (await broker.count(queue)).consumers == 1
                await broker.declare([QueueSpec(name=f"{queue}-more")])
                assert not published.is_set()
            finally:
                with trio.CancelScope(shield=True):
                    await alarm(False)
            for each in inbox.deliveries[2:]:
                each.ack()
            await published.wait()
            assert broker.trouble == ""
    assert [link.generation for link in broker._links] == [1, 1]


async def test_what_is_said_during_an_alarm_holds_nobody_else(
    node: PrivateRabbit, broker: RabbitBroker, queue: str
) -> None:
    """During an alarm a channel that speaks is held, and heard afterwards; others settle on."""
    inbox = Inbox()
    with trio.fail_after(60):
        await broker.publish_many(queue, messages(4))
        async with (
            broker.listen("topic") as heard,
            broker.open_channel(speaks=True) as speaking,
            broker.open_channel() as channel,
        ):
            await channel.subscribe(queue, prefetch=2, on_delivery=inbox.put)
            await inbox.wait(2)
            await trio.to_thread.run_sync(node.set_memory_alarm, True)
            try:
                speaking.say("topic", b"during")
                await settles_at("low on memory", lambda: broker._speaking.blocked)
                for each in list(inbox.deliveries):
                    each.ack()
                await inbox.wait(4)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(node.set_memory_alarm, False)
            assert await heard.receive() == b"during"
            speaking.say("topic", b"after")
            assert await heard.receive() == b"after"
            for each in inbox.deliveries[2:]:
                each.ack()
            await channel.flush()


async def test_an_alarm_does_not_hold_those_who_give_up(node: PrivateRabbit) -> None:
    """On a blocked connection control calls can be cancelled at once, as publishes can."""
    async with running(configure(node.url), consumes=False) as broker:
        queue = await new_queue(broker, set())
        await trio.to_thread.run_sync(node.set_memory_alarm, True)
        try:
            with trio.move_on_after(1):
                await broker.publish(queue, Message(b""))
            assert "low on memory" in broker.trouble
            began = trio.current_time()
            with trio.move_on_after(0.2):
                await broker.count(queue)
            with trio.move_on_after(0.2):
                async with broker.open_channel():
                    pass
            assert trio.current_time() - began < 2
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(node.set_memory_alarm, False)
        await works(broker, queue)


async def test_connections_closed_by_an_operator(
    node: PrivateRabbit, broker: RabbitBroker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All connections are closed in the middle of a batch: all is confirmed, and all is there."""
    sent = messages(6000, size=300)
    done = trio.Event()

    async def publish() -> None:
        while not done.is_set():
            await broker.publish_many(queue, sent)
            rounds.append(1)

    rounds: list[int] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await settles_at(True, lambda: _has_some(broker, queue))
            await trio.to_thread.run_sync(node.ctl, "close_all_connections", "maintenance")
            done.set()
        got = await drained(broker, queue, set(bodies(sent)))
    assert set(got) == set(bodies(sent))
    assert [link.generation for link in broker._links] == [2, 2]
    assert "maintenance" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


async def _has_some(broker: RabbitBroker, queue: str) -> bool:
    return await ready(broker, queue) > 100


@attrs.define
class Diary:
    """What was confirmed, and what failed, while a node went and came."""

    confirmed: list[bytes] = attrs.field(factory=list)

    async def publish_for_ever(self, broker: RabbitBroker, queue: str, who: int) -> None:
        """Publish one after the other, some of it delayed."""
        for number in range(1_000_000):
            body = b"%d-%d" % (who, number)
            delay = 1.0 if number % 10 == 0 else 0.0
            await broker.publish(queue, Message(body, body.decode()), delay=delay)
            self.confirmed.append(body)


@pytest.mark.parametrize("kill", [False, True])
async def test_a_node_that_restarts(
    node: PrivateRabbit, kill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped or killed, it is found again; publishes complete, and nothing confirmed is lost."""
    config = configure(node.url, queue_settle_time=1.0)
    diary = Diary()
    async with running(config) as broker:
        queue = await new_queue(broker, set())
        with trio.fail_after(PATIENCE):
            await broker.declare_delays()
            # Their time passes while the node is down.
            for number in range(50):
                await broker.publish(queue, Message(b"asleep%d" % number), delay=2.5)
        inbox = Inbox()
        with trio.fail_after(RESTART):
            async with trio.open_nursery() as nursery:
                for who in range(5):
                    nursery.start_soon(diary.publish_for_ever, broker, queue, who)
                async with broker.open_channel() as channel:
                    await channel.subscribe(queue, prefetch=10, on_delivery=inbox.put)
                    await inbox.wait(10)
                    await trio.to_thread.run_sync(functools.partial(node.restart, kill=kill))
                    with pytest.raises(BrokerError):
                        await channel.wait_lost()
                before = len(diary.confirmed)
                await settles_at(True, lambda: len(diary.confirmed) > before + 50, within=RESTART)
                nursery.cancel_scope.cancel()
        with trio.fail_after(RESTART):
            wanted = {*diary.confirmed, *(b"asleep%d" % number for number in range(50))}
            await drained(broker, queue, wanted)
            await works(broker, queue)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("kill", [False, True])
async def test_forwards_outlive_the_node(node: PrivateRabbit, kill: bool) -> None:
    """Stopped or killed in the middle of a thousand forwards, it has lost none of them."""
    sent = bodies(messages(1000))
    async with running(configure(node.url, queue_settle_time=1.0)) as broker:
        queue = await new_queue(broker, set())
        waiting = f"{queue}-waiting"
        inbox, again, everything = Inbox(), Inbox(), Inbox(ack=True)
        with trio.fail_after(RESTART):
            await broker.declare([QueueSpec(name=waiting, forwards=True)])
            await broker.publish_many(waiting, [Message(body, onward=queue) for body in sent])
            async with broker.open_channel() as channel:
                await channel.subscribe(waiting, prefetch=65_535, on_delivery=inbox.put)
                for each in list(await inbox.wait(1000)):
                    each.forward()
                await channel.flush()
                await settles_at(True, functools.partial(_has_some, broker, queue))
                await trio.to_thread.run_sync(functools.partial(node.restart, kill=kill))
                with pytest.raises(BrokerError):
                    await channel.wait_lost()
        with trio.fail_after(RESTART):
            await broker.wait_connected()
            async with broker.open_channel() as channel, broker.open_channel() as other:
                await channel.subscribe(waiting, prefetch=65_535, on_delivery=again.put)
                await other.subscribe(queue, prefetch=100, on_delivery=everything.put)
                await settles_at(set(), lambda: {*sent}.difference(everything.bodies, again.bodies))
    assert again.bodies == sorted(again.bodies, key=int)


async def _has_some(broker: RabbitBroker, queue: str) -> bool:
    return (await broker.count(queue)).messages > 0


async def test_a_broker_replaced_by_an_empty_one(node: PrivateRabbit) -> None:
    """When all queues are gone after a reconnect, what is published is declared anew."""
    config: AmqpConfig = configure(node.url, virtual_host="elsewhere")
    async with running(config, consumes=True) as broker:
        queue = await new_queue(broker, set())
        with trio.fail_after(60):
            await broker.publish(queue, Message(b""), delay=0.2)
            await trio.to_thread.run_sync(_make_vhost_anew, node)
            with pytest.raises(QueueMissing):
                await broker.count(queue)
            await broker.publish(queue, Message(b"late"), delay=0.2)
            await broker.publish(queue, Message(b"new"))
            assert set(await drained(broker, queue, {b"new", b"late"})) == {b"new", b"late"}


def _make_vhost_anew(node: PrivateRabbit) -> None:
    node.ctl("delete_vhost", "elsewhere")
    node.ctl("add_vhost", "elsewhere")
    node.ctl("set_permissions", "-p", "elsewhere", "guest", ".*", ".*", ".*")


async def test_a_node_is_told_once_what_its_version_makes_of_long_jobs(
    node: PrivateRabbit, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING where only the operator can do something about it; none to mere clients."""

    def told() -> list[str]:
        texts = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        return [text for text in texts if "consumer_timeout" in text]

    config = configure(node.url)
    async with running(config, consumes=False) as broker, broker.listen("x"):
        assert told() == []
    async with running(config) as broker:
        with trio.fail_after(PATIENCE):
            connection = await broker._consuming.wait_up()
            expected = timeout_warning(connection.server)
            await broker.declare_delays()
            queue = await new_queue(broker, set())
            connection.transport.abort("severed by a test")
            await works(broker, queue)
        assert told() == ([expected] if expected else [])
