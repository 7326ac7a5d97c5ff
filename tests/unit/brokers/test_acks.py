"""Acknowledgements that leave together mean what they would mean one by one."""

from __future__ import annotations

from hypothesis import given, strategies as st
from pamqp import commands

from roger_trio._brokers.base import ConnectionLost, Delivery
from roger_trio._brokers.rabbitmq.acks import Acks
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from tests.unit.brokers import wire
from tests.unit.brokers.test_channels import NUMBER, consuming, deliver

KINDS = ["arrive", "arrive", "ack", "ack", "ack", "nack", "take"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), min_size=20, max_size=80)


def acked_by(data: bytes, on_loan: set[int]) -> set[int]:
    """Tell what a broker takes for acknowledged, of what it has handed out."""
    found: set[int] = set()
    for _, ack in wire.unmarshal_all(data):
        assert isinstance(ack, commands.Basic.Ack)
        assert ack.delivery_tag in on_loan - found, "the broker would close the channel"
        tags = {tag for tag in on_loan if tag < ack.delivery_tag} if ack.multiple else set[int]()
        found |= tags | {ack.delivery_tag}
    return found


@given(STEPS)
def test_the_broker_takes_as_settled_just_what_was_acknowledged(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever the order of arrivals and settlements, no other delivery is acknowledged."""
    acks, last = Acks(), 0
    on_loan: set[int] = set()  # To the broker.
    held: list[int] = []  # Not settled by us.
    decided: set[int] = set()
    for step, choice in [*steps, ("take", 0)]:
        if step == "arrive":
            last += 1
            acks.arrive(last)
            on_loan.add(last)
            held.append(last)
        elif step == "take":
            found = acked_by(acks.take(NUMBER), on_loan)
            assert found == decided
            on_loan -= found
            decided = set()
        elif held:
            tag = held.pop(choice % len(held))
            acks.settle(tag)
            if step == "ack":
                acks.add(tag)
                decided.add(tag)
            else:  # Its frame is sent at once, before those of the acknowledgements.
                on_loan.discard(tag)


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
        deliver(transport, tag, b"body")
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
