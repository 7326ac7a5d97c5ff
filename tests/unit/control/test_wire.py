"""What nodes, clients and coordinators say to each other, as bytes."""

from __future__ import annotations

import contextlib
import typing
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from roger_trio._control import wire
from roger_trio._state.operations import (
    Answer,
    Event,
    HeldKey,
    Keys,
    Operation,
    Pause,
    QueuePaused,
    Recorded,
    Run,
    Start,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**63 - 1)
st.register_type_strategy(str, texts)
st.register_type_strategy(int, numbers)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)
objects = st.dictionaries(texts, json_values, max_size=3)
messages: st.SearchStrategy[wire.Message] = st.one_of(
    st.builds(
        wire.Commands,
        texts,
        numbers,
        st.lists(st.from_type(Operation), max_size=4),  # type: ignore[arg-type]
    ),
    st.builds(
        wire.Answers,
        texts,
        numbers,
        st.lists(st.from_type(Answer), max_size=4),  # type: ignore[arg-type]
    ),
    st.builds(wire.EventMessage, texts, st.from_type(Event)),  # type: ignore[arg-type]
    st.builds(wire.Question, texts, numbers, objects),
    st.builds(wire.Reply, texts, texts, numbers, objects),
)


def body(**fields: Any) -> bytes:
    """Return the body of a message."""
    return orjson.dumps({"roger": 1, **fields})


def commands(*ops: Any) -> bytes:
    """Return the body of a batch of commands."""
    return body(kind="commands", inbox="i", batch=1, ops=ops)


@given(messages)
def test_what_is_written_is_read(message: wire.Message) -> None:
    """Every message comes back as it was, with any text and any numbers."""
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize(
    ("kind", "union"), [("ops", Operation), ("answers", Answer), ("event", Event)]
)
def test_every_class_is_known(kind: str, union: Any) -> None:
    """No operation, answer or event is left out."""
    tables: dict[str, Any] = {
        "ops": wire._OPERATIONS,
        "answers": wire._ANSWERS,
        "event": wire._EVENTS,
    }
    assert set(tables[kind]._unpacks) == {cls.__name__ for cls in typing.get_args(union)}


def test_the_form_of_messages() -> None:
    """They are what the module says they are."""
    start = Start("1", "q", None, "e", "n", "i")
    assert orjson.loads(wire.encode(wire.Commands("i", 7, [start]))) == {
        "roger": 1,
        "kind": "commands",
        "inbox": "i",
        "batch": 7,
        "ops": [["Start", "1", "q", None, "e", "n", "i", "", "", 0.0, False]],
    }
    keys = Keys((HeldKey("k", "queue", "1", "q", 1.5, None, 0),))
    answers: list[Answer] = [Run(), Recorded((("n", "i"),)), keys]
    assert orjson.loads(wire.encode(wire.Answers("p", 7, answers))) == {
        "roger": 1,
        "kind": "answers",
        "partition": "p",
        "batch": 7,
        "answers": [
            ["Run"],
            ["Recorded", [["n", "i"]]],
            ["Keys", [["k", "queue", "1", "q", 1.5, None, 0]], True],
        ],
    }
    assert orjson.loads(wire.encode(wire.EventMessage("p", QueuePaused(3, "q")))) == {
        "roger": 1,
        "kind": "event",
        "partition": "p",
        "event": ["QueuePaused", 3, "q", "", 0],
    }


def test_unknown_keys_are_ignored() -> None:
    """A later version may add some."""
    message = body(kind="question", inbox="i", request=1, question={}, more=[1])
    assert wire.decode(message) == wire.Question("i", 1, {})


