"""Which job holds which queue key."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import attrs

from .changes import Change, KeyTaken


@attrs.define
class Hold:
    """A job that holds a queue key."""

    job: str
    queue: str
    since: float
    nonces: tuple[str, ...]
    """Its claims; only those that can still be published, until it is confirmed."""
    is_confirmed: bool
    """Whether it is known to have been published."""


@attrs.frozen
class Unpublished:
    """A claim whose job may be published yet."""

    key: str
    inbox: str
    """Who will publish it."""


class QueueKeys:
    """Which job holds which queue key, and which claims are not published yet."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._unpublished: dict[str, Unpublished] = {}
        self._queues: Counter[str] = Counter()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueueKeys) and (
            (self._holds, self._keys, self._unpublished, self._queues)
            == (other._holds, other._keys, other._unpublished, other._queues)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def holds(self) -> Mapping[str, Hold]:
        """All holds by key; the longest held first."""
        return self._holds

    @property
    def unpublished(self) -> Mapping[str, Unpublished]:
        """All claims that may be published yet, by nonce."""
        return self._unpublished

    def of(self, job: str) -> tuple[str, ...]:
        """The keys that a job holds."""
        return self._keys.get(job, ())

    def any_in(self, queue: str) -> bool:
        """Whether a job of a queue holds a key."""
        return queue in self._queues

    def take(self, taken: KeyTaken) -> None:
        """Let a job hold a key that is free or its own."""
        hold = self._holds.get(taken.key)
        if hold is None:
            hold = Hold(taken.job, sys.intern(taken.queue), taken.since, (), is_confirmed=False)
            self._holds[taken.key] = hold
            self._keys[taken.job] = (*self.of(taken.job), taken.key)
            self._queues[hold.queue] += 1
        elif hold.job != taken.job:
            raise KeyError(taken.key)
        if taken.nonce and taken.nonce not in hold.nonces:
            hold.nonces = (*hold.nonces, taken.nonce)
        if taken.inbox:
            self._unpublished[taken.nonce] = Unpublished(taken.key, sys.intern(taken.inbox))
        else:
            self.confirm(taken.key)

    def confirm(self, key: str) -> None:
        """The job that holds a key has been published."""
        hold = self._holds[key]
        hold.is_confirmed = True
        for nonce in hold.nonces:
            self._unpublished.pop(nonce, None)

    def withdraw(self, nonce: str) -> None:
        """A claim will not be published; if it was the only one, its key is free."""
        claim = self._unpublished.pop(nonce, None)
        if claim is None:
            return
        hold = self._holds[claim.key]
        hold.nonces = tuple(other for other in hold.nonces if other != nonce)
        if not hold.nonces:
            self.free(claim.key)

    def free(self, key: str) -> tuple[str, ...]:
        """Free a key; return the claims that end with it."""
        hold = self._holds.pop(key, None)
        if hold is None:
            return ()
        rest = tuple(other for other in self._keys[hold.job] if other != key)
        if rest:
            self._keys[hold.job] = rest
        else:
            del self._keys[hold.job]
        self._queues[hold.queue] -= 1
        if not self._queues[hold.queue]:
            del self._queues[hold.queue]
        for nonce in hold.nonces:
            self._unpublished.pop(nonce, None)
        return hold.nonces

    def snapshot(self) -> Iterator[Change]:
        """Yield the changes that rebuild it."""
        for key, hold in self._holds.items():
            for nonce in hold.nonces or ("",):
                claim = self._unpublished.get(nonce)
                inbox = claim.inbox if claim else ""
                yield KeyTaken(key, hold.job, hold.queue, hold.since, nonce, inbox)
