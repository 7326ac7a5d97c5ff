"""One file of state: replaced as a whole, appended to, and owned by one process at a time.

The owner holds the file open, so that no other file can get its inode number: as long as the path
leads to that inode, nobody has taken over. Who takes over puts a copy in its place *before* it
returns what it read; what the former owner appends to the old inode is then seen by nobody, and
that owner finds out before it reports success.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import trio

from .._errors import PersisterError

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_READ_SIZE: Final = 1024 * 1024
_LOCK_PATIENCE: Final = 10.0
_LOCK_PAUSE: Final = 0.01


class _Open:
    """An open file, closed with this object at the latest."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        """Close it; a second time does nothing."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()


class StateFile:
    """One file of state. All methods block, except `locked` and `close`.

    Args:
        path: The file, absolute.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own: _Open | None = None
        self._length = 0
        self._is_broken = False

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Keep other processes from replacing the file, for a moment."""
        name = f"{self._path}.lock"
        with self._explained():
            self._make_directory()
            lock = _Open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
        try:
            with trio.move_on_after(_LOCK_PATIENCE) as patience:
                while not _try_lock(lock.number):  # noqa: ASYNC110 - the kernel tells nobody
                    await trio.sleep(_LOCK_PAUSE)
            if patience.cancelled_caught:
                raise PersisterError(
                    f"{name}: another process has held this lock for {_LOCK_PATIENCE:g} s; it may "
                    "be stopped in the middle of writing: end it, or let it go on"
                )
            yield
        finally:
            lock.close()

    def take_over(self) -> bytes | None:
        """Read the file and become its owner; the file is locked. None: there is none."""
        self.close()
        with self._explained():
            self._remove_leftovers()
            try:
                data, former = self._move_away()
            except FileNotFoundError:
                return None
            self._become_owner(self.write_temporary(data))
            former.unlink()
            return data

    def write_temporary(self, data: bytes) -> Path:
        """Write a file that can take the place of this one; return its path."""
        temporary = self._path.with_name(f"{self._path.name}.new-{secrets.token_hex(8)}")
        with self._explained():
            self._make_directory()
            try:
                _write_new(temporary, data)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return temporary

    def replace(self, temporary: Path) -> None:
        """Put another file in the place of this one, if this is still ours; the file is locked."""
        if not self._is_ours():
            self._fail_taken_over()
        with self._explained():
            self._become_owner(temporary)

    def append(self, data: bytes) -> None:
        """Write behind what is there.

        A failure cuts off what was written of it; if that cannot be done either, the file takes
        nothing more before it has been replaced.
        """
        own = self._own
        if own is None or self._is_broken:
            raise PersisterError(f"{self._path}: save the state before adding to it")
        try:
            with self._explained():
                _write_all(own.number, data)
                os.fsync(own.number)
        except BaseException:
            self._cut_off(own)
            raise
        # Only now: until then, whoever takes over reads what was written.
        if not self._is_ours():
            self._fail_taken_over()
        self._length += len(data)

    def set_aside(self, data: bytes) -> Path:
        """Write a file beside this one that nothing will overwrite; return its path."""
        number = 1
        with self._explained():
            self._make_directory()
            while True:
                path = self._path.with_name(f"{self._path.name}.damaged-{number}")
                try:
                    _write_new(path, data)
                except FileExistsError:
                    number += 1
                else:
                    return path

    def close(self) -> None:
        """Stop being the owner."""
        own, self._own = self._own, None
        if own is not None:
            own.close()

    def _make_directory(self) -> None:
        self._path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove what a crash, or who has just been superseded, left of new files."""
        for path in self._path.parent.glob(f"{self._path.name}.new-*"):
            path.unlink(missing_ok=True)

    def _move_away(self) -> tuple[bytes, Path]:
        """Take the path from the owner, who sees it after its next write; return what it wrote.

        Raises:
            FileNotFoundError: There is no state.
        """
        former = self._path.with_name(f"{self._path.name}.former")
        # If both exist, the former is a leftover: it was copied to the path already.
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(former)
        return _read(former), former

    def _become_owner(self, temporary: Path) -> None:
        own = _Open(os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        length = os.fstat(own.number).st_size
        temporary.replace(self._path)
        _sync_directory(self._path.parent)
        self.close()
        self._own, self._length, self._is_broken = own, length, False

    def _is_ours(self) -> bool:
        """Tell whether the path leads where we wrote last; to nothing if that was nowhere."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._own is None
        if self._own is None:
            return False
        own = os.fstat(self._own.number)
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def _cut_off(self, own: _Open) -> None:
        """Cut off what a failed append left; what the disk has of it is not known."""
        with contextlib.suppress(OSError):
            os.ftruncate(own.number, self._length)
            os.fsync(own.number)
            return
        self._is_broken = True

    def _fail_taken_over(self) -> NoReturn:
        raise PersisterError(
            f"{self._path}: the state was taken over by another process, or was removed; this one "
            "has to load it again before it can save"
        )

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        """Say which file, which rule and what to do, instead of a bare `OSError`."""
        try:
            yield
        except OSError as error:
            raise PersisterError(f"{self._path}: {_explain(error, self._path)}") from error


def _explain(error: OSError, path: Path) -> str:
    reason = error.strerror or type(error).__name__
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return (
            f"there must be room to write the state ({reason}): free some, or choose another path"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"expected a directory {path.parent} that this user may write to ({reason}): change "
            "its owner or mode, or choose another path"
        )
    if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}:
        return (
            f"expected {path.parent} to be a directory, with plain files in it ({reason}): move "
            "away what is there, or choose another path"
        )
    return f"cannot read or write the state ({reason}): check {path.parent}, or choose another path"


def _try_lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes:
    own = _Open(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    try:
        parts: list[bytes] = []
        while part := os.read(own.number, _READ_SIZE):
            parts.append(part)
        return b"".join(parts)
    finally:
        own.close()


def _write_new(path: Path, data: bytes) -> None:
    own = _Open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    try:
        _write_all(own.number, data)
        os.fsync(own.number)
    finally:
        own.close()


def _write_all(number: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


def _sync_directory(path: Path) -> None:
    own = _Open(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        os.fsync(own.number)
    finally:
        own.close()
