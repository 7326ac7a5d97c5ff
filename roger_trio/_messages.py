"""From a job to a message and back: what is decided and checked before anything is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import attrs

from ._brokers.base import Delivery, Message
from ._config import MAX_DELAY, check_partition_name, check_queue_name
from ._errors import InvalidJob
from ._jobs import buried, wire
from ._jobs.codec import encode_args
from ._jobs.envelope import Envelope
from ._jobs.job import Job
from ._jobs.mismatch import short_repr
from ._topology import QueueNames

MAX_KEY_BYTES: Final = wire.MAX_KEY_BYTES
"""Bytes of the longest key."""


def checked_names(prefix: str, partition: str, queue: str) -> QueueNames:
    """Name the broker queues of a queue.

    Raises:
        ConfigError: The name of the partition or queue breaks a rule.
    """
    if isinstance(partition, str) and isinstance(queue, str):
        return _names_of(prefix, partition, queue)
    return QueueNames.of(prefix, check_partition_name(partition), check_queue_name(queue))


@lru_cache(maxsize=4096)
def _names_of(prefix: str, partition: str, queue: str) -> QueueNames:
    return QueueNames.of(prefix, check_partition_name(partition), check_queue_name(queue))


def make_envelope(
    job: Job,
    partition: str,
    queue: str | None,
    id: str | None,
) -> Envelope:
    """Make the envelope of a job that is to be enqueued.

    Raises:
        InvalidJob: The job, one of its arguments, its keys or its id breaks a rule.
    """
    if not isinstance(job, Job):
        raise InvalidJob(
            f"job: expected a job, such as ResizeImage('cat.png') or send_mail.job('ada@…'), "
            f"got {job!r}"
        )
    options = job.options
    return Envelope(
        id=buried.new_id() if id is None else checked_id(id),
        name=options.name,
        args=encode_args(job),
        partition=partition,
        queue=job.queue_type() if queue is None else queue,
        queue_key=_key_of(job, "queue_key"),
        execution_key=_key_of(job, "execution_key"),
        queued_at=datetime.now(UTC),
        max_execution_time=options.max_execution_time,
    )


def checked_id(id: str) -> str:
    """Return the id of a job.

    Raises:
        InvalidJob: It breaks a rule.
    """
    if not isinstance(id, str) or not _fits(id, wire.MAX_TEXT_BYTES):
        raise InvalidJob(f"id: expected text of 1 to {wire.MAX_TEXT_BYTES} bytes, got {id!r}")
    return id


def _key_of(job: Job, rule: str) -> str | None:
    """Ask a job for one of its keys, and check it."""
    name = job.options.name
    try:
        key: object = getattr(job, rule)()
    except Exception as exc:
        raise InvalidJob(
            f"job {name}: {rule}: expected a key or None, "
            f"got {type(exc).__name__}: {buried.text_of(exc)}"
        ) from exc
    if key is None:
        return None
    if isinstance(key, str) and is_key(key):
        return key
    raise InvalidJob(
        f"job {name}: {rule}: expected None or text of 1 to {MAX_KEY_BYTES} bytes in UTF-8, "
        f"got {short_repr(key)}"
    )


def is_key(key: str) -> bool:
    """Tell whether a text can be a key."""
    return _fits(key, MAX_KEY_BYTES)


def _fits(text: str, most_bytes: int) -> bool:
    """Tell whether a text has from 1 to that many bytes in UTF-8."""
    try:
        return 0 < len(text.encode()) <= most_bytes
    except UnicodeEncodeError:  # Half a character.
        return False


def seconds_to_wait(delay: float | None, at: datetime | None) -> float:
    """Decide how many seconds a job waits.

    Raises:
        InvalidJob: The delay or time breaks a rule, or both are given.
    """
    if at is not None:
        if delay is not None:
            raise InvalidJob("at: expected no `at` beside `delay`: give one of them")
        if not isinstance(at, datetime) or at.utcoffset() is None:
            raise InvalidJob(f"at: expected an aware datetime, got {at!r}")
        seconds = (at - datetime.now(UTC)).total_seconds()
        if seconds > MAX_DELAY:
            raise InvalidJob(f"at: expected a time within {MAX_DELAY:g} s from now, got {at}")
        return max(0.0, seconds)
    if delay is None:
        return 0.0
    if (
        isinstance(delay, bool)
        or not isinstance(delay, int | float)
        or not 0 <= delay <= MAX_DELAY  # also not a number, and infinite
    ):
        raise InvalidJob(f"delay: expected seconds from 0 to {MAX_DELAY}, got {delay!r}")
    return float(delay)


def read(delivery: Delivery, partition: str, queue: str) -> Envelope:
    """Read what waits in a queue, a job or not."""
    try:
        return wire.load(delivery.body, partition=partition, queue=queue)
    except wire.NotAJob:
        return buried.foreign(delivery.message_id, partition=partition, queue=queue)


def read_buried(delivery: Delivery, partition: str, queue: str) -> Envelope:
    """Read what is buried, a job or not, with its error."""
    return buried.read(
        delivery.body, delivery.message_id, delivery.headers, partition=partition, queue=queue
    )


def fresh(delivery: Delivery, partition: str, queue: str) -> tuple[Envelope | None, Message]:
    """Make the message that starts a buried job over; a payload that is no job stays as it is."""
    try:
        envelope = wire.load(delivery.body, partition=partition, queue=queue)
    except wire.NotAJob:
        return None, Message(delivery.body, delivery.message_id)
    edition = envelope.edition + 1
    anew = attrs.evolve(envelope, retry_count=0, deaths=0, edition=edition, moves=0, orphaned=False)
    return anew, Message(wire.dump(anew), anew.id)


def has_key(envelope: Envelope) -> bool:
    """Tell whether a job has a key, of whichever kind."""
    return envelope.queue_key is not None or envelope.execution_key is not None
