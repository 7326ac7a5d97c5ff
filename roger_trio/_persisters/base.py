"""What a persister is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Persister(Protocol):
    """Keeps the state of partitions: bytes, which mean nothing to it.

    Any object with these two methods will do. One node at a time loads and saves a partition's
    state, in one task: the partition's coordinator. Where nodes on several hosts share a
    partition, all of them must reach the same state.

    ``save`` is called after every change, with the whole state; where that is much, add
    `JournalPersister.append`.
    """

    async def load(self, partition: str) -> bytes | None:
        """Return what was saved last for the partition; None if nothing was."""
        ...

    async def save(self, partition: str, data: bytes) -> None:
        """Keep ``data`` in place of all that was kept for the partition.

        It is durable on return. If it raises, or is cancelled, either the new or the old state is
        kept, whole; ``save`` is then called again.
        """
        ...


@runtime_checkable
class JournalPersister(Persister, Protocol):
    """A persister that can add to what it keeps, at a cost that does not depend on how much it is.

    What is appended is then part of what ``load`` returns: the data saved last, followed by all
    that was appended since, in order.
    """

    async def append(self, partition: str, data: bytes) -> None:
        """Keep ``data`` behind what is kept. It is durable on return.

        It is called only once ``save`` has returned since the last ``load``. If it raises, or is
        cancelled, ``data`` may be kept, in part or not at all; ``save`` is then called before the
        next ``append``.
        """
        ...
