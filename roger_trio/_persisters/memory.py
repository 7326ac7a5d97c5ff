"""`MemoryPersister`: state that is gone with the program."""

from __future__ import annotations

from typing import Final


class MemoryPersister:
    """Keeps the state in this object, and forgets it with the process.

    Nodes of one program that are given the same object share the state.
    """

    stays_on_host: Final = True

    def __init__(self) -> None:
        self._prefix = ""
        self._kept: dict[tuple[str, str], bytearray] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def scoped(self, prefix: str) -> MemoryPersister:
        """Return a view of this object that keeps clusters of different prefixes apart."""
        view = MemoryPersister()
        view._prefix, view._kept = prefix, self._kept
        return view

    async def load(self, partition: str) -> bytes | None:
        """Return what is kept for the partition."""
        kept = self._kept.get((self._prefix, partition))
        return None if kept is None else bytes(kept)

    async def save(self, partition: str, data: bytes) -> None:
        """Keep `data` in place of what is kept."""
        self._kept[self._prefix, partition] = bytearray(data)

    async def append(self, partition: str, data: bytes) -> None:
        """Keep `data` behind what is kept."""
        self._kept[self._prefix, partition] += data
