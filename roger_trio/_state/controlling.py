"""The rules for who controls: cancellations, pauses, a look at the keys; and for nodes."""

from __future__ import annotations

import heapq
import math
from itertools import chain
from typing import Final

from . import changes as c
from .claiming import void_claims
from .draft import Draft
from .memory import Memory
from .operations import (
    Cancel,
    Finished,
    FreeKey,
    Fresh,
    Gone,
    HeldKey,
    JobCancelled,
    Keys,
    Leave,
    ListKeys,
    ListPaused,
    Pause,
    PausedQueues,
    Purged,
    PurgeKeyless,
    PurgeWaiting,
    QueuePaused,
    QueueResumed,
    Recorded,
    Release,
    Resume,
    Sync,
    Synced,
)
from .queue_keys import Hold
from .starting import release
from .turns import Turn

KEYS_PER_ANSWER: Final = 5000
"""Keys that are told at a time: with the longest keys, 6 MB."""


def cancel(draft: Draft, op: Cancel) -> Recorded | Finished:
    """Never start a job again; nodes that run it stop it."""
    memory, is_first = draft.memory, _is_first(draft, op)
    if memory.is_over(op.job):
        return Finished()
    if op.job not in memory.cancellations:
        if not is_first:
            return _recorded(draft)  # forgotten since: the job was replayed, for example
        draft.change(c.CancelRemembered(op.job, draft.now))
    if op.job not in memory.running and memory.holds_any(op.job):
        if memory.turns.is_waiting(op.job):
            draft.forward(op.job)
        draft.give_up_turn(op.job, c.JobFreed(op.job, draft.now))
    draft.tell(lambda version: JobCancelled(version, op.job, op.inbox, op.request))
    draft.bound_cancellations()
    return _recorded(draft)


def pause(draft: Draft, op: Pause) -> Recorded:
    """Start no job of a queue on any node."""
    is_first = _is_first(draft, op)
    if op.queue not in draft.memory.paused:
        if not is_first:
            return _recorded(draft)  # resumed since
        draft.change(c.Paused(op.queue))
    draft.tell(lambda version: QueuePaused(version, op.queue, op.inbox, op.request))
    return _recorded(draft)


def resume(draft: Draft, op: Resume) -> Recorded:
    """Start jobs of a queue again."""
    is_first = _is_first(draft, op)
    if op.queue in draft.memory.paused:
        if not is_first:
            return _recorded(draft)  # paused again since
        draft.change(c.Resumed(op.queue))
    draft.tell(lambda version: QueueResumed(version, op.queue, op.inbox, op.request))
    return _recorded(draft)


def list_paused(draft: Draft, _op: ListPaused) -> PausedQueues:
    """Which queues are paused?"""
    return PausedQueues(tuple(sorted(draft.memory.paused)))


def list_keys(draft: Draft, op: ListKeys) -> Keys:
    """Who holds which key?"""
    memory = draft.memory
    holds, turns = memory.queue_keys.holds, memory.turns.turns
    every = chain((it.since for it in holds.values()), (it.since for it in turns.values()))
    oldest = heapq.nsmallest(KEYS_PER_ANSWER + 1, (since for since in every if since > op.after))
    is_all = len(oldest) <= KEYS_PER_ANSWER
    # Those that were taken at one moment stay together.
    until = math.inf if is_all else oldest[KEYS_PER_ANSWER - 1]
    queue_keys = (
        _queue_key(memory, key, it) for key, it in holds.items() if op.after < it.since <= until
    )
    execution_keys = (
        _execution_key(memory, key, it) for key, it in turns.items() if op.after < it.since <= until
    )
    found = sorted((*queue_keys, *execution_keys), key=lambda it: it.since)
    return Keys(tuple(found), is_all)


