"""The wire form of jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import example, given, strategies as st

from roger_trio._errors import InvalidJob
from roger_trio._jobs import wire
from roger_trio._jobs.envelope import Envelope
from roger_trio._jobs.limits import MAX_VALUES
from roger_trio._jobs.wire import NotAJob

NOW = datetime(2024, 12, 31, 23, 59, 59, 500000, UTC)
MINIMAL: dict[str, Any] = {"roger": 1, "id": "1", "name": "app:f", "args": {}}
OPTIONAL = (
    "queued_at",
    "retry_count",
    "deaths",
    "edition",
    "moves",
    "orphaned",
    "queue_key",
    "execution_key",
    "max_execution_time",
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
names = texts.filter(lambda text: 0 < len(text.encode()) <= 200)
counts = st.integers(0, 2**31 - 1)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)
envelopes = st.builds(
    Envelope,
    id=names,
    name=names,
    args=st.dictionaries(texts, texts | st.integers(-(2**63), 2**64 - 1)),
    partition=st.just("myapp"),
    queue=st.just("default"),
    queue_key=st.none() | names,
    execution_key=st.none() | names,
    retry_count=counts,
    queued_at=st.datetimes(timezones=st.just(UTC)),
    max_execution_time=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    redelivered=st.booleans(),
    deaths=counts,
    edition=counts,
    moves=counts,
    orphaned=st.booleans(),
)


def load(body: bytes, **options: Any) -> Envelope:
    """Load a body as if it had been met in myapp/default."""
    return wire.load(body, partition="myapp", queue="default", **options)


def load_with(**fields: Any) -> Envelope:
    """Load a small job with some fields changed."""
    return load(orjson.dumps(MINIMAL | fields))


@given(envelopes)
def test_an_envelope_comes_back_equal(envelope: Envelope) -> None:
    """Whatever is dumped is loaded to an equal envelope."""
    assert load(wire.dump(envelope), redelivered=envelope.redelivered) == envelope


@given(st.binary() | json_values.map(orjson.dumps))
@example(b"")
@example(b"\xff\xfe")
@example(b"[" * 100_000)
@example(b'{"roger": 1, "args": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_arbitrary_bytes_are_refused_with_a_reason(body: bytes) -> None:
    """No bytes make load raise anything but NotAJob."""
    with pytest.raises(NotAJob) as caught:
        load(body)

    assert caught.value.reason


@given(
    st.dictionaries(
        st.sampled_from([*MINIMAL, *OPTIONAL, "else"]),
        json_values,
    )
)
def test_almost_jobs_are_read_or_refused(fields: dict[str, Any]) -> None:
    """Fields of any JSON value give an envelope that can be written again, or NotAJob."""
    try:
        envelope = load_with(**fields)
    except NotAJob as error:
        assert error.reason  # noqa: PT017  # either outcome is right
    else:
        wire.dump(envelope)


def test_the_wire_form_is_as_documented() -> None:
    """A full envelope has exactly the documented fields; these bytes are a promise."""
    envelope = Envelope(
        id="1",
        name="app:f",
        args={"a": 1},
        partition="myapp",
        queue="default",
        queue_key="q",
        execution_key="e",
        retry_count=2,
        queued_at=NOW,
        started_at=NOW,
        max_execution_time=60.0,
        redelivered=True,
        deaths=3,
        edition=4,
        moves=5,
        orphaned=True,
    )

    assert wire.dump(envelope) == (
        b'{"roger":1,"id":"1","name":"app:f","args":{"a":1},'
        b'"queued_at":"2024-12-31T23:59:59.500000+00:00","retry_count":2,"deaths":3,"edition":4,'
        b'"moves":5,"orphaned":true,"queue_key":"q","execution_key":"e","max_execution_time":60.0}'
    )


def test_four_fields_make_a_job() -> None:
    """What another program must write is small; the rest has defaults."""
    before = datetime.now(UTC)
    envelope = load_with()

    assert before <= envelope.queued_at <= datetime.now(UTC)
    assert attrs.evolve(envelope, queued_at=NOW) == Envelope(
        id="1", name="app:f", args={}, partition="myapp", queue="default", queued_at=NOW
    )


def test_the_reader_says_what_is_not_on_the_wire() -> None:
    """Where the job was found, and when its attempt began, come from the reader."""
    envelope = load(orjson.dumps(MINIMAL), redelivered=True, started_at=NOW)

    assert (envelope.partition, envelope.queue) == ("myapp", "default")
    assert (envelope.redelivered, envelope.started_at) == (True, NOW)


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields."""
    assert load_with(shiny=[1]).args == {}


