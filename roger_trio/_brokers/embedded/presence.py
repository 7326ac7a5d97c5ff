"""Which processes use a database now, and how one wakes another.

Each process keeps a lock on a file of its own, which the system lets go when the process dies,
however it dies; and it reads a named pipe, into which others write a byte when there is something
to do for it. The others notice when nobody reads a pipe any more, and then look at the lock. So a
dead process is known at once, a living one is never taken for dead however long it is silent, and
waiting costs nothing.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final, NoReturn, Protocol

import trio

from .deathwatch import Deathwatch

_LOCK: Final = ".lock"
_PIPE: Final = ".wake"
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC
_SCRAP: Final = 4096
_INTERVAL: Final = 0.25
"""Seconds between two looks for the dead, should nobody notice one."""
_DYING: Final = 0.002
"""Seconds between two looks at a process that has lost its pipe and not yet its lock."""
_LOOKS_AT_DYING: Final = 10

logger = logging.getLogger(__name__)

_held: set[int] = set()
"""Our locks and pipes. A forked child gets them too, and would keep them when we are dead."""


def _let_go_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class Presence(Protocol):
    """This broker among those that use the same database."""

    @property
    def name(self) -> str:
        """What the others know this one by."""
        ...

    def enter(self, on_woken: Callable[[], None]) -> None:
        """Be present; `on_woken` is called when another wakes this one."""
        ...

    def leave(self, *, is_clean: bool) -> None:
        """Be gone; if not clean, the others find this one dead and clean up."""
        ...

    async def listen(self) -> NoReturn:
        """Wait for the others' calls."""
        ...

    def wake(self, processes: Iterable[str]) -> None:
        """Wake others. Never raises."""
        ...

    def wake_all(self) -> None:
        """Wake all others. Never raises."""
        ...

    async def wait_death(self) -> None:
        """Wait until another may have died, and at most until it is time to look anyway."""
        ...

    def lives(self, process: str) -> bool:
        """Tell whether a process lives, frozen or not. Never raises."""
        ...

    def find_dead(self, processes: Iterable[str]) -> list[str]:
        """Return those that do not live any more: of `processes`, and of those that left files."""
        ...

    def bury(self, process: str) -> None:
        """Remove what a dead one left behind."""
        ...

    def renew(self) -> bool:
        """Be found by the others again; return whether they could not find this one."""
        ...


class FilePresence:
    """This process among those that use one database file.

    Args:
        database: The file; the files of the processes lie in a folder beside it.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._file = self._folder = Path()
        self._identity = (0, 0)
        self.name = f"{os.getpid()}-{token_hex(4)}"
        self._lock = -1
        self._pipe = -1
        self._known: dict[str, int] = {}
        self._deathwatch = Deathwatch()
        self._unwoken: set[str] = set()
        self._on_woken: Callable[[], None] = lambda: None

    # Ourselves...

    def enter(self, on_woken: Callable[[], None]) -> None:
        """Be present; `on_woken` is called when another wakes this one.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._on_woken = on_woken
        # All must meet in one folder, by whatever links they came to the file.
        self._file = Path(self._database).resolve(strict=True)
        self._identity = _identity(self._file)
        self._folder = _folder_of(self._file)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._make_files()
        except OSError:
            self.leave(is_clean=True)
            raise

    def _make_files(self) -> bool:
        """Make those of our files that are not there; return whether that were any."""
        lock, pipe = (self._folder / f"{self.name}{kind}" for kind in (_LOCK, _PIPE))
        is_locked, is_heard = _is_at(self._lock, lock), _is_at(self._pipe, pipe)
        if not is_locked:  # The first, as it tells whether we live.
            self._make_lock(lock)
        if not is_heard:
            self._make_pipe(pipe)
        return not (is_locked and is_heard)

    def _make_lock(self, path: Path) -> None:
        # Locked before it has its name, so that nobody finds it unlocked.
        scratch = self._folder / f".{self.name}"
        former, self._lock = self._lock, os.open(scratch, _OPEN | os.O_CREAT, 0o600)
        _held.add(self._lock)
        _let_go(former)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.rename(path)

    def _make_pipe(self, path: Path) -> None:
        scratch = self._folder / f".{self.name}"
        scratch.unlink(missing_ok=True)
        os.mkfifo(scratch, 0o600)
        # For reading and writing: with a writer of our own it never reports the end.
        former, self._pipe = self._pipe, os.open(scratch, _OPEN | os.O_NONBLOCK)
        _held.add(self._pipe)
        if former >= 0:
            trio.lowlevel.notify_closing(former)  # Whoever listens goes over to the new one.
            _let_go(former)
        scratch.rename(path)

    def renew(self) -> bool:
        """Make our files anew if somebody has removed them; return whether that was so.

        Without them nobody wakes us, and who comes takes us for dead.

        Raises:
            OSError: They cannot be made.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        is_renewed = self._make_files()
        if is_renewed:
            text = (
                "%s: files of this process were removed while it runs, and are made anew; others "
                "may have taken it for dead: keep what deletes old files away from that folder"
            )
            logger.warning(text, self._folder)
        return is_renewed

    def leave(self, *, is_clean: bool) -> None:
        """Be gone; if not clean, the others find this one dead and clean up."""
        for process in list(self._known):
            self._forget(process)
        self._deathwatch.close()
        if is_clean:
            _remove(self._folder, self.name)
        for descriptor in (self._pipe, self._lock):
            _let_go(descriptor)
        self._pipe = self._lock = -1

    async def listen(self) -> NoReturn:
        """Wait for the others' calls."""
        while True:
            with suppress(trio.ClosedResourceError):  # It was made anew.
                await trio.lowlevel.wait_readable(self._pipe)
            with suppress(BlockingIOError):
                while len(os.read(self._pipe, _SCRAP)) == _SCRAP:
                    pass
            self._on_woken()

    # The others...

    def wake(self, processes: Iterable[str]) -> None:
        """Wake other processes; one that is gone is passed over. Never raises."""
        for process in processes:
            if process != self.name:
                self._wake(process)

    def wake_all(self) -> None:
        """Wake all others. Never raises."""
        self.wake(_names(self._folder))

    def _wake(self, process: str) -> None:
        try:
            os.write(self._reach(process), b"\0")
        except BlockingIOError:
            pass  # Its pipe is full: it has been woken often enough.
        except OSError as exc:
            self._forget(process)
            if exc.errno not in (errno.ENXIO, errno.ENOENT, errno.EPIPE):
                logger.warning("process %s cannot be woken now: %s", process, exc)
                self._unwoken.add(process)

    def _reach(self, process: str) -> int:
        """Return the pipe of a process."""
        if process not in self._known:
            path = self._folder / f"{process}{_PIPE}"
            pipe = self._known[process] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._deathwatch.add(pipe)
        return self._known[process]

    def _forget(self, process: str) -> None:
        descriptor = self._known.pop(process, None)
        if descriptor is not None:
            self._deathwatch.remove(descriptor)
            os.close(descriptor)

    async def wait_death(self) -> None:
        """Wait until another has lost its pipe, and at most until it is time to look anyway."""
        with trio.move_on_after(_INTERVAL):
            lost = await self._deathwatch.wait()
            dying = [process for process, pipe in self._known.items() if pipe in lost]
            for process in dying:
                self._forget(process)
            # What a process had goes one by one when it dies, and its lock may be the last.
            for _ in range(_LOOKS_AT_DYING):
                if not any(map(self.lives, dying)):
                    break
                await trio.sleep(_DYING)

    def find_dead(self, processes: Iterable[str]) -> list[str]:
        """Return those that do not live any more: of `processes`, and of those that left files.

        Raises:
            OSError: It cannot be told; or the database is not the one we opened any more.
        """
        if _identity(self._file) != self._identity:
            text = "the file was removed or replaced while it was in use; restart what uses it"
            raise OSError(errno.ESTALE, text, str(self._file))
        present = _names(self._folder)
        for gone in self._known.keys() - present:
            self._forget(gone)
        unwoken, self._unwoken = self._unwoken, set()
        self.wake(unwoken)
        for new in present - self._known.keys() - {self.name}:
            with suppress(OSError):  # It is dying; or cannot be watched, and is looked at.
                self._reach(new)
        suspects = {*processes, *present} - {self.name}
        return [each for each in suspects if not self._lives(each)]

    def lives(self, process: str) -> bool:
        """Tell whether a process lives, frozen or not; if that cannot be told, it does."""
        try:
            return process == self.name or self._lives(process)
        except OSError as exc:
            logger.warning("it cannot be told whether process %s lives: %s", process, exc)
            return True

    def _lives(self, process: str) -> bool:
        return _is_locked(self._folder, process)

    def bury(self, process: str) -> None:
        """Remove the files of a process that does not live any more."""
        self._forget(process)
        _remove(self._folder, process)


