"""Acknowledgements that leave together mean what they would mean one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from pamqp import commands

from roger_trio._brokers.base import ConnectionLost, Delivery
from roger_trio._brokers.rabbitmq.acks import Acks
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from tests.unit.brokers import wire
from tests.unit.brokers.test_channels import NUMBER, consuming, deliver

KINDS = ["arrive", "arrive", "ack", "ack", "ack", "give back", "forward", "send"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), min_size=20, max_size=80)


class Settled:
    """What a broker does with the deliveries it has handed out."""

    def __init__(self) -> None:
        self.on_loan: set[int] = set()
        self.done: dict[int, str] = {}

    def take(self, data: bytes) -> None:
        """Carry out frames that were sent."""
        for _, frame in wire.unmarshal_all(data):
            tag = frame.delivery_tag
            assert tag in self.on_loan, "the broker would close the channel"
            multiple = isinstance(frame, commands.Basic.Ack) and frame.multiple
            for each in sorted(self.on_loan if multiple else {tag}):
                if each <= tag:
                    self.on_loan.discard(each)
                    self.done[each] = type(frame).__name__


@given(STEPS)
async def test_the_broker_settles_each_delivery_as_was_decided(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever the order of arrivals and settlements, and whenever acknowledgements leave."""
    got: list[Delivery] = []
    transport, _ = consuming(got)
    broker, decided = Settled(), dict[int, str]()
    held: list[int] = []
    for step, choice in [*steps, ("send", 0)]:
        if step == "arrive":
            tag = len(got) + 1
            deliver(transport, tag, b"body", exchange="queue")
            broker.on_loan.add(tag)
            held.append(tag)
        elif step == "send":
            transport._collect()
            broker.take(wire.written(transport))
            assert broker.done == decided
            assert broker.on_loan == set(held)
        elif held:
            tag = held.pop(choice % len(held))
            delivery = got[tag - 1]
            if step == "ack":
                delivery.ack()
            elif step == "give back":
                delivery.give_back()
            else:
                delivery.forward()
            decided[tag] = {"ack": "Ack", "give back": "Nack", "forward": "Reject"}[step]


@pytest.mark.parametrize("way", ["give_back", "forward"])
async def test_what_is_given_back_is_not_acknowledged_with_those_behind_it(way: str) -> None:
    """Their acknowledgements leave first, in one frame: that must not be for it too."""
    transport, _, got = loans()
    got[1].ack()
    got[2].ack()
    getattr(got[0], way)()
    frames = [each for _, each in wire.unmarshal_all(wire.written(transport))]
    assert [(each.delivery_tag, getattr(each, "multiple", False)) for each in frames] == [
        (2, False),
        (3, False),
        (1, False),
    ]


def test_what_was_acknowledged_in_a_row_takes_one_frame() -> None:
    """As many as there are below the first that is not settled, and those behind it one by one."""
    acks = Acks()
    for tag in range(1, 7):
        acks.arrive(tag)
    for tag in (2, 1, 3, 5, 6):
        acks.settle(tag)
        acks.add(tag)
    sent = [(each.delivery_tag, each.multiple) for _, each in wire.unmarshal_all(acks.take(9))]
    assert sent == [(3, True), (5, False), (6, False)]
    assert acks.take(9) == b""


def loans(channel_count: int = 3) -> tuple[wire.Transport, ConsumeChannel, list[Delivery]]:
    """Have deliveries on loan from a channel."""
    got: list[Delivery] = []
    transport, channel = consuming(got)
    for tag in range(1, channel_count + 1):
        deliver(transport, tag, b"body", exchange="queue")
    return transport, channel, got


async def test_an_acknowledgement_waits_for_others_of_the_same_tick() -> None:
    """It leaves when the transport sends, with all that came up by then."""
    transport, _, got = loans()
    for each in got:
        each.ack()
    assert wire.written(transport) == b""
    transport._collect()
    [(number, ack)] = wire.unmarshal_all(wire.written(transport))
    assert (number, ack.delivery_tag, ack.multiple) == (NUMBER, 3, True)


async def test_acknowledgements_keep_their_place_before_all_else_on_the_channel() -> None:
    """What is given back, asked or said after them leaves after them."""
    transport, channel, got = loans()
    got[0].ack()
    got[1].give_back()
    got[2].ack()
    channel.write(wire.frame(commands.Basic.Get(0, "q"), NUMBER))
    names = [type(each).__name__ for _, each in wire.unmarshal_all(wire.written(transport))]
    assert names == ["Ack", "Nack", "Ack", "Get"]


async def test_closing_a_channel_sends_what_was_acknowledged() -> None:
    """We close it in good order: the broker hears of all settlements first."""
    transport, channel, got = loans()
    got[0].ack()
    channel.close(ConnectionLost("closed by us"))
    [(_, ack)] = wire.unmarshal_all(wire.written(transport))
    assert ack.delivery_tag == 1


async def test_nothing_is_acknowledged_on_a_channel_that_the_broker_closed() -> None:
    """That would cost the whole connection, once the number is another channel's."""
    transport, channel, got = loans()
    got[0].ack()
    channel.end(ConnectionLost("406"))
    transport._collect()
    assert wire.written(transport) == b""
