"""State in files: what crashes, full disks and other processes do to it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from roger_trio._errors import PersisterError
from roger_trio._persisters import FilePersister
from roger_trio._persisters.file import default_directory, file_name
from roger_trio._persisters.statefile import _explain
from roger_trio._state.changes import Paused
from roger_trio._state.store import Store
from tests.conformance.kit import PATIENCE
from tests.persisters.keeper import PARTITION, queue_name

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
NAMES = [
    *["myapp", "MYAPP", "a/b", "a_b", "..", ".", "../../etc/passwd", "ein Kunde", "🧀" * 30],
    *["x" * 120, "x" * 119, "-rf", "nul:", "*", "~", "a\\b", "Ünïcode"],
]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@asynccontextmanager
async def keeper(directory: Path, size: int) -> AsyncIterator[trio.Process]:
    """Run a program that saves all the time; it is killed at the end."""
    command = [sys.executable, "-m", "tests.persisters.keeper", str(directory), str(size)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def read_lines(process: trio.Process, count: int) -> list[str]:
    """Read what a program writes until there are so many lines, or it has ended."""
    assert process.stdout is not None
    found = b""
    while found.count(b"\n") < count:
        more = await process.stdout.receive_some()
        if not more:
            break
        found += more
    return found.decode().splitlines()


def only_file(directory: Path) -> Path:
    """Return the file of state, which is alone but for its lock."""
    [path] = [path for path in directory.iterdir() if path.suffix != ".lock"]
    assert path.suffix == ".state"
    return path


def found(directory: Path, pattern: str) -> list[Path]:
    """Return what there is of a kind."""
    return sorted(directory.glob(pattern))


def test_file_names_are_safe() -> None:
    """For any partition: plain ASCII, short, not hidden, and no two the same."""
    names = [file_name(prefix, name) for name in NAMES for prefix in ("", "a-")]
    names += [file_name("a-b", "c"), file_name("a", "-bc"), file_name("", "a-bc")]
    for name in names:
        assert name.replace("_", "x").replace("-", "x").removesuffix(".state").isalnum()
        assert name.isascii()
        assert len(name) < 100
    assert len({name.lower() for name in names}) == len(names)


async def test_any_partition_has_a_file(tmp_path: Path) -> None:
    """All in the one directory, whatever they are called."""
    persister = FilePersister(tmp_path / "state")
    with trio.fail_after(PATIENCE):
        for name in NAMES:
            assert await persister.load(name) is None
            await persister.save(name, name.encode())
        for name in NAMES:
            assert await FilePersister(tmp_path / "state").load(name) == name.encode()
    assert found(tmp_path, "*") == [tmp_path / "state"]


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """Directory and files are their owner's alone, whatever the umask."""
    before = os.umask(0)
    try:
        persister = FilePersister(tmp_path / "new" / "state")
        await persister.load("p")
        await persister.save("p", b"x")
        await persister.set_aside("p", b"y")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new" / "state").iterdir()} == {
        0o600
    }


async def test_nothing_else_is_left_behind(tmp_path: Path) -> None:
    """However often it is loaded and saved; what a crash left goes with the next load."""
    for _ in range(3):
        persister = FilePersister(tmp_path)
        await persister.load("p")
        await persister.save("p", b"x")
        await persister.append("p", b"y")
        path = only_file(tmp_path)
        path.with_name(path.name + ".new-0123").write_bytes(b"crashed")
        assert await persister.load("p") == b"xy"
        only_file(tmp_path)


@pytest.mark.parametrize("moved", [False, True])
async def test_a_crash_while_taking_over(tmp_path: Path, moved: bool) -> None:
    """At no moment of a take-over is there no state; a leftover of one does no harm."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    await persister.save("p", b"kept")
    path = only_file(tmp_path)
    former = path.with_name(path.name + ".former")
    if moved:
        path.rename(former)
    else:
        former.write_bytes(b"old")
    assert await FilePersister(tmp_path).load("p") == b"kept"
    assert only_file(tmp_path).read_bytes() == b"kept"


async def test_a_full_disk_leaves_no_half_of_an_append(tmp_path: Path) -> None:
    """What was written of it is cut off; the next one stands behind what was there before."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    await persister.save("p", b"x" * (MIB - 10))
    with room_for(MIB), pytest.raises(PersisterError) as caught:
        await persister.append("p", b"y" * 20)
    message = str(caught.value)
    assert message.startswith(f"{only_file(tmp_path)}: there must be room to write the state (")
    assert "free some" in message
    await persister.append("p", b"z")
    assert await FilePersister(tmp_path).load("p") == b"x" * (MIB - 10) + b"z"


