"""What a partition remembers, and what it decides. It does nothing else: no clock, no I/O.

It changes by `Ledger.apply` only, so whoever replays its changes has the same ledger. A job id
holds keys, not a node: every operation names the job, and a repeated or late one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from . import claiming, controlling, operations as o, starting
from .cancellations import REMEMBER_CONCLUDED
from .changes import Change, TombstonesExpired
from .decisions import Decision
from .draft import Draft
from .memory import TOMBSTONE_AGE, Member, Memory
from .operations import Answer, Operation


class Ledger:
    """What a partition remembers; see the module."""

    def __init__(self) -> None:
        self._memory = Memory()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._memory == other._memory

    __hash__ = None  # type: ignore[assignment]

    @property
    def members(self) -> Mapping[str, Member]:
        """The nodes that run the partition, by inbox."""
        return self._memory.members

    def handle(self, operation: Operation, now: float) -> Decision:
        """Decide about an operation, and change accordingly.

        Args:
            operation: What is asked.
            now: The time, in seconds since the epoch.

        Returns:
            What follows. Its changes are to be saved before anything else is done.
        """
        draft = Draft(self._memory, now)
        return draft.done(_RULES[type(operation)](draft, operation))

    def arrive(self, job: str, queue: str, execution_key: str, now: float) -> Decision:
        """Decide about the delivery of a waiting job that has come in.

        Args:
            job: The job.
            queue: Its queue.
            execution_key: What it waits for.
            now: The time.

        Returns:
            What follows; a delivery that no move is about is to be held. The ledger does not know
            which deliveries are here: of two of one job, the second is to be dropped.
        """
        return starting.arrive(Draft(self._memory, now), job, queue, execution_key)

    def expire(self, now: float, held_for: float) -> Decision:
        """Forget what has been remembered for long enough; to be called now and then.

        Nothing is forgotten sooner than its age after it was loaded: what was noted by a host with
        another clock, or before this one's was set, may look older than it is.

        Args:
            now: The time.
            held_for: Seconds since the ledger was loaded.

        Returns:
            What follows.
        """
        draft = Draft(self._memory, now)
        before = now - TOMBSTONE_AGE
        memory = self._memory
        has_old = memory.ended.has_before(before) or memory.settled.has_before(before)
        if has_old and held_for >= TOMBSTONE_AGE:
            draft.change(TombstonesExpired(before))
        if held_for >= REMEMBER_CONCLUDED:
            for job in memory.cancellations.expired(now):
                draft.forget_cancellation(job)
        return draft.done()

    def unconfirmed(self, now: float, older_than: float) -> Mapping[str, frozenset[str]]:
        """Which senders have claimed keys and not published yet: are they alive?

        Args:
            now: The time.
            older_than: Seconds since the key was claimed.

        Returns:
            Their inboxes, and the jobs whose keys they claimed. `Gone` voids the claims of one.
        """
        keys = self._memory.queue_keys
        found: dict[str, set[str]] = {}
        for claim in keys.unpublished.values():
            hold = keys.holds[claim.key]
            if hold.since <= now - older_than:
                found.setdefault(claim.inbox, set()).add(hold.job)
        return {inbox: frozenset(jobs) for inbox, jobs in found.items()}

    def apply(self, change: Change) -> None:
        """Make a change that was decided earlier.

        Args:
            change: The change.

        Raises:
            Mismatch: It does not follow from what was before.
        """
        self._memory.apply(change)

    def snapshot(self) -> Iterator[Change]:
        """Yield the changes that rebuild this ledger from an empty one."""
        return self._memory.snapshot()


_RULES: Final[dict[type[Any], Callable[[Draft, Any], Answer | None]]] = {
    o.Claim: claiming.claim,
    o.Published: claiming.publish,
    o.Withdraw: claiming.withdraw,
    o.ReplayClaim: claiming.claim_replay,
    o.Start: starting.start,
    o.Requeue: starting.requeue,
    o.Release: starting.release,
    o.Conclude: starting.conclude,
    o.Cancel: controlling.cancel,
    o.Pause: controlling.pause,
    o.Resume: controlling.resume,
    o.ListPaused: controlling.list_paused,
    o.ListKeys: controlling.list_keys,
    o.FreeKey: controlling.free_key,
    o.PurgeKeyless: controlling.purge,
    o.PurgeWaiting: controlling.purge_waiting,
    o.Sync: controlling.sync,
    o.Leave: controlling.leave,
    o.Gone: controlling.bury_inbox,
    o.Fresh: controlling.begin_afresh,
}

__all__ = ["Decision", "Ledger", "Member"]
