"""The rules for who enqueues: claims of queue keys.

A claim is provisional until its job is known to be published, and is decided once: its nonce is
kept in mind when it is over, so that a late copy of it takes nothing again.
"""

from __future__ import annotations

from . import changes as c
from .draft import Draft
from .operations import (
    Claim,
    Claimed,
    Gone,
    HeldBy,
    JobForgotten,
    Published,
    ReplayClaim,
    Withdraw,
)


def claim(draft: Draft, op: Claim) -> Claimed | HeldBy | None:
    """Hold a queue key for a job that is about to be published."""
    if not _has_own_nonce(draft, op):
        return None  # Nobody of ours asks so, and whoever does is not answered.
    settled = draft.memory.settled.get(op.nonce)
    if settled is not None:
        return Claimed() if settled.note is None else HeldBy(settled.note)
    hold = draft.memory.queue_keys.holds.get(op.key)
    if hold is not None and hold.job != op.job:
        draft.change(c.Settled(op.nonce, draft.now, hold.job))
        return HeldBy(hold.job)
    if hold is None or not hold.is_confirmed:
        if hold is None or op.nonce not in hold.nonces:
            draft.change(c.KeyTaken(op.key, op.job, op.queue, draft.now, op.nonce, op.inbox))
    elif op.nonce not in hold.nonces:
        draft.change(c.Settled(op.nonce, draft.now, None))
    revive(draft, op.job)
    return Claimed()


def _has_own_nonce(draft: Draft, op: Claim) -> bool:
    """Tell whether a claim can be told from all others."""
    known = draft.memory.queue_keys.unpublished.get(op.nonce)
    return bool(op.nonce) and (known is None or known.key == op.key)


def claim_replay(draft: Draft, op: ReplayClaim) -> Claimed | HeldBy | None:
    """Hold the queue key, if any, of a buried job; it is over and cancelled no more."""
    if op.nonce in draft.memory.settled:
        return claim(draft, Claim(op.job, op.key or "", op.queue, op.nonce, op.inbox))
    if op.key is None:
        draft.change(c.Settled(op.nonce, draft.now, None))
        revive(draft, op.job)
    else:
        answer = claim(draft, Claim(op.job, op.key, op.queue, op.nonce, op.inbox))
        if not isinstance(answer, Claimed):
            return answer
    if op.job in draft.memory.cancellations:
        draft.forget_cancellation(op.job)
    else:  # Without a key its end was never noted here, but the node that saw it knows.
        draft.tell(lambda version: JobForgotten(version, op.job))
    return Claimed()


def publish(draft: Draft, op: Published) -> None:
    """The broker has confirmed the job of a claim."""
    claim = draft.memory.queue_keys.unpublished.get(op.nonce)
    if claim is not None and draft.memory.queue_keys.holds[claim.key].job == op.job:
        draft.change(c.KeyConfirmed(claim.key))


def withdraw(draft: Draft, op: Withdraw) -> None:
    """The job of a claim will not be published."""
    keys = draft.memory.queue_keys
    if op.nonce in draft.memory.settled:
        return
    claim = keys.unpublished.get(op.nonce)
    if claim is None:
        is_another = any(op.nonce in keys.holds[key].nonces for key in keys.of(op.job))
    else:
        is_another = keys.holds[claim.key].job != op.job
    if not is_another:  # neither a published claim nor one of another job
        draft.change(c.Settled(op.nonce, draft.now, None))


def void_claims(draft: Draft, op: Gone) -> None:
    """Void what a dead sender has claimed and not published.

    If it was only out of reach, it may not have heard the answer, and asks again.
    """
    unpublished = draft.memory.queue_keys.unpublished
    for nonce in [nonce for nonce, claim in unpublished.items() if claim.inbox == op.inbox]:
        draft.change(c.ClaimVoided(nonce))


def revive(draft: Draft, job: str) -> None:
    """A job that was over is about to be enqueued again: no node takes it for ended any more."""
    if job in draft.memory.ended:
        draft.change(c.Revived(job))
        draft.tell(lambda version: JobForgotten(version, job))
    if job in draft.memory.cancellations.concluded:
        draft.forget_cancellation(job)
