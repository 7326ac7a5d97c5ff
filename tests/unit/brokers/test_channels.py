"""What rides on data channels, fed with frames made by pamqp."""

from __future__ import annotations

import logging

import attrs
import pytest
import trio
from hypothesis import given, strategies as st
from pamqp import commands

from roger_trio._brokers.base import (
    BrokerError,
    ConnectionLost,
    Delivery,
    MessageTooLarge,
    PublishRefused,
    QueueMissing,
)
from roger_trio._brokers.rabbitmq.channels import Channel
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from roger_trio._brokers.rabbitmq.publishing import Confirmation, PublishChannel
from roger_trio._brokers.rabbitmq.transport import Transport
from tests.unit.brokers import wire

NUMBER = 5


@attrs.frozen
class Sent:
    """One message: where to, and what."""

    key: str = "queue"
    body: bytes = b""
    message_id: str = ""
    exchange: str = ""


def publishing(*messages: Sent) -> tuple[Transport, PublishChannel, Confirmation]:
    """Publish messages as one batch on a channel whose broker is the test."""
    transport = wire.make_transport()
    channel = PublishChannel(transport, NUMBER, wire.FRAME_MAX)
    transport.attach(NUMBER, channel)
    confirmation = Confirmation(len(messages))
    for position, each in enumerate(messages):
        channel.publish(
            each.exchange,
            each.key,
            each.body,
            each.message_id.encode(),
            None,
            confirmation=confirmation,
            position=position,
        )
    return transport, channel, confirmation


def receive(transport: Transport, *commands_: object) -> None:
    """Let methods arrive on the channel."""
    transport._split(b"".join(wire.frame(each, NUMBER) for each in commands_))


def come_back(transport: Transport, message: Sent) -> None:
    """Let the broker return a message as unroutable."""
    method = commands.Basic.Return(312, "NO_ROUTE", message.exchange, message.key)
    properties = commands.Basic.Properties(message_id=message.message_id)
    transport._split(wire.frame(method, NUMBER) + wire.content(NUMBER, message.body, properties))


def kinds(confirmation: Confirmation) -> dict[int, type[BrokerError]]:
    """Return position → kind of failure."""
    return {position: type(error) for position, error in confirmation.failures.items()}


def is_done(confirmation: Confirmation) -> bool:
    """Tell whether every message of the batch has the broker's word."""
    return confirmation._done.is_set()


@given(st.data())
async def test_confirms_of_any_shape_settle_each_message_once(data: st.DataObject) -> None:
    """Single and multiple acks and nacks, in any order and even twice, settle each exactly once."""
    count = data.draw(st.integers(1, 30))
    transport, _, confirmation = publishing(*[Sent()] * count)
    open_tags, refused = set(range(1, count + 1)), set[int]()
    while open_tags:
        assert not is_done(confirmation)
        tag = data.draw(st.integers(1, count))
        multiple, is_nack = data.draw(st.booleans()), data.draw(st.booleans())
        kind = commands.Basic.Nack if is_nack else commands.Basic.Ack
        receive(transport, kind(tag, multiple))
        settled = {each for each in open_tags if each == tag or (multiple and each < tag)}
        refused |= settled if is_nack else set()
        open_tags -= settled
    assert is_done(confirmation)
    assert kinds(confirmation) == {tag - 1: PublishRefused for tag in refused}


async def test_a_returned_message_is_told_from_others_without_an_id() -> None:
    """Of messages that have no id, the one that came back is the one that counts as missing."""
    gone = Sent(key="gone", body=b"same")
    transport, _, confirmation = publishing(
        Sent(key="kept", body=b"same"), Sent(key="gone", body=b"other"), gone
    )
    come_back(transport, gone)
    receive(transport, commands.Basic.Ack(3, multiple=True))
    assert kinds(confirmation) == {2: QueueMissing}
    assert "NO_ROUTE: queue 'gone'" in str(confirmation.failures[2])


