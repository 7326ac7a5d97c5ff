"""From a job to a message and back: what is decided and checked before anything is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import attrs

from ._brokers.base import Delivery, Message
from ._config import MAX_DELAY, check_partition_name, check_queue_name
from ._errors import InvalidJob
from ._jobs import buried, wire
from ._jobs.codec import encode_args
from ._jobs.envelope import Envelope
from ._jobs.job import Job
from ._topology import QueueNames


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
        InvalidJob: The job, one of its arguments or its id breaks a rule.
    """
    if not isinstance(job, Job):
        raise InvalidJob(
            f"job: expected a job, such as ResizeImage('cat.png') or send_mail.job('ada@…'), "
            f"got {job!r}"
        )
    options = job.options
    _refuse_keys(job)
    return Envelope(
        id=buried.new_id() if id is None else _checked_id(id),
        name=options.name,
        args=encode_args(job),
        partition=partition,
        queue=job.queue_type() if queue is None else queue,
        queued_at=datetime.now(UTC),
        max_execution_time=options.max_execution_time,
    )


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not 0 < len(id.encode(errors="replace")) <= wire.MAX_TEXT_BYTES:
        raise InvalidJob(f"id: expected text of 1 to {wire.MAX_TEXT_BYTES} bytes, got {id!r}")
    return id


def _refuse_keys(job: Job) -> None:
    """Keys are promises, and this version cannot keep them."""
    for rule, key in (("queue_key", job.queue_key()), ("execution_key", job.execution_key())):
        if key is not None:
            raise InvalidJob(
                f"job {job.options.name}: {rule}: expected None, as this version of roger_trio "
                f"does not keep keys yet, got {key!r}"
            )


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


def fresh(delivery: Delivery, partition: str, queue: str) -> Message:
    """Make the message that starts a buried job over; a payload that is no job stays as it is."""
    try:
        envelope = wire.load(delivery.body, partition=partition, queue=queue)
    except wire.NotAJob:
        return Message(delivery.body, delivery.message_id)
    return Message(wire.dump(attrs.evolve(envelope, retry_count=0, deaths=0)), envelope.id)
