"""Whatever bytes come from outside, readers return or refuse them: nothing else ever happens."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
import trio
from hypothesis import given, strategies as st
from pamqp import commands

from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from roger_trio._brokers.rabbitmq.transport import NotAmqp
from roger_trio._control import wire as control
from roger_trio._state import changes, operations
from roger_trio._state.entries import Entry, Version
from tests.security.targets import TARGETS
from tests.unit.brokers import wire as amqp_wire

BIG = [0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, 5e-324, -0.0, True, None]
ODD = ["", "a", "\0", "\n", "\x1b]0;x\a", "\ud7ff", "é" * 200, "9" * 5000, "1e999", "x" * 2000]
JSON = st.recursive(
    st.sampled_from([*BIG, *ODD]) | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
TAGS = [each.__name__ for each in (*operations.Operation.__args__, *changes.Change.__args__)]


def objects(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Make objects that have some of the keys of the real thing, with anything in them."""
    return st.dictionaries(st.sampled_from(keys), JSON)


def tagged() -> st.SearchStrategy[list[Any]]:
    """Make lists that begin like an operation, answer, event or change, and may be one."""
    fields = st.sampled_from(["j", "k", "", 1, 0.5, None, True, *ODD, *BIG])
    return st.builds(
        lambda tag, rest: [tag, *rest], st.sampled_from(TAGS), st.lists(fields, max_size=9)
    )


JOBS = st.builds(
    lambda base, more: {**base, **more},
    st.just({"roger": 1, "id": "1", "name": "security:everything", "args": {}}),
    objects(
        *["roger", "id", "name", "args", "queued_at", "retry_count", "deaths", "queue_key"],
        *["execution_key", "max_execution_time"],
    ),
)
MESSAGES = st.builds(
    lambda kind, more, ops: {"roger": 1, "kind": kind, "inbox": "i", "batch": 1, **ops, **more},
    st.sampled_from(["commands", "answers", "event", "question", "reply", "else"]),
    objects("inbox", "batch", "partition", "request", "question", "reply", "node", "card"),
    st.builds(
        lambda ops: {"ops": ops, "answers": ops, "event": ops[0], "question": {"card": ops}},
        st.lists(tagged(), min_size=1, max_size=4),
    ),
)
HEADERS = st.lists(
    st.builds(
        lambda kind, more: {"roger-state": kind, **more},
        st.sampled_from(["save", "append", "claim", "mark", "else", 1]),
        objects("term", "token", "number", "part", "parts"),
    )
)
LIKELY: dict[str, st.SearchStrategy[bytes]] = {
    "job": JOBS.map(orjson.dumps),
    "arguments": JSON.map(orjson.dumps),
    "size": JSON.map(orjson.dumps),
    "control_message": MESSAGES.map(orjson.dumps),
    "journal": st.lists(st.lists(tagged() | JSON).map(orjson.dumps)).map(b"\n".join),
    "state_entries": HEADERS.map(orjson.dumps),
}

_deliver = amqp_wire.frame(commands.Basic.Deliver("1", 1, False, "", "q"), 1)
_properties = commands.Basic.Properties(
    message_id="m", headers={"a": {"b": [1, 2.5, None, True, "y"]}, "roger-state": "save"}
)
_content = amqp_wire.content(1, b'{"roger":1}', _properties)
SEEDS: dict[str, list[bytes]] = {
    "job": [b'{"roger":1,"id":"1","name":"n","args":{"a":[1,{"b":"\\u00e9"}]},"retry_count":2}'],
    "arguments": [b'{"text":"a","table":{"1":2.5},"box":{"size":1,"inner":{"size":2}}}'],
    "size": [b'{"a":[1,2,"\\",["],"b":{"c":[]}}'],
    "control_message": [
        control.encode(control.Commands("i", 1, [operations.Sync("n", "i", "h")])),
        control.encode(control.Question("i", 1, {"ask": "hello", "card": {}})),
    ],
    "journal": [b'roger_trio state 1\n5d1c02f3 [["Paused","q"]]\n', b'[["Paused","q"]]'],
    "state_entries": [
        orjson.dumps([dict(Entry("save", Version(1, "t", 1), 0, 1).message().headers or {})])
    ],
    "amqp": [
        _deliver + _content,
        amqp_wire.frame(commands.Basic.GetOk(1, False, "", "q", 0), 2) + _content,
        amqp_wire.frame(commands.Basic.Return(312, "NO_ROUTE", "", "q"), 3) + _content,
        amqp_wire.frame(commands.Basic.Ack(5, True), 3),
        amqp_wire.frame(commands.Connection.Tune(0, 0, 0), 0),
        amqp_wire.frame(commands.Channel.Close(404, "NOT_FOUND", 0, 0), 1),
    ],
    "header_table": [_content[21:-20]],
}


