"""Deliveries on loan to running jobs: a job may lose its delivery, and have it back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import attrs
import trio

from .._brokers.base import Delivery
from .._jobs.copies import Copy, Instance

K = TypeVar("K", bound=Hashable)

_REMEMBERED: Final = 10_000
_REMEMBER_FOR: Final = 600.0
"""Seconds; by then what came back has been met, or its queue stands still."""


Done = Copy | Instance
"""What need not be started any more where it comes back: a copy that has ended, in whichever
message it comes; or one message, as its copy has moved on to another."""


class Origin(Protocol):
    """What brings deliveries: a session."""

    async def flush(self) -> None:
        """Wait until every settlement so far has left this process."""
        ...

    def hold(self, job: object) -> None:
        """Stay open for a job that runs elsewhere and is settled here."""
        ...

    def let_go(self, job: object) -> None:
        """Stay open for it no longer."""
        ...

    def note_settled(self, done: Done) -> None:
        """Take note of what was settled; the end of the channel may undo that."""
        ...


@attrs.frozen(eq=False)
class Loan:
    """A delivery, and what brought it: it is settled there or nowhere."""

    delivery: Delivery
    origin: Origin


class Lately(Generic[K]):
    """What was noted lately: the newest few thousand, for some minutes.

    Args:
        limit: How many are kept.
        age: Seconds for which they are.
    """

    def __init__(self, limit: int = _REMEMBERED, age: float = _REMEMBER_FOR) -> None:
        self._limit = limit
        self._age = age
        self._since: OrderedDict[K, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._since)

    def __contains__(self, noted: K) -> bool:
        since = self._since.get(noted)
        return since is not None and trio.current_time() - since < self._age

    def __iter__(self) -> Iterator[K]:
        return iter(self._since)

    def add(self, *noted: K) -> None:
        """Note something as the latest."""
        self.update(noted)

    def update(self, noted: Iterable[K]) -> None:
        """Note several."""
        now = trio.current_time()
        for each in noted:
            self._since[each] = now
            self._since.move_to_end(each)
        while self._since and (
            len(self._since) > self._limit or now - next(iter(self._since.values())) >= self._age
        ):
            self._since.popitem(last=False)
