"""The latest of many things, bounded by number and by age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import attrs


@attrs.frozen
class Noted:
    """One thing that is remembered for a while."""

    at: float
    note: str | None
    born: float


class Recent:
    """Names noted lately, with an optional text each. Beyond the limit the oldest go.

    Args:
        limit: How many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._noted: OrderedDict[str, Noted] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._noted

    def __iter__(self) -> Iterator[tuple[str, Noted]]:
        yield from self._noted.items()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recent) and self._noted == other._noted

    __hash__ = None  # type: ignore[assignment]

    def get(self, name: str) -> Noted | None:
        """What was noted under a name."""
        return self._noted.get(name)

    def add(self, name: str, at: float, note: str | None = None, born: float = 0.0) -> None:
        """Note a name as the latest one."""
        self._noted[name] = Noted(at, note, born)
        self._noted.move_to_end(name)
        if len(self._noted) > self._limit:
            self._noted.popitem(last=False)

    def discard(self, name: str) -> None:
        """Forget a name, if it is known."""
        self._noted.pop(name, None)

    def has_before(self, moment: float) -> bool:
        """Whether the oldest one was noted before a moment."""
        return bool(self._noted) and next(iter(self._noted.values())).at < moment

    def drop_before(self, moment: float) -> None:
        """Forget, from the oldest on, what was noted before a moment."""
        while self.has_before(moment):
            self._noted.popitem(last=False)
