"""The frames we make and read ourselves, with pamqp as the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from pamqp import commands, header

from roger_trio._brokers.base import MessageTooLarge
from roger_trio._brokers.rabbitmq import frames
from tests.unit.brokers import wire

channels = st.integers(1, 2**16 - 1)
tags = st.integers(0, 2**63 - 1)
short = st.text(st.sampled_from("abcz019-_.:"), max_size=100)
headers = st.none() | st.dictionaries(
    st.text(min_size=1, max_size=20), st.text(max_size=300) | st.integers(-(2**63), 2**63 - 1)
)


def properties(message_id: str, table: object) -> commands.Basic.Properties:
    """What a message of ours carries, in pamqp's terms."""
    return commands.Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=message_id,
        headers=table or None,  # type: ignore[arg-type]
    )


@given(channels, tags)
def test_settlements_are_pamqps(channel: int, tag: int) -> None:
    """Acks, nacks and rejects are the very bytes that pamqp makes."""
    assert frames.ack(channel, tag) == wire.frame(commands.Basic.Ack(tag), channel)
    one = commands.Basic.Nack(tag, multiple=False, requeue=True)
    assert frames.nack(channel, tag) == wire.frame(one, channel)
    dead = commands.Basic.Reject(tag, requeue=False)
    assert frames.reject(channel, tag) == wire.frame(dead, channel)


@given(channels, short, short)
def test_methods_are_pamqps(channel: int, exchange: str, key: str) -> None:
    """Publish and get are the very bytes that pamqp makes."""
    [(number, got)] = wire.unmarshal_all(frames.publish_method(channel, exchange, key))
    assert (number, got.exchange, got.routing_key) == (channel, exchange, key)
    assert (got.mandatory, got.immediate) == (True, False)
    said = frames.publish_method(channel, exchange, key, mandatory=False)
    assert said == wire.frame(commands.Basic.Publish(0, exchange, key), channel)
    [(number, got)] = wire.unmarshal_all(frames.get(channel, key))
    assert (number, got.queue, got.no_ack) == (channel, key, False)


@given(short, short, short, tags, st.booleans())
def test_what_a_delivery_came_through_is_read(
    consumer: str, exchange: str, key: str, tag: int, redelivered: bool
) -> None:
    """The exchange is found in both kinds of delivery, wherever it begins."""
    delivered = commands.Basic.Deliver(consumer, tag, redelivered, exchange, key)
    got = commands.Basic.GetOk(tag, redelivered, exchange, key, 3)
    for command in (delivered, got):
        payload = wire.frame(command, 1)[frames.frame_head.size : -1]
        assert frames.delivered_through(payload) == exchange


