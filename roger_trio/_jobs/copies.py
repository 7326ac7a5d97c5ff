"""What tells one copy of a job from its other ones."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from .envelope import Envelope


class Copy(NamedTuple):
    """One round of a job: what is put back by a retry, a snooze or a replay is another one.

    Deliveries of the same copy ask for the same thing to be done: where it has been done, they
    have to be settled and no more.
    """

    job: str
    """The job's id."""
    queued_at: datetime
    """When it was enqueued: ids may be used again."""
    retry_count: int
    edition: int


class Instance(NamedTuple):
    """One message that carries a copy; where a copy moves on, another message carries it."""

    copy: Copy
    moves: int


def instance_of(envelope: Envelope) -> Instance:
    """Tell which message this is; a publish that was repeated may have made two of them."""
    return Instance(copy_of(envelope), envelope.moves)


def copy_of(envelope: Envelope) -> Copy:
    """Tell which copy of its job this is."""
    return Copy(envelope.id, envelope.queued_at, envelope.retry_count, envelope.edition)