async def test_twins_that_come_back_are_each_noted() -> None:
    """Two messages that are alike in all come back as two."""
    twin = Sent(key="gone", body=b"x" * 9000, message_id="1")
    transport, _, confirmation = publishing(twin, twin)
    come_back(transport, twin)
    come_back(transport, twin)
    receive(transport, commands.Basic.Ack(2, multiple=True))
    assert kinds(confirmation) == {0: QueueMissing, 1: QueueMissing}


async def test_the_largest_message_is_the_one_too_large() -> None:
    """Only the message at fault is refused, however small numbers look like parts of large ones."""
    transport, channel, confirmation = publishing(
        Sent(body=b"1"), Sent(body=b"x" * 1700), Sent(body=b"x" * 17)
    )
    text = "PRECONDITION_FAILED - message size 1700 is larger than configured max size 1600"
    receive(transport, commands.Channel.Close(406, text, 60, 40))
    assert kinds(confirmation) == {0: ConnectionLost, 1: MessageTooLarge, 2: ConnectionLost}
    with pytest.raises(ConnectionLost):
        await channel.wait_lost()


async def test_a_missing_exchange_is_the_fault_of_those_who_use_it() -> None:
    """When the broker knows an exchange no more, messages to others go out again."""
    transport, _, confirmation = publishing(Sent(), Sent(exchange="levels"), Sent())
    receive(transport, commands.Channel.Close(404, "NOT_FOUND - no exchange 'levels'", 60, 40))
    assert kinds(confirmation) == {0: ConnectionLost, 1: QueueMissing, 2: ConnectionLost}


async def test_no_permission_is_a_refusal() -> None:
    """A message that we may not write is refused, not sent again for ever."""
    transport, _, confirmation = publishing(Sent(), Sent(exchange="levels"))
    text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused"
    receive(transport, commands.Channel.Close(403, text, 60, 40))
    assert kinds(confirmation) == {0: PublishRefused, 1: ConnectionLost}


async def test_an_unknown_reason_is_a_refusal() -> None:
    """A channel closed for a reason we do not know is not filled again for ever."""
    transport, _, confirmation = publishing(Sent())
    receive(transport, commands.Channel.Close(406, "PRECONDITION_FAILED - something", 60, 40))
    assert kinds(confirmation) == {0: PublishRefused}


async def test_publishers_wait_for_room_in_the_window() -> None:
    """Above the window publishers wait; a confirm lets them go on, and so does the end."""
    transport, channel, _ = publishing(*[Sent()] * PublishChannel.WINDOW)
    wire.written(transport)
    with trio.move_on_after(0) as scope:
        await channel.wait_room()
    assert scope.cancelled_caught
    for command in (commands.Basic.Ack(7), commands.Channel.Close(406, "any", 60, 40)):
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.wait_room)
                await trio.testing.wait_all_tasks_blocked()
                receive(transport, command)


def consuming(deliveries: list[Delivery]) -> tuple[Transport, ConsumeChannel]:
    """Make a channel with one subscription, whose broker is the test."""
    transport = wire.make_transport()
    channel = ConsumeChannel(transport, NUMBER)
    transport.attach(NUMBER, channel)
    channel.add("1", "queue", 10, deliveries.append)
    return transport, channel


def deliver(
    transport: Transport, tag: int, body: bytes, consumer: str = "1", exchange: str = ""
) -> None:
    """Let one delivery arrive."""
    method = commands.Basic.Deliver(consumer, tag, False, exchange, "q")
    properties = commands.Basic.Properties(message_id=f"id{tag}", headers={"h": tag})
    transport._split(wire.frame(method, NUMBER) + wire.content(NUMBER, body, properties))


@given(st.lists(st.sampled_from([b"", b"small", b"x" * 4088, b"y" * 4089, b"z" * 20_000])))
async def test_deliveries_are_put_together(bodies: list[bytes]) -> None:
    """Bodies that are empty, of one frame or of many arrive whole, each with what is its own."""
    got: list[Delivery] = []
    transport, _ = consuming(got)
    for tag, body in enumerate(bodies, 1):
        deliver(transport, tag, body)
    assert [each.body for each in got] == bodies
    assert [each.message_id for each in got] == [f"id{tag}" for tag in range(1, len(bodies) + 1)]
    assert [each.headers for each in got] == [{"h": tag} for tag in range(1, len(bodies) + 1)]


