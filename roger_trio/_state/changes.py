"""What can change in what a partition remembers: the lines of its journal.

Replayed in order into an empty `Ledger` they rebuild it. Each says what happened, not what was
asked; what follows from it (the next waiter gets the key) follows again at each replay.
"""

from __future__ import annotations

import typing
from typing import Any

import attrs

from .tagged import Mismatch, Tagged

# Queue keys...


@attrs.frozen
class KeyTaken:
    """A job holds a queue key."""

    key: str
    job: str
    queue: str
    since: float
    nonce: str
    """Of its claim; empty: it was met without one."""
    inbox: str
    """Who will publish it; empty: it has been published."""


@attrs.frozen
class KeyConfirmed:
    """The job that holds a queue key has been published."""

    key: str


@attrs.frozen
class KeyFreed:
    """A queue key is free."""

    key: str
    at: float


@attrs.frozen
class KeyWaived:
    """A job goes on without the queue key that was freed by hand."""

    job: str
    key: str
    at: float


@attrs.frozen
class ClaimVoided:
    """Who made a claim is not there to publish its job; asked again, it is decided anew."""

    nonce: str


# Execution keys...


@attrs.frozen
class TurnTaken:
    """A job holds a free execution key."""

    key: str
    job: str
    queue: str
    since: float


@attrs.frozen
class TurnAwaited:
    """A job waits for an execution key, behind all that wait already."""

    key: str
    job: str
    queue: str
    since: float


@attrs.frozen
class TurnLeft:
    """A job holds or awaits its execution key no more; if it held it, the next one does."""

    job: str
    at: float


# Jobs...


@attrs.frozen
class Settled:
    """A claim or an attempt is decided for ever: asked again, it is answered the same."""

    nonce: str
    at: float
    note: str | None
    """The job that held the queue key; None: it was claimed, withdrawn, or has ended; empty: the
    attempt has to wait for its execution key."""


@attrs.frozen
class Started:
    """A job has been started on a node."""

    job: str
    node: str
    inbox: str
    attempt: str
    at: float


@attrs.frozen
class Stopped:
    """A job does not run where it was started last."""

    job: str


@attrs.frozen
class Requeued:
    """An attempt has ended and the job comes back: it runs no more, and leaves its turn."""

    job: str
    attempt: str
    at: float


@attrs.frozen
class JobFreed:
    """A job holds and awaits no key, and does not run."""

    job: str
    at: float


@attrs.frozen
class Ended:
    """A job is over: it holds and awaits no key, does not run, and never starts again."""

    job: str
    attempt: str
    at: float
    born: float = 0.0


@attrs.frozen
class Revived:
    """A job that was over has been enqueued again."""

    job: str


# What nodes are told...


@attrs.frozen
class CancelRemembered:
    """A job is not to be started."""

    job: str
    since: float


@attrs.frozen
class CancelConcluded:
    """A cancelled job has been met, or has ended: it is over, and its keys are free."""

    job: str
    at: float
    inbox: str
    nonce: str
    born: float = 0.0


@attrs.frozen
class CancelForgotten:
    """That a job was cancelled is not remembered any more."""

    job: str


@attrs.frozen
class Paused:
    """A queue is paused."""

    queue: str


@attrs.frozen
class Resumed:
    """A queue is not paused."""

    queue: str


@attrs.frozen
class Versioned:
    """How many changes nodes have been told so far."""

    version: int


# Nodes...


@attrs.frozen
class Joined:
    """A node runs the partition."""

    inbox: str
    node: str
    host: str


@attrs.frozen
class Left:
    """A node does not run the partition."""

    inbox: str


# All at once...


@attrs.frozen
class TombstonesExpired:
    """What has ended before a moment is not remembered any more."""

    before: float


Change = (
    KeyTaken
    | KeyConfirmed
    | KeyFreed
    | KeyWaived
    | ClaimVoided
    | TurnTaken
    | TurnAwaited
    | TurnLeft
    | Settled
    | Started
    | Stopped
    | Requeued
    | JobFreed
    | Ended
    | Revived
    | CancelRemembered
    | CancelConcluded
    | CancelForgotten
    | Paused
    | Resumed
    | Versioned
    | Joined
    | Left
    | TombstonesExpired
)

_TAGGED: Tagged[Change] = Tagged(typing.get_args(Change))


def dump(change: Change) -> list[Any]:
    """Write a change as JSON values.

    Args:
        change: The change.

    Returns:
        A list of its name and its fields: text, numbers and None.
    """
    return _TAGGED.pack(change)


def load(packed: object) -> Change:
    """Read a change.

    Args:
        packed: Any JSON value.

    Returns:
        The change.

    Raises:
        Mismatch: It is not a change; the reason says why.
    """
    return _TAGGED.unpack(packed)


__all__ = ["Change", "Mismatch", "dump", "load"]