def mutated(seed: bytes, number: int) -> bytes:
    """Change a valid text a little: bits, bytes, pieces twice, left out or cut off."""
    chance = random.Random(number)
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        place = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place] = chance.choice(b'\0\x7f\xff"[]{},:9-eE\\')
            case 2:
                data[place:place] = data[place : place + chance.randrange(20)]
            case 3:
                del data[place : place + chance.randrange(9)]
            case _:
                data[place : place + 4] = chance.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"1e99", b"NaN", b"\\ud8"]
                )
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
async def test_any_bytes(target: str, data: st.DataObject) -> None:
    """Bytes of no kind at all, and such as come near to what is read."""
    some = data.draw(st.binary(max_size=200) | LIKELY.get(target, st.nothing()))
    TARGETS[target](some)
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("target", TARGETS)
async def test_the_real_thing_with_errors(target: str) -> None:
    """What a valid message becomes by errors in it."""
    for seed in SEEDS[target]:
        TARGETS[target](seed)
        for number in range(1_500):
            TARGETS[target](mutated(seed, number))
        await trio.lowlevel.checkpoint()


@given(value=JSON, text=st.text(st.sampled_from('[{,"\\\\')))
async def test_values_are_counted_without_reading(value: Any, text: str) -> None:
    """What stands in texts is not counted, however it is escaped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roger_trio._jobs.limits.MAX_VALUES", 5)
        TARGETS["size"](orjson.dumps([text, value, {text: text}]))
        TARGETS["size"](orjson.dumps({text: value}, option=orjson.OPT_INDENT_2))


@pytest.mark.parametrize("levels", [1, 50, 5_000, 40_000])
async def test_nested_header_tables(levels: int) -> None:
    """However deep tables are nested in each other, that is survived."""
    table = b""
    for _ in range(levels):
        table = b"\x01tF" + len(table).to_bytes(4, "big") + table
    TARGETS["header_table"](len(table).to_bytes(4, "big") + table)
    lists = b""
    for _ in range(levels):
        lists = b"A" + len(lists).to_bytes(4, "big") + lists
    lists = b"\x01t" + lists
    TARGETS["header_table"](len(lists).to_bytes(4, "big") + lists)


@pytest.mark.parametrize("frame_max", [0, 131_072, 2**31, 2**32 - 1])
async def test_frames_that_announce_gigabytes(frame_max: int) -> None:
    """A body of more than a message can have, or a frame of such a size, ends the connection.

    Also where the broker has asked for frames of that size before.
    """
    head = bytearray(_content[: _content.index(b"\xce") + 1])
    head[11:19] = (2**62).to_bytes(8, "big")
    for announced in (_deliver + bytes(head), b"\x03\x00\x01\xff\xff\xff\xff" + b"x" * 9):
        transport = amqp_wire.make_transport()
        channel = ConsumeChannel(transport, 1)
        channel.add("1", "queue", 10, lambda _: None)
        transport.attach(1, channel)
        tune = amqp_wire.frame(commands.Connection.Tune(0, frame_max, 0), 0)
        with pytest.raises(NotAmqp, match="announced"):
            transport._split(tune + announced)
