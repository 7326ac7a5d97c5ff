"""Finding out what the file of an embedded broker is like, without changing anything in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs

from ..base import ConnectionRefused
from .database import check_ours
from .presence import look_at_processes
from .runner import LOCKED, is_locked

_MOUNTS: Final = Path("/proc/self/mountinfo")
_STEPS: Final = 10_000
"""Steps of SQLite's machine between two looks at the clock."""
_BUSY_TIMEOUT: Final = 2.0
"""Seconds that others may write without a pause."""


@attrs.frozen(kw_only=True)
class FileFacts:
    """A database file, and what it lies on."""

    path: str
    exists: bool
    problem: str = ""
    """Why it cannot be used, or made; '' if it can."""
    mode: int = 0
    """Its permission bits."""
    size: int = 0
    """Bytes, its write-ahead log included."""
    journal: str = ""
    """How SQLite journals: ``wal`` is what we need."""
    damage: str | None = ""
    """What SQLite finds wrong in it; '' if nothing, None if it did not get to the end in time."""
    free: int = 0
    """Bytes that are free where it lies."""
    file_system: str = ""
    """The type of the file system it lies on; '' if that cannot be told."""
    is_locked: bool = False
    """Whether another process kept all others from writing for as long as we looked."""
    processes: int = 0
    """Processes that use it."""
    dead: int = 0
    """Processes that died, and whose files and jobs nobody has taken back yet."""
    sqlite: str = sqlite3.sqlite_version
    """The version of the library."""


def probe(path: str, *, patience: float) -> FileFacts:
    """Find out about a file; blocks.

    Args:
        path: The database.
        patience: Seconds that checking its integrity may take.
    """
    file = Path(path).absolute()
    try:
        return _look_at(file, patience)
    except OSError as exc:  # A folder on the way there that this user may not enter, say.
        reason = f"{exc.filename or file}: {exc.strerror or exc}"
        return FileFacts(path=str(file), exists=False, problem=reason)


def _look_at(file: Path, patience: float) -> FileFacts:
    folder = file.parent
    if not folder.is_dir():
        return FileFacts(
            path=str(file), exists=False, problem=f"there is no folder {str(folder)!r}"
        )
    free, kind = shutil.disk_usage(folder).free, file_system(file)
    problem = "" if _is_writable(folder) else f"folder {str(folder)!r} cannot be written to"
    try:
        found = file.stat()
    except FileNotFoundError:
        return FileFacts(path=str(file), exists=False, problem=problem, free=free, file_system=kind)
    if not problem and not os.access(file, os.R_OK | os.W_OK):
        problem = "the file cannot be read and written by this user"
    log = Path(f"{file}-wal")
    facts = FileFacts(
        path=str(file),
        exists=True,
        problem=problem,
        mode=stat.S_IMODE(found.st_mode),
        size=found.st_size + (log.stat().st_size if log.exists() else 0),
        free=free,
        file_system=kind,
    )
    return facts if problem else _look_inside(facts, patience)


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _look_inside(facts: FileFacts, patience: float) -> FileFacts:
    try:
        processes = look_at_processes(facts.path)
        # Never made by us; and by SQLite alone opened and closed, as it wants.
        name = f"file:{quote(facts.path)}?mode=rw"
        with closing(sqlite3.connect(name, uri=True, timeout=_BUSY_TIMEOUT)) as database:
            check_ours(database, facts.path)
            is_shut = not _can_write(database)
            (journal,) = database.execute("PRAGMA journal_mode").fetchone()
            damage = _check(database, patience)
    except (ConnectionRefused, sqlite3.Error, OSError) as exc:
        is_shut = isinstance(exc, sqlite3.Error) and is_locked(exc)
        return attrs.evolve(facts, problem=LOCKED if is_shut else str(exc), is_locked=is_shut)
    living = sum(processes.values())
    return attrs.evolve(
        facts,
        is_locked=is_shut,
        journal=journal,
        damage=damage,
        processes=living,
        dead=len(processes) - living,
    )


def _can_write(database: sqlite3.Connection) -> bool:
    """Tell whether nobody keeps the lock that writing takes; nothing is written."""
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if is_locked(exc):
            return False
        raise
    database.execute("ROLLBACK")
    return True


def _check(database: sqlite3.Connection, patience: float) -> str | None:
    """Have SQLite check the file; return what is wrong, or None if that takes too long."""
    deadline = time.monotonic() + patience
    database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        raise
    finally:
        database.set_progress_handler(None, 0)
    return "" if found == "ok" else str(found)


def file_system(file: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system a file lies on; '' where the system does not say.

    Args:
        file: The file; its folder must be there.
        mounts: What the kernel mounted, as proc(5) describes ``mountinfo``.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    folder = file.parent.resolve()
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        # The last of several on one point hides the others.
        if folder.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind
