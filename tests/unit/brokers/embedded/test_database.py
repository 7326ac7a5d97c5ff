"""Opening a file: what is made, and what is refused without being touched."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from roger_trio._brokers.base import ConnectionLost, ConnectionRefused
from roger_trio._brokers.embedded.clock import SharedClock
from roger_trio._brokers.embedded.database import SCHEMA_VERSION, open_file


def opened(path: Path) -> sqlite3.Connection:
    """Open a file."""
    return open_file(str(path), SharedClock())


def refused(path: Path) -> str:
    """Return in which words a file is refused; it is left as it was, and so is its folder."""
    before = fingerprint(path)
    with pytest.raises(ConnectionRefused) as caught:
        opened(path)
    assert fingerprint(path) == before
    words = str(caught.value)
    assert words.startswith(f"sqlite:{path}: ")
    assert "\n" not in words
    return words.removeprefix(f"sqlite:{path}: ")


def fingerprint(path: Path) -> tuple[str, list[str]]:
    """Return what tells whether a file or its folder has been changed."""
    content = path.read_bytes() if path.is_file() else b""
    names = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    return hashlib.sha256(content).hexdigest(), names


def test_another_programs_database(tmp_path: Path) -> None:
    """A database of another program is refused, and stays as it is: journal mode and all."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE jobs (id)")
    connection.close()
    assert refused(path) == "expected a database of roger_trio, got another program's"


def test_a_newer_schema(tmp_path: Path) -> None:
    """A database of a newer version is refused, and both versions are named."""
    path = tmp_path / "new.db"
    connection = opened(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    words = refused(path)
    assert f"expected schema version {SCHEMA_VERSION}, got {SCHEMA_VERSION + 1}" in words


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no SQLite database is refused."""
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    assert refused(path) == "file is not a database"


def test_a_folder(tmp_path: Path) -> None:
    """A folder is refused."""
    assert refused(tmp_path) == "unable to open database file"


def test_a_missing_folder(tmp_path: Path) -> None:
    """A path in a folder that is not there is refused; the folder is not made."""
    assert refused(tmp_path / "no" / "roger.db") == "No such file or directory"


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """An empty file, as ``touch`` makes it, is nobody's, and becomes ours."""
    path = tmp_path / "roger.db"
    path.touch()
    opened(path).close()
    opened(path).close()


def test_the_files_are_private(tmp_path: Path) -> None:
    """Whatever the umask: the database and the files beside it are their owner's alone."""
    umask = os.umask(0)
    try:
        connection = opened(tmp_path / "roger.db")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
        connection.close()
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("roger.db", "roger.db-wal", "roger.db-shm"), 0o600)


def test_it_is_durable(tmp_path: Path) -> None:
    """Commits are synced: the promise stands on these two settings."""
    connection = opened(tmp_path / "roger.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


def test_a_locked_file_is_not_refused(tmp_path: Path) -> None:
    """Another process has it now: that is told soon, as something that passes."""
    path = tmp_path / "roger.db"
    opened(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for kind in ("IMMEDIATE", "EXCLUSIVE"):
            other.execute(f"BEGIN {kind}")
            began = time.monotonic()
            with pytest.raises(ConnectionLost, match="locked by another process: let that one go"):
                opened(path)
            assert time.monotonic() - began < 5
            other.execute("ROLLBACK")
    opened(path).close()


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Many that find no file there make one together."""
    path = tmp_path / "roger.db"
    failures: list[Exception] = []

    def work() -> None:
        try:
            while True:
                try:
                    return opened(path).close()
                except ConnectionLost:  # The others take long; who asked tries again.
                    pass
        except Exception as exc:  # noqa: BLE001 -- for the assertion
            failures.append(exc)

    code = (
        "import sys; from roger_trio._brokers.embedded.database import open_file\n"
        "from roger_trio._brokers.embedded.clock import SharedClock\n"
        "from roger_trio._brokers.base import ConnectionLost\n"
        "while True:\n"
        "    try: open_file(sys.argv[1], SharedClock()).close()\n"
        "    except ConnectionLost: continue\n"
        "    break\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(4)]
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0] * 4
    assert failures == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody else")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_read_only(tmp_path: Path, what: str) -> None:
    """A file, or a folder, that may only be read is refused with the system's words."""
    folder = tmp_path / "shared"
    folder.mkdir()
    path = folder / "roger.db"
    opened(path).close()
    path.chmod(0o444 if what == "file" else 0o666)
    folder.chmod(0o777 if what == "file" else 0o555)
    code = (
        "import os, sys; from roger_trio._brokers.embedded.database import open_file; "
        "from roger_trio._brokers.embedded.clock import SharedClock; "
        "from roger_trio._brokers.base import ConnectionRefused\n"
        "os.setuid(65534)\n"
        "try: open_file('roger.db', SharedClock())\n"
        "except ConnectionRefused as exc: print(exc)"
    )
    # Its path: the tests' own folder is closed to others.
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout in {
        "sqlite:roger.db: attempt to write a readonly database\n",
        "sqlite:roger.db: unable to open database file\n",
    }


ROOT = Path(__file__).parents[4]


def test_an_old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite that cannot do what is needed is refused, and both versions are named."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(ConnectionRefused, match=r"3\.35\.0 or newer, got 3\.34\.1"):
        opened(tmp_path / "roger.db")
