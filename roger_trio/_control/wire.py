"""What nodes, clients and coordinators say to each other, version 1: one JSON object each.

::

    {"roger":1,"kind":"commands","inbox":"…","batch":7,"ops":[["Requeue","5f0c…",""],…]}
    {"roger":1,"kind":"answers","partition":"mail","batch":7,"answers":[["Run"],…]}
    {"roger":1,"kind":"event","partition":"mail","event":["QueuePaused",3,"default","…",9]}
    {"roger":1,"kind":"question","inbox":"…","request":9,"question":{…}}
    {"roger":1,"kind":"reply","node":"…","inbox":"…","request":9,"reply":{…}}

An operation, answer or event is a list: the name of its class, then its fields in order. Answers
are those to the batch's operations that have one, in order; null stands for one that cannot be
given now. What is not exactly of this form is refused, never guessed; unknown keys of the object
are ignored.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from .._jobs.limits import MAX_VALUES, has_too_many_values
from .._jobs.mismatch import short_repr
from .._state.operations import Answer, Event, Operation
from .._state.tagged import Mismatch, Tagged

VERSION: Final = 1


class Foreign(Exception):
    """Bytes that are no message of ours, or of another version.

    Args:
        reason: Why, in words for a person.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Commands:
    """Operations for a partition's coordinator."""

    inbox: str
    """Whom to answer."""
    batch: int
    operations: Sequence[Operation]


@attrs.frozen
class Answers:
    """A coordinator's answers to the two-way operations of one batch, in order."""

    partition: str
    batch: int
    answers: Sequence[Answer | None]
    """None: the operation could not be decided, and may be asked again."""


@attrs.frozen
class EventMessage:
    """What a coordinator tells all nodes."""

    partition: str
    event: Event


@attrs.frozen
class Question:
    """What a node or client asks nodes."""

    inbox: str
    """Whom to reply to."""
    request: int
    question: Mapping[str, Any]


@attrs.frozen
class Reply:
    """What a node says to a question."""

    node: str
    inbox: str
    """Of the node."""
    request: int
    reply: Mapping[str, Any]


Message = Commands | Answers | EventMessage | Question | Reply

_OPERATIONS: Tagged[Operation] = Tagged(typing.get_args(Operation))
_ANSWERS: Tagged[Answer] = Tagged(typing.get_args(Answer))
_EVENTS: Tagged[Event] = Tagged(typing.get_args(Event))


def encode(message: Message) -> bytes:
    """Write a message.

    Args:
        message: The message; a question or reply is made of JSON values.

    Returns:
        UTF-8 JSON.

    Raises:
        TypeError: A question or reply is not made of JSON values, or some text is no Unicode.
    """
    return orjson.dumps({"roger": VERSION, **_body(message)})


def decode(body: bytes) -> Message:
    """Read a message.

    Args:
        body: Any bytes.

    Returns:
        The message.

    Raises:
        Foreign: The bytes are no message; the reason says why. Nothing else is ever raised.
    """
    fields = _read(body)
    kind = fields.get("kind")
    read = _READ.get(kind) if type(kind) is str else None
    if read is None:
        raise Foreign(f"unknown kind {short_repr(kind)}")
    try:
        return read(fields)
    except Mismatch as error:
        raise Foreign(error.reason) from error


def _body(message: Message) -> dict[str, Any]:
    """The object of a message, without the version."""
    match message:
        case Commands(inbox, batch, operations):
            ops = list(map(_OPERATIONS.pack, operations))
            return {"kind": "commands", "inbox": inbox, "batch": batch, "ops": ops}
        case Answers(partition, batch, answers):
            packed = [None if each is None else _ANSWERS.pack(each) for each in answers]
            return {"kind": "answers", "partition": partition, "batch": batch, "answers": packed}
        case EventMessage(partition, event):
            return {"kind": "event", "partition": partition, "event": _EVENTS.pack(event)}
        case Question(inbox, request, question):
            question = dict(question)
            return {"kind": "question", "inbox": inbox, "request": request, "question": question}
        case Reply(node, inbox, request, reply):
            head = {"kind": "reply", "node": node, "inbox": inbox}
            return {**head, "request": request, "reply": dict(reply)}


def _read(body: bytes) -> dict[str, Any]:
    """The JSON object of a message of our version."""
    if has_too_many_values(body):
        raise Foreign(f"more than {MAX_VALUES} JSON values")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Foreign(f"not JSON: {error}") from error
    if type(fields) is not dict:
        raise Foreign(f"not a JSON object: {short_repr(fields)}")
    version = fields.get("roger")
    if type(version) is not int or version != VERSION:
        raise Foreign(f"of version {short_repr(version)}, not {VERSION}")
    return fields


def _commands(fields: dict[str, Any]) -> Commands:
    ops = list(map(_OPERATIONS.unpack, _field(fields, "ops", list)))
    return Commands(_field(fields, "inbox", str), _field(fields, "batch", int), ops)


def _answers(fields: dict[str, Any]) -> Answers:
    listed = _field(fields, "answers", list)
    answers = [None if each is None else _ANSWERS.unpack(each) for each in listed]
    return Answers(_field(fields, "partition", str), _field(fields, "batch", int), answers)


def _event(fields: dict[str, Any]) -> EventMessage:
    return EventMessage(
        _field(fields, "partition", str), _EVENTS.unpack(_field(fields, "event", list))
    )


def _question(fields: dict[str, Any]) -> Question:
    question = _field(fields, "question", dict)
    return Question(_field(fields, "inbox", str), _field(fields, "request", int), question)


def _reply(fields: dict[str, Any]) -> Reply:
    return Reply(
        _field(fields, "node", str),
        _field(fields, "inbox", str),
        _field(fields, "request", int),
        _field(fields, "reply", dict),
    )


def _field(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """A field of an object that has exactly a type."""
    value = fields.get(name)
    if type(value) is not kind:
        raise Foreign(f"{name!r} is {short_repr(value)}, not {_NAMES[kind]}")
    return value


_READ: Final[dict[str, Callable[[dict[str, Any]], Message]]] = {
    "commands": _commands,
    "answers": _answers,
    "event": _event,
    "question": _question,
    "reply": _reply,
}
_NAMES: Final = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