def free_key(draft: Draft, op: FreeKey) -> Keys:
    """Free a key, whichever kind it is, whoever holds it."""
    memory = draft.memory
    freed: list[HeldKey] = []
    if not _is_first(draft, op):
        return Keys(())
    hold = memory.queue_keys.holds.get(op.key)
    if hold is not None:
        freed.append(_queue_key(memory, op.key, hold))
        draft.change(c.KeyFreed(op.key, draft.now))
        draft.change(c.KeyWaived(hold.job, op.key, draft.now))
    turn = memory.turns.turns.get(op.key)
    if turn is not None:
        freed.append(_execution_key(memory, op.key, turn))
        draft.give_up_turn(turn.job, c.TurnLeft(turn.job, draft.now))
    return Keys(tuple(freed))


def purge(draft: Draft, op: PurgeKeyless) -> Purged | None:
    """Purge a queue, if no job of it holds a key or waits for one."""
    memory = draft.memory
    if memory.queue_keys.any_in(op.queue) or memory.turns.any_in(op.queue):
        return Purged(None)
    if not _is_first(draft, op):
        return Purged(None)
    draft.purge = op.queue
    return None


def purge_waiting(draft: Draft, op: PurgeWaiting) -> Purged:
    """End the jobs of a queue that wait for an execution key."""
    if not _is_first(draft, op):
        return Purged(None)
    waiting = [
        job
        for turn in draft.memory.turns.turns.values()
        for job, waiter in (turn.waiters or {}).items()
        if waiter.queue == op.queue
    ]
    for job in waiting:
        release(draft, Release(job))
    return Purged(len(waiting))


def sync(draft: Draft, op: Sync) -> Synced:
    """A node is about to start jobs."""
    memory = draft.memory
    for inbox in [inbox for inbox, it in memory.members.items() if it.node == op.node]:
        if inbox != op.inbox:
            draft.change(c.Left(inbox))
    member = memory.members.get(op.inbox)
    if member is None or (member.node, member.host) != (op.node, op.host):
        draft.change(c.Joined(op.inbox, op.node, op.host))
    return Synced(memory.version, tuple(sorted(memory.paused)), tuple(memory.cancellations))


def leave(draft: Draft, op: Leave | Gone) -> None:
    """A node runs the partition no more."""
    if op.inbox in draft.memory.members:
        draft.change(c.Left(op.inbox))


def bury_inbox(draft: Draft, op: Gone) -> None:
    """A node or client is dead."""
    leave(draft, op)
    void_claims(draft, op)


def begin_afresh(draft: Draft, op: Fresh) -> None:
    """The broker was empty: no job that held a key before is left."""
    memory, before = draft.memory, op.before
    for key, hold in list(memory.queue_keys.holds.items()):
        if hold.since < before:
            draft.change(c.KeyFreed(key, draft.now))
    for turn in list(memory.turns.turns.values()):
        stale = [job for job, it in (turn.waiters or {}).items() if it.since < before]
        # Those that wait go first, so that none of them is given the key.
        for job in (*stale, *([turn.job] if turn.since < before else ())):
            draft.give_up_turn(job, c.TurnLeft(job, draft.now))
    for job in [job for job, it in memory.running.items() if it.at < before]:
        draft.change(c.Stopped(job))
    draft.change(c.TombstonesExpired(before))


def _is_first(
    draft: Draft, op: Cancel | Pause | Resume | FreeKey | PurgeKeyless | PurgeWaiting
) -> bool:
    """Whether a request is handled for the first time; from now on it is not."""
    nonce = f"{type(op).__name__} {op.inbox} {op.request}"
    if nonce in draft.memory.settled:
        return False
    draft.change(c.Settled(nonce, draft.now, None))
    return True


def _recorded(draft: Draft) -> Recorded:
    members = draft.memory.members.items()
    return Recorded(tuple((member.node, inbox) for inbox, member in members))


def _queue_key(memory: Memory, key: str, hold: Hold) -> HeldKey:
    node = _node(memory, hold.job)
    return HeldKey(key, "queue", hold.job, hold.queue, hold.since, node, waiting=0)


def _execution_key(memory: Memory, key: str, turn: Turn) -> HeldKey:
    node, waiting = _node(memory, turn.job), len(turn.waiters or ())
    return HeldKey(key, "execution", turn.job, turn.queue, turn.since, node, waiting)


def _node(memory: Memory, job: str) -> str | None:
    running = memory.running.get(job)
    return running.node if running else None
