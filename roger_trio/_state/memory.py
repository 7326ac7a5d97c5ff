"""All that a partition remembers, and how each change changes it. Nothing is decided here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from . import changes as c
from .cancellations import Cancellations
from .changes import Change, Mismatch
from .queue_keys import QueueKeys
from .recent import Recent
from .turns import Turns

TOMBSTONES: Final = 10_000
"""Ended jobs that are kept in mind, so that their copies are recognised."""
TOMBSTONE_AGE: Final = 600.0
"""Seconds for which they are."""


@attrs.frozen
class Running:
    """Where and when a job was started last."""

    node: str
    inbox: str
    attempt: str
    at: float


@attrs.frozen
class Member:
    """A node that runs the partition."""

    node: str
    host: str


@attrs.define(slots=False)
class Memory:
    """All that a partition remembers."""

    queue_keys: QueueKeys = attrs.field(factory=QueueKeys)
    turns: Turns = attrs.field(factory=Turns)
    running: dict[str, Running] = attrs.field(factory=dict)
    """Of jobs with keys only."""
    cancellations: Cancellations = attrs.field(factory=Cancellations)
    paused: set[str] = attrs.field(factory=set)
    members: dict[str, Member] = attrs.field(factory=dict)
    """By inbox."""
    version: int = 0
    """Counts the changes that are told to nodes: of cancellations and pauses."""
    ended: Recent = attrs.field(factory=lambda: Recent(TOMBSTONES))
    """Jobs that are over."""
    settled: Recent = attrs.field(factory=lambda: Recent(2 * TOMBSTONES))
    """Claims and attempts that are decided for ever, with the note of `Settled`."""
    waived: Recent = attrs.field(factory=lambda: Recent(TOMBSTONES))
    """Jobs whose queue key was freed by hand: they go on without it, however long they queue."""

    def is_over(self, job: str, born: float = 0.0) -> bool:
        """Whether a job never starts again.

        Args:
            job: Its id.
            born: When it was enqueued, where that is known: ids may be used again.
        """
        found = self.ended.get(job) or self.cancellations.concluded.get(job)
        if found is None or not born:
            return found is not None
        return found.born == born if found.born else born <= found.at

    def holds_any(self, job: str) -> bool:
        """Whether a job holds or awaits a key, or runs."""
        return (
            bool(self.queue_keys.of(job))
            or self.turns.key_of(job) is not None
            or job in self.running
        )

    def apply(self, change: Change) -> None:
        """Make a change.

        Args:
            change: One that was decided, now or earlier.

        Raises:
            Mismatch: It does not follow from what was before, such as a key that is freed but not
                held: some change between is missing, or this one has been made already.
        """
        try:
            _APPLY[type(change)](self, change)
        except KeyError as error:
            raise Mismatch(f"does not follow from what was before: {change}") from error

    def snapshot(self) -> Iterator[Change]:
        """Yield the changes that rebuild it from an empty one."""
        yield from (c.Joined(inbox, it.node, it.host) for inbox, it in self.members.items())
        yield from (c.Paused(queue) for queue in sorted(self.paused))
        yield from self.cancellations.snapshot()
        yield from (c.Ended(job, "", noted.at, noted.born) for job, noted in self.ended)
        yield from self.queue_keys.snapshot()
        yield from self.turns.snapshot()
        for job, running in self.running.items():
            yield c.Started(job, running.node, running.inbox, running.attempt, running.at)
        yield from (c.Settled(nonce, noted.at, noted.note) for nonce, noted in self.settled)
        yield from (c.KeyWaived(job, noted.note or "", noted.at) for job, noted in self.waived)
        yield c.Versioned(self.version)


# What follows from each change...


def _take_key(memory: Memory, change: c.KeyTaken) -> None:
    memory.queue_keys.take(change)
    memory.waived.discard(change.job)


def _free_key(memory: Memory, key: str, at: float) -> None:
    for nonce in memory.queue_keys.free(key):
        memory.settled.add(nonce, at)


def _free_job(memory: Memory, job: str, at: float) -> None:
    for key in memory.queue_keys.of(job):
        _free_key(memory, key, at)
    memory.turns.leave(job, at)
    memory.running.pop(job, None)


def _settle(memory: Memory, change: c.Settled) -> None:
    memory.queue_keys.withdraw(change.nonce)
    memory.settled.add(change.nonce, change.at, change.note)


def _settle_attempt(memory: Memory, attempt: str, at: float) -> None:
    if attempt:
        memory.settled.add(attempt, at)


def _start(memory: Memory, change: c.Started) -> None:
    former = memory.running.get(change.job)
    if former is not None and former.attempt != change.attempt:
        _settle_attempt(memory, former.attempt, change.at)
    node, inbox = sys.intern(change.node), sys.intern(change.inbox)
    memory.running[change.job] = Running(node, inbox, change.attempt, change.at)


def _requeue(memory: Memory, change: c.Requeued) -> None:
    memory.running.pop(change.job, None)
    memory.turns.leave(change.job, change.at)
    _settle_attempt(memory, change.attempt, change.at)


def _end(memory: Memory, change: c.Ended) -> None:
    _free_job(memory, change.job, change.at)
    _settle_attempt(memory, change.attempt, change.at)
    memory.waived.discard(change.job)
    memory.ended.add(change.job, change.at, born=change.born)


def _remember(memory: Memory, change: c.CancelRemembered) -> None:
    memory.cancellations.remember(change)
    memory.version += 1


def _conclude(memory: Memory, change: c.CancelConcluded) -> None:
    memory.version += change.job not in memory.cancellations
    _free_job(memory, change.job, change.at)
    memory.waived.discard(change.job)
    memory.cancellations.conclude(change)


def _forget(memory: Memory, change: c.CancelForgotten) -> None:
    memory.version += change.job in memory.cancellations
    memory.cancellations.forget(change.job)


def _pause(memory: Memory, change: c.Paused) -> None:
    memory.version += change.queue not in memory.paused
    memory.paused.add(change.queue)


def _resume(memory: Memory, change: c.Resumed) -> None:
    memory.version += change.queue in memory.paused
    memory.paused.discard(change.queue)


def _set_version(memory: Memory, change: c.Versioned) -> None:
    memory.version = change.version


def _join(memory: Memory, change: c.Joined) -> None:
    memory.members[change.inbox] = Member(change.node, change.host)


def _expire(memory: Memory, change: c.TombstonesExpired) -> None:
    memory.ended.drop_before(change.before)
    memory.settled.drop_before(change.before)


_APPLY: Final[dict[type[Any], Callable[[Memory, Any], object]]] = {
    c.KeyTaken: _take_key,
    c.KeyConfirmed: lambda memory, it: memory.queue_keys.confirm(it.key),
    c.KeyFreed: lambda memory, it: _free_key(memory, it.key, it.at),
    c.KeyWaived: lambda memory, it: memory.waived.add(it.job, it.at, it.key),
    c.ClaimVoided: lambda memory, it: memory.queue_keys.withdraw(it.nonce),
    c.Settled: _settle,
    c.TurnTaken: lambda memory, it: memory.turns.take(it),
    c.TurnAwaited: lambda memory, it: memory.turns.wait(it),
    c.TurnLeft: lambda memory, it: memory.turns.leave(it.job, it.at),
    c.Started: _start,
    c.Stopped: lambda memory, it: memory.running.pop(it.job, None),
    c.Requeued: _requeue,
    c.JobFreed: lambda memory, it: _free_job(memory, it.job, it.at),
    c.Ended: _end,
    c.Revived: lambda memory, it: memory.ended.discard(it.job),
    c.CancelRemembered: _remember,
    c.CancelConcluded: _conclude,
    c.CancelForgotten: _forget,
    c.Paused: _pause,
    c.Resumed: _resume,
    c.Versioned: _set_version,
    c.Joined: _join,
    c.Left: lambda memory, it: memory.members.pop(it.inbox, None),
    c.TombstonesExpired: _expire,
}
