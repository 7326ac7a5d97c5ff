"""A job with its bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from .codec import decode_args
from .job import Job
from .registry import registry


@attrs.frozen(kw_only=True)
class JobError:
    """Why a job was buried: what is kept beside it."""

    type: str
    """The exception's type, such as ``ValueError`` or ``app.errors:NoSuchUser``."""
    message: str
    """The exception's text, or the reason given."""
    traceback: str
    """The formatted traceback; empty if there is none."""
    buried_at: datetime
    """When the job was buried; aware, UTC."""

    def as_json(self) -> dict[str, Any]:
        """Return the error as JSON values, the time as RFC 3339 text."""
        return {
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "buried_at": self.buried_at.isoformat(),
        }


@attrs.frozen(kw_only=True, repr=False)
class Envelope:
    """A job with its bookkeeping: what clients and callbacks see.

    Arguments may hold private data, so ``repr`` does not show them and envelopes can be logged;
    `as_json` does.
    """

    id: str
    """The job's id: text of 1 to 200 bytes, the same through all its retries."""
    name: str
    """The job's name in the registry."""
    args: Mapping[str, Any] = attrs.field(hash=False)
    """Argument name to JSON value. Not to be changed."""
    partition: str
    """The partition's name."""
    queue: str
    """The queue's name within the partition."""
    queue_key: str | None = None
    """At most one queued or running job holds this key; None: no key."""
    execution_key: str | None = None
    """No two jobs with this key run at once; None: no key."""
    retry_count: int = 0
    """How many attempts have failed so far."""
    queued_at: datetime
    """When the job was enqueued; aware, UTC."""
    started_at: datetime | None = None
    """When this attempt began; aware, UTC. None: it has not."""
    max_execution_time: float | None = None
    """Seconds one attempt may take; None: no limit."""
    redelivered: bool = False
    """Whether the broker has handed out this copy before, to a worker that did not settle it."""
    deaths: int = 0
    """How often this job came back unsettled, perhaps because it killed its process."""
    edition: int = 0
    """How often it was put back to be started anew: by a retry, a snooze or a replay."""
    moves: int = 0
    """How often it has gone from one broker queue to another since then, unsettled."""
    orphaned: bool = False
    """Whether, at its last move, it went on somewhere without its delivery: who starts it asks."""
    error: JobError | None = None
    """Why the job was buried; None for a job that is not."""

    def load(self) -> Job:
        """Make the job this envelope describes.

        Returns:
            The job, ready to be performed or enqueued.

        Raises:
            UnknownJob: No job of this name is registered in this process.
            InvalidJob: The arguments do not fit the job's annotations.
            ConfigError: An annotation of the job has no JSON form.
        """
        return decode_args(registry.get(self.name), self.args)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values, arguments included, times as RFC 3339 text."""
        started, error = self.started_at, self.error
        return {
            "id": self.id,
            "name": self.name,
            "args": dict(self.args),
            "partition": self.partition,
            "queue": self.queue,
            "queue_key": self.queue_key,
            "execution_key": self.execution_key,
            "retry_count": self.retry_count,
            "queued_at": self.queued_at.isoformat(),
            "started_at": None if started is None else started.isoformat(),
            "max_execution_time": self.max_execution_time,
            "redelivered": self.redelivered,
            "deaths": self.deaths,
            "edition": self.edition,
            "moves": self.moves,
            "orphaned": self.orphaned,
            "error": None if error is None else error.as_json(),
        }

    def __repr__(self) -> str:
        return (
            f"<Envelope {self.name} {self.id} in {self.partition}/{self.queue}, "
            f"retry {self.retry_count}>"
        )