class RunPresence:
    """A broker among those that share one database in memory, in one `trio.run`."""

    def __init__(self, present: dict[str, Callable[[], None]]) -> None:
        self._present = present
        self.name = token_hex(4)

    def enter(self, on_woken: Callable[[], None]) -> None:
        """Be present; `on_woken` is called when another wakes this one."""
        self._present[self.name] = on_woken

    def leave(self, *, is_clean: bool) -> None:
        """Be gone."""
        self._present.pop(self.name, None)

    async def listen(self) -> NoReturn:
        """Wait; the others call directly."""
        await trio.sleep_forever()

    def wake(self, processes: Iterable[str]) -> None:
        """Wake others."""
        for process in processes:
            if process != self.name and process in self._present:
                self._present[process]()

    def wake_all(self) -> None:
        """Wake all others."""
        self.wake(list(self._present))

    async def wait_death(self) -> None:
        """Wait for ever: they live and die together."""
        await trio.sleep_forever()

    def lives(self, process: str) -> bool:
        """Tell whether another is there."""
        return process in self._present

    def find_dead(self, processes: Iterable[str]) -> list[str]:
        """Return nobody: they live and die together."""
        return []

    def bury(self, process: str) -> None:
        """Do nothing: nobody leaves anything behind."""

    def renew(self) -> bool:
        """Do nothing: there is nothing that somebody could remove."""
        return False


def _let_go(descriptor: int) -> None:
    if descriptor >= 0:
        _held.discard(descriptor)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open file is the one that lies there."""
    if descriptor < 0:
        return False
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == _identity(path)


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def look_at_processes(database: str) -> dict[str, bool]:
    """Tell of each process that left files beside a database whether it lives.

    Without being present: for who only wants to know.

    Raises:
        OSError: It cannot be told.
    """
    folder = _folder_of(Path(database).resolve(strict=True))
    return {each: _is_locked(folder, each) for each in sorted(_names(folder))}


def _folder_of(file: Path) -> Path:
    return Path(f"{file}-processes")


def _is_locked(folder: Path, process: str) -> bool:
    """Tell whether a process lives: then it has its lock."""
    try:
        descriptor = os.open(folder / f"{process}{_LOCK}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: two that look at once must not take each other for the one they look for.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _names(folder: Path) -> set[str]:
    return {path.name.removesuffix(_LOCK) for path in folder.glob(f"*{_LOCK}")}


def _remove(folder: Path, process: str) -> None:
    for name in (f"{process}{_PIPE}", f"{process}{_LOCK}", f".{process}"):
        (folder / name).unlink(missing_ok=True)
