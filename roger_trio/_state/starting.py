"""The rules for who performs: starts and ends of jobs with keys, and of cancelled ones."""

from __future__ import annotations

from . import changes as c
from .claiming import revive
from .decisions import Decision
from .draft import Draft
from .operations import (
    Cancelled,
    Conclude,
    Duplicate,
    Elsewhere,
    Finished,
    First,
    JobCancelled,
    Release,
    Requeue,
    Run,
    Start,
    Wait,
)

Started = Run | Wait | Cancelled | Finished | Duplicate | Elsewhere


def start(draft: Draft, op: Start) -> Started:
    """May a delivery of a job be started on this node?"""
    memory = draft.memory
    if memory.is_over(op.job, op.born):
        return Finished()
    revive(draft, op.job)  # Whatever ended under this id was another job.
    settled = memory.settled.get(op.attempt) if op.attempt else None
    if settled is not None:
        return _again(settled.note)
    elsewhere = _elsewhere(draft, op)
    if elsewhere is not None:
        return elsewhere
    if op.job in memory.cancellations:
        return Cancelled()
    if op.to_forget:
        return _take_over(draft, op)
    holder = _queue_key_holder(draft, op)
    if holder is not None:
        if memory.holds_any(op.job):
            draft.give_up_turn(op.job, c.JobFreed(op.job, draft.now))
        _settle(draft, op, holder)
        return Duplicate(holder)
    return _take_turn(draft, op)


def requeue(draft: Draft, op: Requeue) -> None:
    """An attempt has ended, and the job comes back."""
    if op.job in draft.memory.running and not _is_late(draft, op):
        draft.give_up_turn(op.job, c.Requeued(op.job, op.attempt, draft.now))


def release(draft: Draft, op: Release) -> None:
    """A job is over for good."""
    memory = draft.memory
    if _is_late(draft, op):
        return
    if not memory.is_over(op.job, op.born) or memory.holds_any(op.job):
        if memory.turns.is_waiting(op.job):
            draft.drop(op.job)
        draft.give_up_turn(op.job, c.Ended(op.job, op.attempt, draft.now, op.born))
    if op.job in memory.cancellations.remembered:
        draft.forget_cancellation(op.job)


def conclude(draft: Draft, op: Conclude) -> First:
    """A cancelled job has been met or has ended."""
    memory = draft.memory
    conclusion = memory.cancellations.concluded.get(op.job)
    if conclusion is not None:
        return First((conclusion.inbox, conclusion.nonce) == (op.inbox, op.nonce))
    if op.job in memory.ended and memory.is_over(op.job, op.born):
        return First(is_first=False)
    was_remembered = op.job in memory.cancellations
    if memory.turns.is_waiting(op.job):
        draft.drop(op.job)
    concluded = c.CancelConcluded(op.job, draft.now, op.inbox, op.nonce, op.born)
    draft.give_up_turn(op.job, concluded)
    if not was_remembered:  # forgotten meanwhile, for its age
        draft.tell(lambda version: JobCancelled(version, op.job))
    draft.bound_cancellations()
    return First(is_first=True)


def arrive(draft: Draft, job: str, queue: str, execution_key: str) -> Decision:
    """The delivery of a waiting job has come in: hold it, unless the decision moves it."""
    memory = draft.memory
    if memory.is_over(job):
        draft.drop(job)
    elif job in memory.cancellations or draft.take_turn(job, queue, execution_key):
        draft.forward(job)
    return draft.done()


def _elsewhere(draft: Draft, op: Start) -> Elsewhere | None:
    """Where another delivery of the job was started, if it may still run there."""
    running = draft.memory.running.get(op.job)
    if running is None or (running.inbox, running.attempt) == (op.inbox, op.attempt):
        return None
    has_ended = op.instead_of and running.attempt == op.instead_of
    if has_ended or running.inbox not in draft.memory.members:
        return None
    return Elsewhere(running.node, running.inbox, running.attempt)


def _queue_key_holder(draft: Draft, op: Start) -> str | None:
    """The other job that holds the queue key, if one does; otherwise this one holds it."""
    if op.queue_key is None:
        return None
    waived = draft.memory.waived.get(op.job)
    if waived is not None and waived.note == op.queue_key:
        return None
    hold = draft.memory.queue_keys.holds.get(op.queue_key)
    if hold is None:
        draft.change(c.KeyTaken(op.queue_key, op.job, op.queue, draft.now, "", ""))
    elif hold.job != op.job:
        return hold.job
    elif not hold.is_confirmed:
        draft.change(c.KeyConfirmed(op.queue_key))
    return None


def _take_turn(draft: Draft, op: Start) -> Run | Wait:
    """Run it, unless it has to wait for its execution key."""
    key = op.execution_key
    running = draft.memory.running.get(op.job)
    if key is not None and not draft.take_turn(op.job, op.queue, key):
        if running is not None:
            draft.change(c.Stopped(op.job))
        _settle(draft, op, "")
        return Wait()
    if key is not None or op.queue_key is not None:
        _note_started(draft, op)
    return Run()


def _take_over(draft: Draft, op: Start) -> Run | Finished:
    """Give what the attempt took that was started last to this one, which is to free it."""
    if op.job not in draft.memory.running:
        return Finished()
    _note_started(draft, op)
    return Run()


def _note_started(draft: Draft, op: Start) -> None:
    running = draft.memory.running.get(op.job)
    if running is None or (running.node, running.inbox, running.attempt) != (
        op.node,
        op.inbox,
        op.attempt,
    ):
        draft.change(c.Started(op.job, op.node, op.inbox, op.attempt, draft.now))


def _settle(draft: Draft, op: Start, note: str) -> None:
    """The attempt has ended with this answer; asked again, it does not take the keys after all."""
    if op.attempt:
        draft.change(c.Settled(op.attempt, draft.now, note))


def _again(note: str | None) -> Finished | Wait | Duplicate:
    """What the start of a settled attempt was answered."""
    if note is None:
        return Finished()
    return Duplicate(note) if note else Wait()


def _is_late(draft: Draft, op: Requeue | Release) -> bool:
    """Whether it is about an attempt that is over, or not the one that was started last."""
    if not op.attempt:
        return False
    if op.attempt in draft.memory.settled:
        return True
    running = draft.memory.running.get(op.job)
    return running is not None and running.attempt not in ("", op.attempt)
