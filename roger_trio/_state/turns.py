"""Which job holds which execution key, and which ones wait for it."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

import attrs

from .changes import Change, TurnAwaited, TurnTaken


@attrs.frozen
class Waiter:
    """When a job began to wait, and of which queue it is."""

    queue: str
    since: float


@attrs.define
class Turn:
    """The job whose turn it is, and those that wait for theirs: first come, first served."""

    job: str
    queue: str
    since: float
    waiters: OrderedDict[str, Waiter] | None = None


class Turns:
    """Which job holds which execution key, and which ones wait for it."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._keys: dict[str, str] = {}
        self._queues: Counter[str] = Counter()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turns) and (
            (self._turns, self._keys, self._queues) == (other._turns, other._keys, other._queues)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def turns(self) -> Mapping[str, Turn]:
        """All turns by key."""
        return self._turns

    def key_of(self, job: str) -> str | None:
        """The key that a job holds or waits for."""
        return self._keys.get(job)

    def is_waiting(self, job: str) -> bool:
        """Whether a job waits for its key."""
        key = self._keys.get(job)
        return key is not None and self._turns[key].job != job

    def next_after(self, job: str) -> str | None:
        """The job that gets the key if this one leaves; None: none, or it does not hold it."""
        key = self._keys.get(job)
        if key is None:
            return None
        turn = self._turns[key]
        return next(iter(turn.waiters)) if turn.job == job and turn.waiters else None

    def any_in(self, queue: str) -> bool:
        """Whether a job of a queue holds a key or waits for one."""
        return queue in self._queues

    def take(self, taken: TurnTaken) -> None:
        """Let a job hold a free key."""
        if taken.key in self._turns or taken.job in self._keys:
            raise KeyError(taken.key)
        queue = sys.intern(taken.queue)
        self._turns[taken.key] = Turn(taken.job, queue, taken.since)
        self._keys[taken.job] = taken.key
        self._queues[queue] += 1

    def wait(self, awaited: TurnAwaited) -> None:
        """Let a job wait for a held key."""
        turn = self._turns[awaited.key]
        if awaited.job in self._keys:
            raise KeyError(awaited.key)
        if turn.waiters is None:
            turn.waiters = OrderedDict()
        queue = sys.intern(awaited.queue)
        turn.waiters[awaited.job] = Waiter(queue, awaited.since)
        self._keys[awaited.job] = awaited.key
        self._queues[queue] += 1

    def leave(self, job: str, at: float) -> None:
        """A job holds or awaits its key no more; if it held it, the first waiter does."""
        key = self._keys.pop(job, None)
        if key is None:
            return
        turn = self._turns[key]
        waiters = turn.waiters or OrderedDict()
        if turn.job != job:
            self._uncount(waiters.pop(job).queue)
        elif waiters:
            self._uncount(turn.queue)
            turn.job, waiter = waiters.popitem(last=False)
            turn.queue, turn.since = waiter.queue, at
        else:
            self._uncount(turn.queue)
            del self._turns[key]
        turn.waiters = waiters or None

    def snapshot(self) -> Iterator[Change]:
        """Yield the changes that rebuild it."""
        for key, turn in self._turns.items():
            yield TurnTaken(key, turn.job, turn.queue, turn.since)
            for job, waiter in (turn.waiters or {}).items():
                yield TurnAwaited(key, job, waiter.queue, waiter.since)

    def _uncount(self, queue: str) -> None:
        self._queues[queue] -= 1
        if not self._queues[queue]:
            del self._queues[queue]
