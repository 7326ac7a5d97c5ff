"""What a ledger decides: what to answer, keep, tell and do."""

from __future__ import annotations

import attrs

from .changes import Change
from .operations import Answer, Event


@attrs.frozen
class Forward:
    """Send a waiting job on to its queue, if its delivery is here; otherwise nothing."""

    job: str


@attrs.frozen
class Drop:
    """Settle a waiting job's delivery, if it is here: the job is over; otherwise nothing."""

    job: str


Move = Forward | Drop


@attrs.frozen
class Decision:
    """What follows from one operation. The ledger has changed already."""

    answer: Answer | None = None
    """To the sender, once the changes are saved; None: to a one-way operation, or see `purge`."""
    changes: tuple[Change, ...] = ()
    """To be saved before anything else is done about it."""
    events: tuple[Event, ...] = ()
    """To be told to all nodes, in order."""
    moves: tuple[Move, ...] = ()
    """What to do about the deliveries of waiting jobs."""
    purge: str | None = None
    """The queue to purge now, between two operations; then the answer is `Purged`."""
