"""Which jobs are cancelled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from .changes import CancelConcluded, CancelRemembered, Change

MAX_REMEMBERED: Final = 100_000
REMEMBER: Final = 30 * 24 * 3600.0
"""Seconds for which a job that was not met yet stays cancelled."""
MAX_CONCLUDED: Final = 10_000
REMEMBER_CONCLUDED: Final = 3600.0
"""Seconds for which copies of a concluded job are still told from new ones."""


@attrs.frozen
class Conclusion:
    """Who concluded a cancelled job."""

    at: float
    inbox: str
    nonce: str
    born: float


class Cancellations:
    """Which jobs are cancelled: those that may be met yet, and those that are concluded."""

    def __init__(self) -> None:
        self._remembered: OrderedDict[str, float] = OrderedDict()
        self._concluded: OrderedDict[str, Conclusion] = OrderedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cancellations) and (
            (self._remembered, self._concluded) == (other._remembered, other._concluded)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def remembered(self) -> Mapping[str, float]:
        """Since when jobs are cancelled that are not concluded; the oldest first."""
        return self._remembered

    @property
    def concluded(self) -> Mapping[str, Conclusion]:
        """The concluded ones; the oldest first."""
        return self._concluded

    def __contains__(self, job: str) -> bool:
        return job in self._remembered or job in self._concluded

    def __iter__(self) -> Iterator[str]:
        yield from self._remembered
        yield from self._concluded

    def remember(self, remembered: CancelRemembered) -> None:
        """A job is not to be started."""
        self._remembered[remembered.job] = remembered.since

    def conclude(self, concluded: CancelConcluded) -> None:
        """A cancelled job is over."""
        self._remembered.pop(concluded.job, None)
        conclusion = Conclusion(concluded.at, concluded.inbox, concluded.nonce, concluded.born)
        self._concluded[concluded.job] = conclusion

    def forget(self, job: str) -> None:
        """A job counts as cancelled no more."""
        self._remembered.pop(job, None)
        self._concluded.pop(job, None)

    def surplus(self) -> list[str]:
        """The oldest ones, beyond what is kept."""
        return [
            *_first(self._remembered, len(self._remembered) - MAX_REMEMBERED),
            *_first(self._concluded, len(self._concluded) - MAX_CONCLUDED),
        ]

    def expired(self, now: float) -> list[str]:
        """The ones remembered for long enough."""
        expired: list[str] = []
        for job, since in self._remembered.items():
            if since >= now - REMEMBER:
                break
            expired.append(job)
        for job, conclusion in self._concluded.items():
            if conclusion.at >= now - REMEMBER_CONCLUDED:
                break
            expired.append(job)
        return expired

    def snapshot(self) -> Iterator[Change]:
        """Yield the changes that rebuild it."""
        for job, since in self._remembered.items():
            yield CancelRemembered(job, since)
        for job, conclusion in self._concluded.items():
            yield CancelConcluded(
                job, conclusion.at, conclusion.inbox, conclusion.nonce, conclusion.born
            )


def _first(jobs: Mapping[str, object], count: int) -> list[str]:
    """The first few names."""
    return [job for job, _ in zip(jobs, range(count), strict=False)]
