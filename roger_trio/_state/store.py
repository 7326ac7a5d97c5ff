"""`Store`: one partition's ledger, loaded from and saved to a persister."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol, runtime_checkable

import trio

from .._brokers.base import QueueSpec
from .._errors import PersisterError
from .._persisters import JournalPersister, Persister
from .changes import Change
from .journal import JournalWriter, Problem, Replay
from .ledger import Ledger

logger = logging.getLogger(__name__)

_LEAST_GROWTH: Final = 1024 * 1024
_GROWTH_FACTOR: Final = 2
_CHANGES_PER_LINE: Final = 500


@runtime_checkable
class SetsAside(Protocol):
    """A persister that can keep what makes no sense where nothing overwrites it."""

    async def set_aside(self, partition: str, data: bytes) -> str:
        """Keep it; return where."""
        ...


@runtime_checkable
class Closes(Protocol):
    """A persister that holds something open for a partition."""

    def close(self, partition: str) -> None:
        """Let go of it; `load` comes before anything else."""
        ...


@runtime_checkable
class KeepsInQueues(Protocol):
    """A persister that keeps the state of a partition in queues of the partition's broker."""

    def queues(self, partition: str) -> Sequence[QueueSpec]:
        """Say which, so that they are made with the partition's other ones."""
        ...


class Store:
    """Keeps one partition's ledger. Used by one task at a time: the coordinator.

    With a persister that can append, a save costs what its changes cost, however much the ledger
    holds; the whole is written when enough has been appended, so that loading stays quick, too.
    With any other each save writes the whole.

    Args:
        persister: Where the state is kept, as `bind_persister` gives it.
        partition: The partition's name.
    """

    def __init__(self, persister: Persister, partition: str) -> None:
        self._persister = persister
        self._partition = partition
        self._journal = persister if isinstance(persister, JournalPersister) else None
        self._most_appends: int | None = getattr(persister, "most_appends", None)
        self._writer = JournalWriter()
        self._is_behind = False
        self._must_save_all = True
        self._written_whole = 0
        self._appended = 0
        self._appends = 0

    @property
    def stays_on_host(self) -> bool:
        """Whether nodes on other hosts cannot reach the state."""
        return bool(getattr(self._persister, "stays_on_host", False))

    @property
    def queues(self) -> Sequence[QueueSpec]:
        """The broker queues that the state is kept in, if it is."""
        persister = self._persister
        return persister.queues(self._partition) if isinstance(persister, KeepsInQueues) else ()

    async def load(self) -> Ledger:
        """Load the ledger as it was saved last; what cannot be read is set aside, with an ERROR.

        Raises:
            Exception: The persister cannot load; of ours that is `PersisterError`.
        """
        self._must_save_all, self._is_behind = True, False
        data = await self._persister.load(self._partition)
        ledger = Ledger()
        if data is None:
            return ledger
        replay = Replay(self._to_bytes(data), ledger)
        for _ in replay:
            await trio.lowlevel.checkpoint()  # other partitions go on meanwhile
        if replay.problem is not None:
            self._is_behind = True  # Else it would be met, and set aside, by each load.
            await self._report(replay.problem, bytes(data))
        return ledger

    async def save(self, ledger: Ledger, changes: Sequence[Change]) -> None:
        """Save changes that have been made to the ledger; they are durable on return.

        If it raises or is cancelled, they may be saved or not; the next save makes up for it.

        Args:
            ledger: The ledger, with the changes made; it must not change meanwhile.
            changes: All changes since the last save.

        Raises:
            Exception: The persister cannot save; of ours that is `PersisterError`.
        """
        if not changes and not self._is_behind:
            return
        self._is_behind = True
        if self._journal is None or self._is_whole_due():
            await self._save_all(ledger)
        else:
            await self._append(self._journal, changes)
        self._is_behind = False

    def close(self) -> None:
        """Let go of what the persister holds open; `load` comes before anything else."""
        if isinstance(self._persister, Closes):
            self._persister.close(self._partition)

    def _to_bytes(self, data: object) -> bytes:
        """Accept what databases return for bytes, too."""
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        raise PersisterError(
            f"partition {self._partition!r}: {type(self._persister).__name__}.load must return "
            f"bytes or None, got a value of type {type(data).__name__}"
        )

    def _is_whole_due(self) -> bool:
        if self._must_save_all:
            return True
        if self._most_appends is not None and self._appends >= self._most_appends:
            return True
        return self._appended > max(_LEAST_GROWTH, _GROWTH_FACTOR * self._written_whole)

    async def _append(self, journal: JournalPersister, changes: Sequence[Change]) -> None:
        data = self._writer.line(changes)
        self._must_save_all = True  # unless this succeeds
        await journal.append(self._partition, data)
        self._must_save_all = False
        self._appended += len(data)
        self._appends += 1

    async def _save_all(self, ledger: Ledger) -> None:
        self._must_save_all = True
        self._writer = JournalWriter()
        parts = [self._writer.header()]
        for some in _groups(ledger.snapshot(), _CHANGES_PER_LINE):
            parts.append(self._writer.line(some))
            await trio.lowlevel.checkpoint()
        data = b"".join(parts)
        await self._persister.save(self._partition, data)
        self._must_save_all = False
        self._written_whole, self._appended, self._appends = len(data), 0, 0

    async def _report(self, problem: Problem, data: bytes) -> None:
        if problem.kind == "torn":
            logger.warning(
                "partition %r: the last save of its state was interrupted (%s); it is left out",
                self._partition,
                problem.where,
            )
            return
        logger.error(
            "partition %r: its state is %s (%s); what stands before that is used, and all of it "
            "is set aside %s",
            self._partition,
            problem.kind,
            problem.where,
            await self._set_aside(data),
        )

    async def _set_aside(self, data: bytes) -> str:
        if not isinstance(self._persister, SetsAside):
            return f"nowhere: {len(data)} bytes are given up with the next save"
        try:
            return "as " + await self._persister.set_aside(self._partition, data)
        except PersisterError as error:
            return f"nowhere, as that failed: {error}"


def _groups(changes: Iterable[Change], size: int) -> Iterator[list[Change]]:
    source = iter(changes)
    while some := list(islice(source, size)):
        yield some
