"""What is kept beside a buried job, and how a buried job is read again."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Final

import attrs
import orjson

from . import wire
from .envelope import Envelope, JobError

ERROR_HEADER: Final = "roger-error"
"""Name of the header of a buried message that holds the error, as JSON."""

_MAX_TRACEBACK: Final = 16_000
_MAX_MESSAGE: Final = 2_000
_SHORT_MESSAGE: Final = 200
_ELSEWHERE: Final = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> str:
    """Make the id of a job: 32 hexadecimal digits, random."""
    return token_hex(16)


def error_of(exc: BaseException) -> JobError:
    """Describe an exception.

    Args:
        exc: The exception. Of a long message the beginning is kept, of a long traceback the end,
            as both travel in a message header.
    """
    text = "".join(traceback.format_exception(exc)) if exc.__traceback__ or exc.__cause__ else ""
    return JobError(
        type=_type_name(type(exc)),
        message=_printable(text_of(exc))[:_MAX_MESSAGE],
        traceback=_printable(text)[-_MAX_TRACEBACK:],
        buried_at=datetime.now(UTC),
    )


def _type_name(kind: type[BaseException]) -> str:
    """Name an exception's type as one would import it."""
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__
    package = __name__.partition(".")[0]
    public = package if module.startswith(f"{package}._") else module
    return f"{public}:{kind.__qualname__}"


def errors_of(exc: BaseException) -> tuple[JobError, JobError]:
    """Describe an exception in full, and in a form so short that any connection carries it."""
    error = error_of(exc)
    message, kind = error.message[:_SHORT_MESSAGE], error.type[:_SHORT_MESSAGE]
    return error, attrs.evolve(error, type=kind, message=message, traceback="")


def text_of(exc: BaseException) -> str:
    """Say what an exception says; its own ``__str__`` may fail like all code of a user."""
    try:
        return str(exc)
    except Exception as trouble:  # noqa: BLE001 -- a user's code may raise anything
        return f"<its text cannot be had: {type(trouble).__name__}>"


def _printable(text: str) -> str:
    """Replace what UTF-8 cannot carry: an exception's text may hold anything."""
    return text.encode(errors="backslashreplace").decode()


def dump_error(error: JobError) -> str:
    """Write an error for the header."""
    return orjson.dumps(error.as_json()).decode()


def headers_of(error: JobError) -> dict[str, str | int]:
    """Make the headers of a buried message."""
    return {ERROR_HEADER: dump_error(error)}


def load_error(headers: Mapping[str, object]) -> JobError:
    """Read the error from a buried message's headers.

    A message that was not buried by roger_trio (the broker's own delivery limit, an operator) has
    none, or another; then the error says so.
    """
    try:
        fields: Any = orjson.loads(str(headers[ERROR_HEADER]))
        return JobError(
            type=str(fields["type"]),
            message=str(fields["message"]),
            traceback=str(fields["traceback"]),
            buried_at=datetime.fromisoformat(fields["buried_at"]),
        )
    except (KeyError, TypeError, ValueError):
        reason = headers.get("x-first-death-reason")
        text = f"the broker moved it here: {reason}" if reason else "no error was kept with it"
        return JobError(type="", message=text, traceback="", buried_at=_ELSEWHERE)


def foreign(job_id: str, *, partition: str, queue: str) -> Envelope:
    """Make the envelope that stands for a payload that is not a job.

    Args:
        job_id: The message's id; a new one is made where it has none.
        partition: Where the payload was found.
        queue: Where the payload was found.
    """
    return Envelope(
        id=job_id or new_id(),
        name="",
        args={},
        partition=partition,
        queue=queue,
        queued_at=datetime.now(UTC),
    )


def read(
    body: bytes,
    message_id: str,
    headers: Mapping[str, object],
    *,
    partition: str,
    queue: str,
) -> Envelope:
    """Read a buried message, whatever it is: a job, or a payload that never was one."""
    try:
        envelope = wire.load(body, partition=partition, queue=queue)
    except wire.NotAJob:
        envelope = foreign(message_id, partition=partition, queue=queue)
    return attrs.evolve(envelope, error=load_error(headers))
