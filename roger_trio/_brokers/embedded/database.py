"""The database behind the embedded broker: its schema, and what is checked before it is used."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Final

from ..base import ConnectionRefused

APPLICATION_ID: Final = 0x726F6772
"""Marks a SQLite file as ours: ``rogr``."""
SCHEMA_VERSION: Final = 1
_OLDEST_SQLITE: Final = (3, 35, 0)
"""The first one with ``RETURNING``."""
_BUSY_TIMEOUT_MS: Final = 30_000

_SCHEMA: Final = """
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    single_active INTEGER NOT NULL,
    spec TEXT NOT NULL
);
CREATE TABLE channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL
);
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    UNIQUE (queue, channel)
);
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
"""


def open_memory() -> sqlite3.Connection:
    """Open a database that ends with its connection."""
    _check_library()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _create(connection)
    return connection


def open_file(path: str) -> sqlite3.Connection:
    """Open or create a durable database, readable by its owner alone.

    Commits are in the write-ahead log and synced before they return (``synchronous=FULL``), so
    what was committed survives ``kill -9`` and power loss.

    Args:
        path: The file.

    Raises:
        ConnectionRefused: It is not a database of ours, of a newer version, or not writable.
    """
    _check_library()
    try:
        return _open_file(path)
    except sqlite3.Error as exc:
        raise ConnectionRefused(f"sqlite:{path}: {exc}") from exc
    except OSError as exc:
        raise ConnectionRefused(f"sqlite:{path}: {exc.strerror or exc}") from exc


def _open_file(path: str) -> sqlite3.Connection:
    # Made here for the sake of its mode. A file that is there must not be opened and closed by
    # anybody but SQLite: that would let go the locks this process may already have on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_TIMEOUT_MS / 1000, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        _adopt(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _adopt(connection: sqlite3.Connection, path: str) -> None:
    """Make the schema in an empty file; refuse what is not ours, or too new for us."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not application:
        _create(connection)
    elif application != APPLICATION_ID:
        raise ConnectionRefused(
            f"sqlite:{path}: expected a database of roger_trio, got another program's"
        )
    elif version != SCHEMA_VERSION:
        raise ConnectionRefused(
            f"sqlite:{path}: expected schema version {SCHEMA_VERSION}, got {version}: "
            "it was made by a newer roger_trio; upgrade this one"
        )


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
