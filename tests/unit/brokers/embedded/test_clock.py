"""The clock that delays in a file run by."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import pytest

from roger_trio._brokers.embedded import clock as module
from roger_trio._brokers.embedded.clock import SharedClock
from roger_trio._brokers.embedded.database import open_memory


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """Yield a database."""
    connection = open_memory()
    yield connection
    connection.close()


def in_tune(database: sqlite3.Connection) -> SharedClock:
    """Return a clock that runs by the database's time."""
    clock = SharedClock()
    clock.synchronise(database)
    return clock


def test_it_begins_as_the_wall_clock(database: sqlite3.Connection) -> None:
    """The first process after a start of the machine takes the wall clock over."""
    assert in_tune(database).now() == pytest.approx(time.time(), abs=1.0)


def test_setting_the_wall_clock_moves_no_delay(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the wall clock is set, clocks that run go on, and new ones agree with them."""
    first = in_tune(database)
    before = first.now()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert first.now() == pytest.approx(before, abs=1.0)
    assert in_tune(database).now() == pytest.approx(before, abs=1.0)


def test_a_start_of_the_machine_takes_the_wall_clock_anew(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start the time since then has begun anew, and the wall clock says what it is."""
    in_tune(database)
    monkeypatch.setattr(module, "_boot_id", lambda: "another")
    monkeypatch.setattr(module, "_uptime", lambda: 3.0)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert in_tune(database).now() == 1000.0
    assert database.execute("SELECT boot FROM clock").fetchall() == [("another",)]


def test_without_a_boot_id_it_is_the_wall_clock(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that does not tell its starts apart has the wall clock."""
    monkeypatch.setattr(module, "_boot_id", lambda: None)
    monkeypatch.setattr(time, "time", lambda: 7.0)
    assert in_tune(database).now() == 7.0
