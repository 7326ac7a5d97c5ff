"""`FilePersister`: one file for each partition."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import attrs
import platformdirs
import trio

from .statefile import StateFile

T = TypeVar("T")

_SLUG_LENGTH: Final = 40
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]+")
# Apart from the threads of sync jobs, which may be busy for long.
_MOST_THREADS: Final = 8


def default_directory() -> Path:
    """Return where programs of this user keep the state of roger_trio."""
    return platformdirs.user_state_path("roger_trio", appauthor=False)


def file_name(prefix: str, partition: str) -> str:
    """Return a file name that is safe for any partition, and another one for each of them."""
    slug = _UNSAFE.sub("_", partition)[:_SLUG_LENGTH].strip("_")
    digest = hashlib.sha256(json.dumps([prefix, partition]).encode()).hexdigest()[:16]
    return f"{slug or 'partition'}-{digest}.state"


def _to_path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


@attrs.define
class FilePersister:
    """Keeps the state of each partition in a file of its own, durably, in one directory.

    Files are replaced as a whole and flushed to the disk, so a crash at any moment leaves the old
    state or the new one. Directory and files are readable by their owner alone. All nodes of a
    partition must use the same directory, and so be on one host: otherwise see `BrokerPersister`.

    Args:
        path: The directory, made when it does not exist. Default: with RabbitMQ a directory of
            this cluster under the user's state directory; an embedded broker keeps the state
            itself, beside its jobs.
    """

    path: Path | None = attrs.field(default=None, converter=_to_path)
    _prefix: str = attrs.field(default="", init=False, repr=False)
    _files: dict[str, StateFile] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    _threads: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(_MOST_THREADS), init=False, eq=False, repr=False
    )

    @property
    def stays_on_host(self) -> bool:
        """Whether nodes on other hosts cannot reach the state."""
        return True

    def scoped(self, prefix: str) -> FilePersister:
        """Return a persister over the same directory that keeps clusters apart.

        It is another owner of the files than this one.
        """
        other = FilePersister(self.path)
        other._prefix = prefix
        return other

    async def load(self, partition: str) -> bytes | None:
        """Return what is kept for the partition, and take the file over from whoever wrote it.

        Raises:
            PersisterError: The file or its directory cannot be read or written.
        """
        file = self._file(partition)
        async with file.locked():
            return await self._in_thread(file.take_over)

    async def save(self, partition: str, data: bytes) -> None:
        """Replace what is kept for the partition.

        Raises:
            PersisterError: The file cannot be written, or was taken over by another process.
        """
        file = self._file(partition)
        temporary = await self._in_thread(lambda: file.write_temporary(data))
        try:
            async with file.locked():
                await self._in_thread(lambda: file.replace(temporary))
        finally:
            temporary.unlink(missing_ok=True)

    async def append(self, partition: str, data: bytes) -> None:
        """Add to what is kept for the partition.

        Raises:
            PersisterError: The file cannot be written, or was taken over by another process.
        """
        file = self._file(partition)
        await self._in_thread(lambda: file.append(data))

    async def set_aside(self, partition: str, data: bytes) -> str:
        """Keep what was loaded and makes no sense under another name; return the path.

        Raises:
            PersisterError: It cannot be written.
        """
        file = self._file(partition)
        return str(await self._in_thread(lambda: file.set_aside(data)))

    def close(self, partition: str) -> None:
        """Close the partition's file; to go on with it, `load` again."""
        file = self._files.pop(partition, None)
        if file is not None:
            file.close()

    def _file(self, partition: str) -> StateFile:
        if partition not in self._files:
            directory = default_directory() if self.path is None else self.path
            path = directory.absolute() / file_name(self._prefix, partition)
            self._files[partition] = StateFile(path)
        return self._files[partition]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)
