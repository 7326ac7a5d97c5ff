"""What is found out about the file of an embedded broker, and what it means."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import roger_trio as roger
from roger_trio._brokers.base import QueueSpec
from roger_trio._brokers.embedded.clock import SharedClock
from roger_trio._brokers.embedded.database import open_file
from roger_trio._brokers.embedded.open import open_sqlite_broker
from roger_trio._brokers.embedded.probe import FileFacts, file_system, probe
from roger_trio._doctor import state
from roger_trio._doctor.embedded import judge
from roger_trio._doctor.findings import Finding, Level

WELL = FileFacts(
    path="/srv/roger.db", exists=True, mode=0o600, size=4096, journal="wal", free=10 * 1024**3,
    file_system="ext4", processes=1,
)  # fmt: skip


def judged(facts: FileFacts, id: str) -> Finding:
    """Return the one finding of an id."""
    (found,) = (each for each in judge(facts) if each.id == id)
    return found


def test_all_is_well() -> None:
    """A file that has all that is needed is found well."""
    findings = judge(WELL)
    assert {each.level for each in findings} == {Level.OK}
    assert [each.id for each in findings] == [
        "file.access", "file.lock", "file.journal", "file.integrity", "file.mode",
        "file.processes", "file.disk", "file.system",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "changes", "level"),
    [
        ("file.access", {"problem": "no"}, "error"),
        ("file.lock", {"is_locked": True}, "error"),
        ("file.journal", {"journal": "delete"}, "error"),
        ("file.integrity", {"damage": "row 1 missing"}, "error"),
        ("file.integrity", {"damage": None}, "warning"),
        ("file.mode", {"mode": 0o640}, "warning"),
        ("file.disk", {"free": 64 * 1024**2 - 1}, "error"),
        ("file.disk", {"free": 1024**3 - 1}, "warning"),
        ("file.system", {"file_system": "nfs4"}, "error"),
        ("file.system", {"file_system": "overlay"}, "warning"),
        ("file.system", {"file_system": "tmpfs"}, "warning"),
    ],
)
def test_trouble_is_found(id: str, changes: dict[str, Any], level: str) -> None:
    """What is not as it should be is found at its level, and what to do is said."""
    found = judged(attrs.evolve(WELL, **changes), id)
    assert found.level.value == level
    assert found.advice


def test_what_dead_processes_left() -> None:
    """It is no trouble: the next that uses the file takes it back."""
    found = judged(attrs.evolve(WELL, processes=0, dead=2), "file.processes")
    assert found.level is Level.OK
    assert "2 dead" in found.found


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "no process uses it"), (1, "1 process uses it now"), (2, "2 processes use it now")],
)
def test_how_many_processes_use_it(count: int, words: str) -> None:
    """It is said in good English."""
    assert judged(attrs.evolve(WELL, processes=count), "file.processes").found == words


# The probe...

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody else")


@contextmanager
def kept_out_of(folder: Path) -> Generator[None]:
    """Be somebody who may not enter a folder."""
    folder.chmod(0o700)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_in_use(tmp_path: Path) -> None:
    """Of a broker's file it is told how it journals, that it is whole, and who uses it."""
    path = str(tmp_path / "roger.db")
    broker = open_sqlite_broker(path)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare([QueueSpec(name="q")])
            facts = await trio.to_thread.run_sync(lambda: probe(path, patience=10))
            nursery.cancel_scope.cancel()
    assert (facts.exists, facts.problem, facts.damage) == (True, "", "")
    assert (facts.journal, facts.mode, facts.processes, facts.dead) == ("wal", 0o600, 1, 0)
    assert facts.size > 4096
    assert facts.free > 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is not made, and found well: the first node makes it."""
    facts = probe(str(tmp_path / "roger.db"), patience=1)
    assert (facts.exists, facts.problem) == (False, "")
    assert list(tmp_path.iterdir()) == []
    assert judged(facts, "file.access").level is Level.OK


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Its name is in the finding."""
    facts = probe(str(tmp_path / "none" / "roger.db"), patience=1)
    assert str(tmp_path / "none") in facts.problem
    assert [each.id for each in judge(facts)] == ["file.access"]


