"""The wire form of a job, version 1: one JSON object, the body of a broker message.

::

    {"roger": 1, "id": "5f0c…", "name": "app:send_mail", "args": {"to": "ada@example.com"},
     "queued_at": "2024-12-31T23:59:59.5+00:00", "retry_count": 0, "deaths": 0, "edition": 0,
     "moves": 0, "queue_key": null, "execution_key": null, "max_execution_time": 60}

The first four are required, the others have the values above as defaults (``queued_at``: the time
of reading; ``max_execution_time``: null). Unknown keys are ignored, so that later versions may add
some. Partition and queue are not part of it: they are where the message is.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from .._errors import InvalidJob
from .containers import MAX_DEPTH
from .envelope import Envelope
from .limits import MAX_VALUES, has_too_many_values
from .mismatch import short_repr

VERSION: Final = 1
MAX_TEXT_BYTES: Final = 200
MAX_KEY_BYTES: Final = 1000
MAX_COUNT: Final = 2**31 - 1
_FEW_VALUES: Final = (
    f"at most {MAX_VALUES} JSON values, got more: keep large data elsewhere, and send where it is"
)


class NotAJob(Exception):
    """A message body is not a job.

    Args:
        reason: Why, in words for a person.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def dump(envelope: Envelope) -> bytes:
    """Write a job as the body of a message.

    Args:
        envelope: The job; its arguments are JSON values, as `encode_args` makes them.

    Returns:
        UTF-8 JSON. Fields at their default are left out.

    Raises:
        InvalidJob: The arguments nest too deeply, are too many values, or are not JSON values.
    """
    body: dict[str, Any] = {
        "roger": VERSION,
        "id": envelope.id,
        "name": envelope.name,
        "args": envelope.args,
        "queued_at": envelope.queued_at,
    }
    if envelope.retry_count:
        body["retry_count"] = envelope.retry_count
    if envelope.deaths:
        body["deaths"] = envelope.deaths
    if envelope.edition:
        body["edition"] = envelope.edition
    if envelope.moves or envelope.orphaned:
        body |= _passage(envelope)
    if envelope.queue_key is not None:
        body["queue_key"] = envelope.queue_key
    if envelope.execution_key is not None:
        body["execution_key"] = envelope.execution_key
    if envelope.max_execution_time is not None:
        body["max_execution_time"] = envelope.max_execution_time
    try:
        written = orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidJob(f"job {envelope.name}: cannot be written as JSON: {error}") from error
    if has_too_many_values(written):
        raise InvalidJob(f"job {envelope.name}: its arguments: expected {_FEW_VALUES}")
    return written


def load(
    body: bytes,
    *,
    partition: str,
    queue: str,
    redelivered: bool = False,
    started_at: datetime | None = None,
) -> Envelope:
    """Read a job from the body of a message.

    Args:
        body: Any bytes.
        partition: The partition the message was found in.
        queue: The queue it was found in.
        redelivered: Whether the broker says it has handed it out before.
        started_at: When its attempt began; aware, UTC. Default: it has not.

    Returns:
        The job with its bookkeeping. Its name need not be registered here, and its arguments are
        not yet compared with annotations: see `Envelope.load`.

    Raises:
        NotAJob: The bytes are not a job; the reason says why. Nothing else is ever raised.
    """
    fields = _read(body)
    return Envelope(
        id=_name(fields, "id"),
        name=_name(fields, "name"),
        args=_args(fields),
        partition=partition,
        queue=queue,
        queue_key=_key(fields, "queue_key") if "queue_key" in fields else None,
        execution_key=_key(fields, "execution_key") if "execution_key" in fields else None,
        retry_count=_count(fields, "retry_count") if "retry_count" in fields else 0,
        queued_at=_time(fields["queued_at"]) if "queued_at" in fields else datetime.now(UTC),
        max_execution_time=_seconds(fields.get("max_execution_time")),
        started_at=started_at,
        redelivered=redelivered,
        deaths=_count(fields, "deaths") if "deaths" in fields else 0,
        edition=_count(fields, "edition") if "edition" in fields else 0,
        moves=_count(fields, "moves") if "moves" in fields else 0,
        orphaned=_flag(fields, "orphaned"),
    )


def _passage(envelope: Envelope) -> dict[str, Any]:
    """Tell how a job came into the broker queue that it is in."""
    moves = {"moves": envelope.moves}
    return {**moves, "orphaned": True} if envelope.orphaned else moves


def _read(body: bytes) -> dict[str, Any]:
    """Read the JSON object of a version we know."""
    if has_too_many_values(body):
        raise NotAJob(f"expected {_FEW_VALUES}")
    try:
        fields: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotAJob(f"not JSON in UTF-8: {error}") from error
    if type(fields) is not dict:
        raise NotAJob(f"expected a JSON object, got {short_repr(fields)}")
    version = _required(fields, "roger")
    if type(version) is not int:
        raise _wrong("roger", "the version of the wire form, an integer", version)
    if version != VERSION:
        raise NotAJob(f"roger: expected version {VERSION} of the wire form, got version {version}")
    _check_depth(body, fields)
    return fields


def _wrong(key: str, rule: str, value: object) -> NotAJob:
    return NotAJob(f"{key}: expected {rule}, got {short_repr(value)}")


def _required(fields: dict[str, Any], key: str) -> Any:
    try:
        return fields[key]
    except KeyError:
        raise NotAJob(f"{key}: this field is missing") from None


def _check_depth(body: bytes, fields: dict[str, Any]) -> None:
    """Refuse what could be read but, for a retry, not be written again."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return  # cannot nest deeper than it has brackets: the usual case, without a walk
    try:
        orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise NotAJob(f"args: expected fewer levels of nesting: {error}") from error


def _args(fields: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = _required(fields, "args")
    if type(value) is not dict:
        raise _wrong("args", "an object", value)
    return value


def _name(fields: dict[str, Any], key: str) -> str:
    value = _required(fields, key)
    if type(value) is not str:
        raise _wrong(key, "text", value)
    size = len(value) if value.isascii() else len(value.encode())
    if not 0 < size <= MAX_TEXT_BYTES:
        raise _wrong(key, f"text of 1 to {MAX_TEXT_BYTES} bytes", value)
    return value


def _key(fields: dict[str, Any], key: str) -> str | None:
    value = fields[key]
    if value is None:
        return None
    if type(value) is not str:
        raise _wrong(key, "text or null", value)
    # A coordinator remembers it.
    size = len(value) if value.isascii() else len(value.encode())
    if not 0 < size <= MAX_KEY_BYTES:
        raise _wrong(key, f"text of 1 to {MAX_KEY_BYTES} bytes, or null", value)
    return value


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _count(fields: dict[str, Any], key: str) -> int:
    value = fields[key]
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise _wrong(key, f"an integer from 0 to {MAX_COUNT}", value)
    return value


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value.upper())  # Python knows no lower-case z
    except (AttributeError, ValueError):
        raise _wrong("queued_at", "a date and time with an offset (RFC 3339)", value) from None
    if time.tzinfo is UTC:
        return time
    try:
        if time.utcoffset() is None:
            raise _wrong("queued_at", "a date and time with an offset (RFC 3339)", value)
        return time.astimezone(UTC)
    except OverflowError:
        raise _wrong("queued_at", "a time that exists in UTC", value) from None


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise _wrong("max_execution_time", "seconds above 0, or null", value)
    return float(value)