async def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    """A save that does not fit changes nothing, and leaves nothing."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    await persister.save("p", b"old")
    with room_for(MIB), pytest.raises(PersisterError, match="there must be room"):
        await persister.save("p", b"x" * (2 * MIB))
    assert only_file(tmp_path).read_bytes() == b"old"
    await persister.save("p", b"new")
    assert await FilePersister(tmp_path).load("p") == b"new"


@pytest.mark.parametrize("below", ["", "deeper"])
async def test_the_path_is_a_file(tmp_path: Path, below: str) -> None:
    """The error names the path, the rule and what to do."""
    (tmp_path / "state").write_text("a letter")
    persister = FilePersister(tmp_path / "state" / below)
    with pytest.raises(PersisterError) as caught:
        await persister.load("p")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "state" / below / file_name("", "p")))
    assert "to be a directory" in message
    assert "choose another path" in message


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (errno.EACCES, "a directory /d that this user may write to (Permission denied)"),
        (errno.EROFS, "a directory /d that this user may write to (Read-only file system)"),
        (errno.ENOSPC, "room to write the state (No space left on device)"),
        (errno.EIO, "cannot read or write the state (Input/output error): check /d"),
    ],
)
def test_every_error_says_what_to_do(number: int, rule: str) -> None:
    """Whatever the system says no with."""
    text = _explain(OSError(number, os.strerror(number)), Path("/d/f"))
    assert rule in text
    assert "choose another path" in text


async def test_another_process_holds_the_lock(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It is waited for, but not without end; then the error names the lock."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    [lock] = found(tmp_path, "*.lock")
    with lock.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PersisterError, match="has held this lock for 10 s") as caught:
            await persister.load("p")
        assert str(lock) in str(caught.value)
    assert await persister.load("p") is None


async def test_two_fresh_ones_cannot_both_begin(tmp_path: Path) -> None:
    """Of two that found nothing, the first one to save has it."""
    one, two = FilePersister(tmp_path), FilePersister(tmp_path)
    await one.load("p")
    await two.load("p")
    await one.save("p", b"one")
    with pytest.raises(PersisterError, match="taken over"):
        await two.save("p", b"two")
    assert await FilePersister(tmp_path).load("p") == b"one"


async def test_a_file_that_was_removed(tmp_path: Path) -> None:
    """It is not quietly made anew: whoever removed it may want it to be forgotten."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    await persister.save("p", b"x")
    only_file(tmp_path).unlink()
    with pytest.raises(PersisterError, match="or was removed"):
        await persister.append("p", b"y")
    assert await persister.load("p") is None
    await persister.save("p", b"z")
    assert await FilePersister(tmp_path).load("p") == b"z"


async def test_damaged_state_is_kept_beside(tmp_path: Path) -> None:
    """Under a new name each time, which the log can tell."""
    persister = FilePersister(tmp_path)
    paths = [await persister.set_aside("p", data) for data in (b"one", b"two")]
    kept = found(tmp_path, "*.damaged-*")
    assert [str(path) for path in kept] == paths
    assert [path.read_bytes() for path in kept] == [b"one", b"two"]
    assert [path.rpartition(".")[2] for path in paths] == ["damaged-1", "damaged-2"]


async def test_a_closed_file_has_to_be_loaded(tmp_path: Path) -> None:
    """Closing lets go of the file; another load goes on."""
    persister = FilePersister(tmp_path)
    await persister.load("p")
    await persister.save("p", b"x")
    persister.close("p")
    persister.close("p")
    with pytest.raises(PersisterError, match="save the state before adding to it"):
        await persister.append("p", b"y")
    assert await persister.load("p") == b"x"


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is where the user's programs keep their state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert default_directory() == tmp_path / "roger_trio"


@pytest.mark.parametrize("size", [10, 60_000], ids=["appends", "appends and whole saves"])
async def test_a_killed_process_loses_nothing_it_has_saved(tmp_path: Path, size: int) -> None:
    """Killed at any moment, it leaves all that was saved, and at most one save more."""
    saved: set[str] = set()
    with trio.fail_after(80):
        for lines in (1, 2, 7, 40):
            async with keeper(tmp_path, size) as process:
                told = await read_lines(process, lines)
                process.kill()
                told += await read_lines(process, 10**9)
                pid = process.pid
            saved |= {queue_name(pid, number, size) for number in range(len(told))}
            ledger = await Store(FilePersister(tmp_path), PARTITION).load()
            paused = set(ledger._memory.paused)
            assert saved <= paused
            assert len(paused - saved) <= 1
            saved = paused
    assert found(tmp_path, "*.damaged-*") == []


async def test_a_frozen_process_that_was_superseded_is_refused(tmp_path: Path) -> None:
    """It wakes up, saves, and finds out; what its successor saved stays as it is."""
    with trio.fail_after(60):
        async with keeper(tmp_path, 10) as process:
            await read_lines(process, 3)
            process.send_signal(signal.SIGSTOP)
            store = Store(FilePersister(tmp_path), PARTITION)
            ledger = await store.load()
            process.send_signal(signal.SIGCONT)
            told = await read_lines(process, 10**9)
            assert "taken over by another process" in told[-1]
            change = Paused("mine")
            ledger.apply(change)
            await store.save(ledger, [change])
        assert await Store(FilePersister(tmp_path), PARTITION).load() == ledger
