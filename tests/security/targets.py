"""Readers of foreign bytes, each with what must hold whatever the bytes are.

A target takes bytes and either returns or fails an assertion; what it lets out is a bug.
``test_fuzz.py`` runs them on examples of Hypothesis's making, ``fuzz.py`` under atheris.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID

import attrs
import orjson

import roger_trio as roger
from roger_trio._brokers.base import ConnectionLost
from roger_trio._brokers.rabbitmq import frames
from roger_trio._brokers.rabbitmq.channels import Channel
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from roger_trio._brokers.rabbitmq.getting import GetChannel
from roger_trio._brokers.rabbitmq.publishing import PublishChannel
from roger_trio._control import wire as control
from roger_trio._control.roster import Card, Unreadable
from roger_trio._jobs import buried, codec, limits, wire
from roger_trio._jobs.mismatch import LONGEST_REPR, short_repr
from roger_trio._state.entries import assemble, is_obsolete, read_entry
from roger_trio._state.journal import JournalWriter, replay
from roger_trio._state.ledger import Ledger
from tests.unit.brokers.wire import make_transport

LONGEST_REASON: Final = 400


class Colour(Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Box:
    """A value within values."""

    size: int
    inner: Box | None = None


class Everything(roger.Job, name="security:everything"):
    """A job with an argument of every kind."""

    text: str = ""
    whole: int = 0
    part: float = 0.0
    flag: bool = False
    moment: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    day: date = date(2024, 1, 1)
    hour: time = time(1)
    span: timedelta = timedelta(0)
    price: Decimal = Decimal(0)
    uuid: UUID | None = None
    data: bytes = b""
    colour: Colour = Colour.RED
    mode: Literal["a", 1] | None = None
    names: list[str] = attrs.field(factory=list)
    pair: tuple[int, str] | None = None
    numbers: frozenset[int] = frozenset()
    table: Mapping[int, float] = attrs.field(factory=dict)
    box: Box | None = None
    either: int | str | list[Box] | None = None
    anything: Any = None

    async def perform(self) -> None:
        """Do nothing."""


@attrs.frozen
class Found:
    """A delivery as far as reading it goes."""

    body: bytes
    headers: Mapping[str, Any]


def job(data: bytes) -> None:
    """Read a job: an envelope that can be written and read again, or a short reason."""
    try:
        envelope = wire.load(data, partition="p", queue="q")
    except wire.NotAJob as error:
        _check_reason(error.reason)
        return
    again = wire.load(wire.dump(envelope), partition="p", queue="q")
    assert attrs.evolve(again, queued_at=envelope.queued_at) == envelope
    with contextlib.suppress(roger.UnknownJob, roger.InvalidJob):
        envelope.load()


def _check_reason(reason: str) -> None:
    """A reason is there, and short: it goes into a log line, and beside what is buried."""
    assert 0 < len(reason) <= LONGEST_REASON


def arguments(data: bytes) -> None:
    """Read arguments by their annotations: a job with the same arguments, or `InvalidJob`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    for args in ([value] if isinstance(value, dict) else []) + [
        {field.name: value} for field in attrs.fields(Everything)
    ]:
        try:
            made = codec.decode_args(Everything, args)
        except roger.InvalidJob as error:
            _check_reason(str(error))
            continue
        assert codec.decode_args(Everything, codec.encode_args(made)) == made


def size(data: bytes) -> None:
    """Tell how many values there are, where an empty list or object may count as two."""
    too_many = limits.has_too_many_values(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    number = _count(value)
    assert too_many or number <= limits.MAX_VALUES
    assert not too_many or 2 * number > limits.MAX_VALUES
    shown, whole = short_repr(value), repr(value)
    if len(whole) <= LONGEST_REPR:
        assert shown == whole
    else:  # Which quotes a text has depends on what is in it, further on too.
        assert len(shown) == LONGEST_REPR + 1


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def control_message(data: bytes) -> None:
    """Read a control message: one that can be written and read again, or a short reason."""
    try:
        message = control.decode(data)
    except control.Foreign as error:
        _check_reason(error.reason)
        return
    assert control.decode(control.encode(message)) == message
    if isinstance(message, control.Commands):
        ledger = Ledger()
        for operation in message.operations:
            ledger.handle(operation, 1e9)
    if isinstance(message, control.Reply | control.Question):
        content = message.reply if isinstance(message, control.Reply) else message.question
        with contextlib.suppress(Unreadable):
            Card.from_json(content.get("card"))


def journal(data: bytes) -> None:
    """Read written state, as it is, and with checksums that fit: what is wrong is told."""
    for text in (data, _with_checksums(data)):
        problem = replay(text, Ledger())
        assert problem is None or len(problem.where) < 2_000


def _with_checksums(data: bytes) -> bytes:
    """Make lines of bytes, so that what stands in them is looked at."""
    writer = JournalWriter()
    text = writer.header()
    total = zlib.crc32(text)
    for line in data.split(b"\n"):
        total = zlib.crc32(line, total)
        text += b"%08x %s\n" % (total, line)
    return text


def state_entries(data: bytes) -> None:
    """Read messages of state in the broker, with headers of any kind."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    some = value if isinstance(value, list) else [value]
    read = [read_entry(Found(b"x", each)) for each in some if isinstance(each, dict)]  # type: ignore[arg-type]
    entries = [each for each in read if each is not None]
    found = assemble(entries)
    assert all(isinstance(is_obsolete(each, found.version), bool) for each in entries)
    for each in entries:
        frames.content(1, b"", b"", each.message().headers, 2**17)
    assert -1 < found.highest_term + 1 < 2**63


def amqp(data: bytes) -> None:
    """Split frames: at most the connection is lost, and what waits for more is bounded."""
    transport = make_transport()
    kinds: list[Channel] = [
        ConsumeChannel(transport, 1),
        GetChannel(transport, 2),
        PublishChannel(transport, 3, 4096),
    ]
    kinds[0].add("1", "queue", 10, _look_at)  # type: ignore[attr-defined]
    for each in kinds:
        transport.attach(each.number, each)
    with contextlib.suppress(ConnectionLost):
        rest = transport._split(data)
        assert transport._wanted <= frames.NO_FRAME_MAX
        assert len(rest) <= len(data)
        assert all(each._missing <= frames.MAX_BODY for each in kinds)


def _look_at(delivery: Any) -> None:
    headers, name = delivery.headers, delivery.message_id
    assert isinstance(headers, dict)
    assert isinstance(name, str)
    read_entry(delivery)
    buried.read(delivery.body, name, headers, partition="p", queue="q")


def header_table(data: bytes) -> None:
    """Decode the properties of a message that anybody has made."""
    for flags in (b"\x20\x00", b"\xff\xfc"):
        head = frames.properties(b"\x00\x3c\x00\x00" + bytes(8) + flags + data)
        headers = head.properties.headers or {}
        assert isinstance(headers, dict)
        buried.read(b"", head.properties.message_id or "", headers, partition="p", queue="q")


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    each.__name__: each
    for each in (
        job,
        arguments,
        size,
        control_message,
        journal,
        state_entries,
        amqp,
        header_table,
    )
}