async def test_forwarding_rejects() -> None:
    """What came through the exchange of its queue is dead-lettered, even without its body."""
    got: list[Delivery] = []
    transport, channel = consuming(got)
    deliver(transport, 7, b"body", exchange="queue")
    got[0].drop_body()
    got[0].forward()
    [(number, reject)] = wire.unmarshal_all(wire.written(transport))
    assert isinstance(reject, commands.Basic.Reject)
    assert (number, reject.delivery_tag, reject.requeue) == (NUMBER, 7, False)
    assert (got[0].body, got[0].message_id, channel.on_loan) == (b"", "id7", 0)


@pytest.mark.parametrize("exchange", ["", "levels"])
async def test_what_names_no_way_on_is_not_rejected(exchange: str) -> None:
    """A message that did not come through its queue's exchange would be dropped: it is kept."""
    got: list[Delivery] = []
    transport, channel = consuming(got)
    deliver(transport, 7, b"body", exchange=exchange)
    with pytest.raises(PublishRefused, match="'queue' cannot be forwarded"):
        got[0].forward()
    assert wire.written(transport) == b""
    assert channel.on_loan == 1
    got[0].ack()


async def test_a_delivery_of_an_ended_subscription_goes_back() -> None:
    """What arrives for a consumer that is no more is given back, and nobody sees it."""
    got: list[Delivery] = []
    transport, channel = consuming(got)
    channel.forget("1")
    deliver(transport, 4, b"late")
    [(_, nack)] = wire.unmarshal_all(wire.written(transport))
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (4, False, True)
    assert got == []


async def test_a_closing_channel_swallows_and_sends_nothing() -> None:
    """From the moment we close a channel nothing is handed over, settled or given back on it."""
    got: list[Delivery] = []
    transport, channel = consuming(got)
    deliver(transport, 1, b"before")
    channel.close(ConnectionLost("closed by us"))
    deliver(transport, 2, b"after")
    with pytest.raises(ConnectionLost):
        got[0].ack()
    assert [each.body for each in got] == [b"before"]
    assert wire.written(transport) == b""
    assert wire.left_to_aiormq(transport) == b""


async def test_what_comes_after_the_broker_closed_a_channel_is_swallowed() -> None:
    """RabbitMQ delivers on until it is answered; who uses the number next is not disturbed."""
    got: list[Delivery] = []
    transport, _ = consuming(got)
    close = commands.Channel.Close(406, "PRECONDITION_FAILED - timed out", 0, 0)
    receive(transport, close)
    deliver(transport, 1, b"late")
    assert got == []
    assert wire.written(transport) == b""
    opened, next_get = commands.Channel.OpenOk(), commands.Basic.GetOk(1, False, "", "q", 0)
    receive(transport, opened, next_get)
    told = [each for _, each in wire.unmarshal_all(wire.left_to_aiormq(transport))]
    assert [type(each) for each in told] == [type(close), type(opened), type(next_get)]


async def test_a_consumer_that_raises_loses_its_channel_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug in taking a delivery is logged and ends that channel, not the connection."""
    transport = wire.make_transport()
    channel = ConsumeChannel(transport, NUMBER)
    transport.attach(NUMBER, channel)

    def on_delivery(_: Delivery) -> None:
        raise ValueError("a bug")

    channel.add("1", "queue", 10, on_delivery)
    with caplog.at_level(logging.ERROR):
        deliver(transport, 1, b"")
    assert "a bug" in caplog.text
    assert transport.lost is None
    with pytest.raises(ConnectionLost, match="could not be handed over"):
        await channel.wait_lost()


@pytest.mark.parametrize("kind", [ConsumeChannel, Channel])
async def test_a_channel_ends_once(kind: type[Channel]) -> None:
    """The first reason for the end stays the reason."""
    channel = kind(wire.make_transport(), NUMBER)
    channel.end(QueueMissing("first"))
    channel.connection_lost(ConnectionLost("second"))
    with pytest.raises(QueueMissing, match="first"):
        await channel.wait_interrupted()
    with pytest.raises(ConnectionLost, match="first"):
        await channel.wait_lost()