@given(channels, st.binary(max_size=300), short.filter(bool), headers)
def test_content_is_pamqps(
    channel: int, body: bytes, message_id: str, table: dict[str, str | int] | None
) -> None:
    """Header and body frames are the very bytes that pamqp makes, header table included."""
    made = frames.content(channel, body, message_id.encode(), table, 2**17)
    assert made == wire.content(channel, body, properties(message_id, table), 2**17)


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 50_000])
def test_bodies_are_split_by_frame_max(size: int) -> None:
    """An empty body has no frame; a longer one as many as it takes, none above the limit."""
    body = bytes(range(256)) * (size // 256 + 1)
    made = frames.content(7, body[:size], b"id", None, wire.FRAME_MAX)
    assert made == wire.content(7, body[:size], properties("id", None))
    _, *parts = [got for _, got in wire.unmarshal_all(made)]
    assert b"".join(part.value for part in parts) == body[:size]
    assert all(len(part.value) + 8 <= wire.FRAME_MAX for part in parts)


def test_no_message_id_is_an_empty_one() -> None:
    """Without an id the property is empty, and reads so."""
    [(_, head)] = wire.unmarshal_all(frames.content(1, b"", b"", None, wire.FRAME_MAX))
    assert head.properties.message_id == ""


@given(st.integers(0, 6000))
def test_a_header_that_fits_no_frame_is_refused(size: int) -> None:
    """A header frame cannot be split: it fits, or is refused before anything is written."""
    table: dict[str, str | int] = {"k": "x" * size}
    whole = wire.content(1, b"", properties("id", table), 2**17)
    if len(whole) <= wire.FRAME_MAX:
        assert frames.content(1, b"", b"id", table, wire.FRAME_MAX) == whole
    else:
        with pytest.raises(MessageTooLarge, match=f"{len(whole) - 8} bytes.* holds 4088"):
            frames.content(1, b"", b"id", table, wire.FRAME_MAX)


@given(
    *[st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)],
    *[st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)],
)
def test_tuning_takes_the_lower_limit(
    channel_max: int, frame_max: int, heartbeat: int, our_channels: int, our_frame: int
) -> None:
    """The lower of the broker's and our limit counts, where 0 is none; the rest is kept."""
    offer = wire.frame(commands.Connection.Tune(channel_max, frame_max, heartbeat), 0)
    limited = frames.limit_tune(offer, channel_max=our_channels, frame_max=our_frame)
    [(number, tune)] = wire.unmarshal_all(limited)
    unlimited = 2**40
    assert number == 0
    assert (tune.channel_max or unlimited) == min(
        channel_max or unlimited, our_channels or unlimited
    )
    assert (tune.frame_max or unlimited) == min(frame_max or unlimited, our_frame or unlimited)
    assert tune.heartbeat == heartbeat
    assert frames.tuned_frame_max(limited) == tune.frame_max


def test_a_tune_frame_of_another_size_is_left_alone() -> None:
    """A frame that is no proper tune passes untouched, for aiormq to refuse."""
    assert frames.limit_tune(b"short", channel_max=5, frame_max=4096) == b"short"
    assert frames.tuned_frame_max(b"short") == 0


@given(st.integers(1, 2**16 - 1), st.text(max_size=60))
def test_close_reasons_are_read(code: int, text: str) -> None:
    """Code and text of both kinds of close are read as pamqp wrote them."""
    for close in (commands.Connection.Close, commands.Channel.Close):
        payload = wire.frame(close(code, text, 0, 0), 0)[7:-1]
        reason = frames.close_reason(payload)
        assert (reason.code, reason.text, str(reason)) == (code, text, f"{code} {text}")


def test_a_close_without_a_reason() -> None:
    """A close that is cut short still gives something to say."""
    assert str(frames.close_reason(b"\x00\x0a\x00\x32")) == "closed by the broker"


@given(st.integers(0, 2**16 - 1), short, short, short)
def test_returns_are_read(code: int, text: str, exchange: str, key: str) -> None:
    """Reason and destination of a returned message are read as pamqp wrote them."""
    payload = wire.frame(commands.Basic.Return(code, text, exchange, key), 3)[7:-1]
    returned = frames.returned(payload)
    assert returned.destination == (exchange, key)
    assert (returned.reason.code, returned.reason.text) == (code, text)


@given(st.binary(max_size=200), st.integers(0, 2**16 - 1))
def test_properties_of_any_bytes(rest: bytes, flags: int) -> None:
    """A content header of any bytes can be asked for its properties."""
    head = header.ContentHeader(0, 5).marshal()[:12]
    assert frames.properties(head + flags.to_bytes(2, "big") + rest).properties is not None
    assert frames.properties(rest).properties is not None


def test_what_can_be_decoded_is_kept() -> None:
    """One bad property, such as a date beyond all years, does not cost those before it."""
    table = commands.Basic.Properties(headers={"kept": "yes"}, timestamp=None)
    payload = bytearray(header.ContentHeader(0, 5, table).marshal())
    payload[13] |= 1 << 6  # There is a timestamp, too.
    decoded = frames.properties(bytes(payload) + b"\x7f" + b"\xff" * 7)
    assert decoded.properties.headers == {"kept": "yes"}
    assert decoded.properties.timestamp is None