@pytest.mark.parametrize(
    "text", ["2025-01-01T00:59:59.5+01:00", "2024-12-31T23:59:59.500Z", "2024-12-31t23:59:59.5z"]
)
def test_queued_at_may_have_any_offset(text: str) -> None:
    """The time is understood with its offset and kept in UTC."""
    queued_at = load_with(queued_at=text).queued_at

    assert queued_at == NOW
    assert queued_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"roger": 2}, "roger: expected version 1 of the wire form, got version 2"),
        ({"roger": True}, "roger: expected the version of the wire form, an integer, got True"),
        ({"roger": "1"}, "roger: expected the version of the wire form, an integer, got '1'"),
        ({"id": ""}, "id: expected text of 1 to 200 bytes, got ''"),
        ({"id": "é" * 101}, "id: expected text of 1 to 200 bytes, got 'ééé"),
        ({"id": 5}, "id: expected text, got 5"),
        ({"name": None}, "name: expected text, got None"),
        ({"args": []}, "args: expected an object, got []"),
        ({"retry_count": -1}, "retry_count: expected an integer from 0 to 2147483647, got -1"),
        ({"retry_count": 2**63}, "retry_count: expected an integer from 0 to 2147483647, got 922"),
        ({"retry_count": True}, "retry_count: expected an integer from 0 to 2147483647, got True"),
        ({"deaths": 1.0}, "deaths: expected an integer from 0 to 2147483647, got 1.0"),
        ({"orphaned": 1}, "orphaned: expected true or false, got 1"),
        ({"edition": "1"}, "edition: expected an integer from 0 to 2147483647, got '1'"),
        ({"moves": None}, "moves: expected an integer from 0 to 2147483647, got None"),
        ({"queue_key": 1}, "queue_key: expected text or null, got 1"),
        ({"execution_key": []}, "execution_key: expected text or null, got []"),
        ({"queue_key": ""}, "queue_key: expected text of 1 to 1000 bytes, or null, got ''"),
        ({"execution_key": "é" * 501}, "execution_key: expected text of 1 to 1000 bytes, or null"),
        ({"max_execution_time": 0}, "max_execution_time: expected seconds above 0, or null, got 0"),
        ({"max_execution_time": True}, "max_execution_time: expected seconds above 0, or null"),
        ({"max_execution_time": "9"}, "max_execution_time: expected seconds above 0, or null"),
        ({"queued_at": 5}, "queued_at: expected a date and time with an offset (RFC 3339), got 5"),
        ({"queued_at": None}, "queued_at: expected a date and time with an offset (RFC 3339)"),
        ({"queued_at": "now"}, "queued_at: expected a date and time with an offset (RFC 3339)"),
        ({"queued_at": "2024-01-01T00:00:00"}, "queued_at: expected a date and time with an off"),
        (
            {"queued_at": "0001-01-01T00:00:00+12:00"},
            "queued_at: expected a time that exists in UTC, got '0001-01-01T00:00:00+12:00'",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], reason: str) -> None:
    """The reason names field, rule and value."""
    with pytest.raises(NotAJob) as caught:
        load_with(**fields)

    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize("key", MINIMAL)
def test_a_missing_field_is_named(key: str) -> None:
    """The four required fields are required."""
    fields = {name: value for name, value in MINIMAL.items() if name != key}

    with pytest.raises(NotAJob, match=f"^{key}: this field is missing$"):
        load(orjson.dumps(fields))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON in UTF-8: Input is a zero-length, empty document"),
        (b"\x80\x04pickle", "not JSON in UTF-8: "),
        (b'{"roger": NaN}', "not JSON in UTF-8: "),
        (b"[1]", "expected a JSON object, got [1]"),
        (b'"' + b"x" * 1000 + b'"', "expected a JSON object, got 'xxx"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, reason: str) -> None:
    """Bytes that are not a JSON object get a reason a person understands."""
    with pytest.raises(NotAJob) as caught:
        load(body)

    assert caught.value.reason.startswith(reason)
    assert len(caught.value.reason) < 300


def test_arguments_that_could_not_be_written_again_are_refused() -> None:
    """What is read must survive a retry, so nesting is bounded by what can be written."""
    nested = b"[" * 300 + b"]" * 300
    body = b'{"roger": 1, "id": "1", "name": "app:f", "args": {"a": ' + nested + b"}}"

    with pytest.raises(NotAJob, match="args: expected fewer levels of nesting"):
        load(body)


def test_many_shallow_brackets_are_no_nesting() -> None:
    """A long list of lists is not deep."""
    assert load_with(args={"a": [[]] * 1000}).args == {"a": [[]] * 1000}


def test_arguments_that_are_not_json_are_refused_by_dump() -> None:
    """What cannot be written is InvalidJob in the caller."""
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    envelope = load_with()

    with pytest.raises(InvalidJob, match=r"job app:f: cannot be written as JSON: Recursion limit"):
        wire.dump(attrs.evolve(envelope, args={"a": deep}))


def test_more_values_than_are_read_are_refused_at_both_ends() -> None:
    """Nobody can send what nobody takes; text that only looks like many values is one."""
    few: list[Any] = [0] * (MAX_VALUES - 20)
    text = "[,{" * MAX_VALUES
    assert load(wire.dump(attrs.evolve(load_with(), args={"a": few, "b": text}))).args["a"] == few
    many = [*few, *[0] * 20]
    with pytest.raises(InvalidJob, match=r"job app:f: its arguments: expected at most 1000000"):
        wire.dump(attrs.evolve(load_with(), args={"a": many}))
    with pytest.raises(NotAJob, match=r"expected at most 1000000 JSON values, got more: keep"):
        load_with(args={"a": many})
