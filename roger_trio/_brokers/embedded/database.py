"""The database behind the embedded broker: its schema, and what is checked before it is used."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from typing import Final

from ..base import ConnectionLost, ConnectionRefused
from .clock import SharedClock
from .runner import LOCKED, is_locked

APPLICATION_ID: Final = 0x726F6772
"""Marks a SQLite file as ours: ``rogr``."""
SCHEMA_VERSION: Final = 1
_OLDEST_SQLITE: Final = (3, 35, 0)
"""The first one with ``RETURNING``."""
_BUSY_TIMEOUT: Final = 0.25
"""Seconds that SQLite itself waits for a lock, deaf to all else; who asked waits longer."""
_PATIENCE: Final = 0.5
"""Seconds that opening waits for others who open it at the same time; who asked waits longer."""
_RETRY: Final = 0.02
_LOG_LIMIT: Final = 64 * 1024 * 1024
"""Bytes the write-ahead log is cut to after it has been larger."""
_MODE: Final = 0o600

_creating = threading.Lock()
"""Held until SQLite has the file open: see `_make_file`."""

_SCHEMA: Final = """
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    single_active INTEGER NOT NULL,
    takes_delayed INTEGER NOT NULL DEFAULT 0,
    spec TEXT NOT NULL
);
CREATE TABLE channels (
    id INTEGER PRIMARY KEY,
    process TEXT NOT NULL
);
CREATE INDEX channels_of ON channels (process);
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    UNIQUE (queue, channel)
);
CREATE INDEX consumed_by ON consumers (channel);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    channel INTEGER,
    deliveries INTEGER NOT NULL DEFAULT 0,
    message_id TEXT NOT NULL,
    headers TEXT,
    body BLOB NOT NULL
);
CREATE INDEX ready ON messages (queue, id) WHERE channel IS NULL;
CREATE INDEX on_loan ON messages (channel) WHERE channel IS NOT NULL;
CREATE TABLE delayed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    due REAL NOT NULL,
    queue INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    headers TEXT,
    body BLOB NOT NULL
);
CREATE INDEX due ON delayed (due, id);
CREATE TABLE listeners (
    topic TEXT NOT NULL,
    process TEXT NOT NULL,
    PRIMARY KEY (topic, process)
) WITHOUT ROWID;
CREATE TABLE broadcasts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL,
    topic TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX waiting ON broadcasts (process, id);
CREATE TABLE clock (
    boot TEXT PRIMARY KEY,
    ahead REAL NOT NULL
);
"""


def open_memory() -> sqlite3.Connection:
    """Open a database that ends with its connection."""
    _check_library()
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _create(connection)
    return connection


def open_file(path: str, clock: SharedClock) -> sqlite3.Connection:
    """Open or create a durable database, readable by its owner alone.

    Commits are in the write-ahead log and synced before they return (``synchronous=FULL``), so
    what was committed survives ``kill -9`` and power loss.

    Args:
        path: The file.
        clock: Is told the database's time.

    Raises:
        ConnectionRefused: It is not a database of ours, of a newer version, or not writable.
        ConnectionLost: Another process keeps us from it for now.
    """
    _check_library()
    try:
        with _creating:
            _make_file(path)
            connection = _connect(path)
        try:
            _prepare(connection, path, clock)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        if is_locked(exc):
            raise ConnectionLost(LOCKED) from exc
        raise ConnectionRefused(f"sqlite:{path}: {exc}") from exc
    except OSError as exc:
        raise ConnectionRefused(f"sqlite:{path}: {exc.strerror or exc}") from exc
    return connection


def _make_file(path: str) -> None:
    """Make the file, for the sake of its mode, which SQLite gives to those beside it too.

    A file that is there must not be opened and closed by anybody but SQLite: that would let go
    the locks this process may have on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_TIMEOUT, check_same_thread=False
    )
    connection.execute("PRAGMA user_version")  # SQLite opens the file when it first reads it.
    return connection


def _prepare(connection: sqlite3.Connection, path: str, clock: SharedClock) -> None:
    """Make sure that it is ours before anything of it is changed; then set it up."""
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            check_ours(connection, path)
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise ConnectionRefused(f"sqlite:{path}: the file system bears no write-ahead log")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
            connection.execute("BEGIN IMMEDIATE")
            if not _is_ours(connection, path):
                _create(connection)
            clock.synchronise(connection)
            connection.execute("COMMIT")
            return
        except sqlite3.OperationalError as exc:
            # Several that open a new file at once are in each other's way, for a moment.
            if not is_locked(exc) or time.monotonic() > patience:
                raise
            time.sleep(_RETRY)  # noqa: TID251 -- this is a thread's


def check_ours(connection: sqlite3.Connection, path: str) -> None:
    """Check that it is ours or empty, at one moment: another process may be making it now."""
    connection.execute("BEGIN")
    try:
        _is_ours(connection, path)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _is_ours(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether it is a database of ours, or False if it is empty.

    Raises:
        ConnectionRefused: It is neither, or of another version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not application:
        return False
    if application != APPLICATION_ID:
        raise ConnectionRefused(
            f"sqlite:{path}: expected a database of roger_trio, got another program's"
        )
    if version != SCHEMA_VERSION:
        raise ConnectionRefused(
            f"sqlite:{path}: expected schema version {SCHEMA_VERSION}, got {version}: "
            "it was made by another version of roger_trio"
        )
    return True


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_library() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        oldest = ".".join(map(str, _OLDEST_SQLITE))
        raise ConnectionRefused(
            f"sqlite: expected SQLite {oldest} or newer, got {sqlite3.sqlite_version}"
        )