def test_another_programs_file(tmp_path: Path) -> None:
    """A database that is not ours is left alone, and said to be."""
    path = tmp_path / "other.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    facts = probe(str(path), patience=1)
    assert "another program's" in facts.problem


@pytest.mark.parametrize(("journal", "id"), [("wal", "file.lock"), ("delete", "file.access")])
def test_a_file_that_is_locked(tmp_path: Path, journal: str, id: str) -> None:
    """Another process that does not let go of it is an error, and what to do about it is said."""
    path = tmp_path / "roger.db"
    open_file(str(path), SharedClock()).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("BEGIN EXCLUSIVE")
        facts = probe(str(path), patience=10)
        other.execute("ROLLBACK")
    found = judged(facts, id)
    assert facts.is_locked
    assert found.level is Level.ERROR
    assert "let that" in f"{found.found} {found.advice}"
    assert not probe(str(path), patience=10).is_locked


@as_root
def test_a_file_in_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    """The folder that keeps us out is named."""
    (tmp_path / "sub").mkdir()
    with kept_out_of(tmp_path):
        facts = probe(str(tmp_path / "sub" / "roger.db"), patience=1)
    assert [(each.id, each.level) for each in judge(facts)] == [("file.access", Level.ERROR)]
    assert f"{tmp_path / 'sub'}: Permission denied" in facts.problem


@as_root
def test_a_state_directory_that_may_not_be_reached(tmp_path: Path) -> None:
    """It cannot be written to, and why is said."""
    (tmp_path / "sub").mkdir()
    persister = roger.FilePersister(tmp_path / "sub" / "state")
    with kept_out_of(tmp_path):
        facts = state.look(roger.Config(broker="amqp://localhost", persister=persister))
    [found] = state.judge(facts, (), is_shared=True)
    assert found.level is Level.ERROR
    assert "Permission denied" in found.found


async def test_a_damaged_file(tmp_path: Path) -> None:
    """Damage in the middle of the file is found."""
    path = tmp_path / "roger.db"
    broker = open_sqlite_broker(str(path))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare([QueueSpec(name=f"q{number}") for number in range(200)])
            nursery.cancel_scope.cancel()
    content = bytearray(path.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[page : page + 8] = b"\xff" * 8  # The head of the second page, a table's.
    path.write_bytes(content)
    facts = probe(str(path), patience=10)
    assert facts.damage or "malformed" in facts.problem
    assert Level.ERROR in {each.level for each in judge(facts)}


def test_a_check_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, which is told as what it is."""
    path = tmp_path / "roger.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (x)")
    database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO t SELECT hex(randomblob(50)) FROM n"
    )
    database.commit()
    database.execute(f"PRAGMA application_id = {0x726F6772}")
    database.execute("PRAGMA user_version = 1")
    database.close()
    assert probe(str(path), patience=-1).damage is None
    assert probe(str(path), patience=60).damage == ""


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / {tmp} rw shared:2 - tmpfs tmpfs rw
31 30 0:26 / {tmp}/with\\040space rw - nfs4 host:/x rw
"""


def test_the_file_system_is_the_nearest_mount(tmp_path: Path) -> None:
    """Of nested mounts the innermost counts; a space in its name is understood."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(tmp=tmp_path))
    (tmp_path / "with space").mkdir()
    assert file_system(tmp_path / "x.db", mounts) == "tmpfs"
    assert file_system(tmp_path / "with space" / "x.db", mounts) == "nfs4"
    assert file_system(Path("/x.db"), mounts) == "ext4"
    assert file_system(tmp_path / "x.db", tmp_path / "none") == ""