def test_a_whole_number_is_a_time_too() -> None:
    """Other writers of JSON leave a whole number's fraction out."""
    message = body(
        kind="answers",
        partition="p",
        batch=1,
        answers=[["Keys", [["k", "queue", "1", "q", 1, None, 0]], True]],
    )
    decoded = wire.decode(message)
    assert isinstance(decoded, wire.Answers)
    (keys,) = decoded.answers
    assert isinstance(keys, Keys)
    assert type(keys.keys[0].since) is float


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\x00", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "of version None"),
        (b'{"roger":true,"kind":"event"}', "of version True"),
        (b'{"roger":2,"kind":"event"}', "of version 2"),
        (body(), "unknown kind None"),
        (body(kind="order"), "unknown kind 'order'"),
        (body(kind=["event"]), "unknown kind ['event']"),
        (body(kind="commands", inbox=1, batch=1, ops=[]), "'inbox' is 1, not text"),
        (body(kind="commands", inbox="i", batch=True, ops=[]), "'batch' is True, not a whole"),
        (body(kind="commands", inbox="i", batch=1, ops={}), "'ops' is {}, not a list"),
        (body(kind="question", inbox="i", request=1, question=[]), "'question' is [], not an obj"),
        (body(kind="event", partition="p", event=["Run"]), "unknown tag 'Run'"),
        (commands("Requeue"), "not a list that begins with a tag"),
        (commands([]), "not a list that begins with a tag"),
        (commands([1, "j"]), "not a list that begins with a tag"),
        (commands(["Explode", "j"]), "unknown tag 'Explode'"),
        (commands(["Pause", "q", "i"]), "Pause cannot have the fields ['q', 'i']"),
        (commands(["Pause", "q", "i", 1, 2]), "Pause cannot have the fields"),
        (commands(["Pause", "q", "i", True]), "Pause cannot have the fields"),
        (commands(["Pause", None, "i", 1]), "Pause cannot have the fields"),
        (
            body(kind="answers", partition="p", batch=1, answers=[["PausedQueues", ["q", 1]]]),
            "not a list of texts",
        ),
        (
            body(kind="answers", partition="p", batch=1, answers=[["Recorded", [["n"]]]]),
            "not a list of pairs",
        ),
        (
            body(kind="answers", partition="p", batch=1, answers=[["Keys", ["k"], True]]),
            "not a list: 'k'",
        ),
    ],
)
def test_what_is_foreign_is_refused(foreign: bytes, reason: str) -> None:
    """The error says what is wrong; one bad operation refuses the whole batch."""
    with pytest.raises(wire.Foreign) as caught:
        wire.decode(foreign)
    assert reason in str(caught.value)
    assert caught.value.reason == str(caught.value)


def returns_or_refuses(foreign: bytes) -> None:
    """Read some bytes: nothing but `Foreign` may be raised."""
    with contextlib.suppress(wire.Foreign):
        wire.decode(foreign)


@given(st.binary())
def test_any_bytes_are_read_or_refused(foreign: bytes) -> None:
    """Nothing else is ever raised."""
    returns_or_refuses(foreign)


@given(json_values, st.sampled_from(["commands", "answers", "event", "question", "reply"]))
def test_any_json_is_read_or_refused(value: Any, kind: str) -> None:
    """Nothing else is ever raised, whatever stands in the place of a message or a part."""
    returns_or_refuses(orjson.dumps(value))
    rest = {"inbox": "i", "batch": 1, "partition": "p", "request": 1, "node": "n"}
    for part in ("ops", "answers", "event", "question", "reply"):
        rest[part] = value
    returns_or_refuses(body(kind=kind, **rest))


@given(messages, st.data())
def test_damaged_messages_are_read_or_refused(message: wire.Message, data: st.DataObject) -> None:
    """A message with one part replaced by any JSON value, at any depth."""
    fields = orjson.loads(wire.encode(message))
    place: Any = fields
    while True:
        inner = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(inner))
        value = place[key]
        if not isinstance(value, (dict, list)) or not value or data.draw(st.booleans()):
            place[key] = data.draw(json_values)
            break
        place = value
    returns_or_refuses(orjson.dumps(fields))


def test_a_text_that_is_no_unicode_cannot_be_written() -> None:
    """It is refused where it is said, not where it is heard."""
    with pytest.raises(TypeError):
        wire.encode(wire.Commands("i", 1, [Pause("\ud800", "i", 1)]))
