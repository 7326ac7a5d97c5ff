"""Who lives: locks and pipes, with real processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from roger_trio._brokers.embedded.presence import FilePresence, RunPresence

CHILD = """
    import sys
    from roger_trio._brokers.embedded.presence import FilePresence
    presence = FilePresence(sys.argv[1])
    presence.enter(lambda: None)
    print(presence.name, flush=True)
    sys.stdin.read()
    presence.leave(is_clean=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a file to be present at."""
    path = tmp_path / "roger.db"
    path.touch()
    return path


@contextmanager
def present(path: Path) -> Iterator[FilePresence]:
    """Be present."""
    presence = FilePresence(str(path))
    presence.enter(lambda: None)
    try:
        yield presence
    finally:
        presence.leave(is_clean=True)


@contextmanager
def child(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a process that is present; yield its name."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def folder(path: Path) -> Path:
    """Return where processes leave their files."""
    return Path(f"{path}-processes")


def test_a_killed_process_is_dead_and_a_stopped_one_is_not(database: Path) -> None:
    """A process that is stopped lives, however long; killed, it is dead at once."""
    with present(database) as mine, child(database) as (name, process):
        assert mine.find_dead([name]) == []
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert mine.find_dead([name]) == []
        process.kill()
        process.wait()
        assert mine.find_dead([]) == [name]
        mine.bury(name)
        assert mine.find_dead([]) == []
        assert {each.name for each in folder(database).iterdir()} == {
            f"{mine.name}.lock",
            f"{mine.name}.wake",
        }


async def test_a_death_is_noticed_at_once(database: Path) -> None:
    """Whoever was seen once is missed when it is killed, and not before, and looks dead then."""
    with trio.fail_after(20), present(database) as mine, child(database) as (name, process):
        assert mine.find_dead([]) == []
        process.send_signal(signal.SIGSTOP)
        began = trio.current_time()
        await mine.wait_death()
        assert trio.current_time() - began > 0.2, "until it is time to look anyway"
        assert mine.lives(name)
        noticed: list[float] = []
        for _ in range(5):  # The first may be that it is time to look.
            process.kill()
            began = trio.current_time()
            await mine.wait_death()
            noticed.append(trio.current_time() - began)
            if not mine.lives(name):
                break
        assert not mine.lives(name)
        assert min(noticed) < 0.2
        assert mine.find_dead([]) == [name]
        mine.bury(name)


async def test_looking_takes_nobody_for_alive(database: Path) -> None:
    """Two that look at a dead one at the same moment do not take each other for it."""
    with present(database) as mine:
        other = FilePresence(str(database))
        other.enter(lambda: None)
        assert mine.lives(other.name)
        assert mine.lives(mine.name)
        other.leave(is_clean=False)
        lock = os.open(folder(database) / f"{other.name}.lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_SH)  # Somebody is looking.
        assert not mine.lives(other.name)
        os.close(lock)


def test_one_of_whom_nothing_can_be_told_lives(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When a lock cannot be looked at, its process is not taken for dead, and a WARNING says so."""
    with present(database) as mine:
        lock = folder(database) / "1-abc.lock"
        lock.symlink_to(lock)  # ELOOP.
        assert mine.lives("1-abc")
        lock.unlink()
        assert not mine.lives("1-abc")
    assert "cannot be told whether process 1-abc lives" in caplog.text


def test_one_that_left_is_known_by_nobody(database: Path) -> None:
    """Who leaves in order leaves nothing behind."""
    with present(database) as mine, child(database) as (name, process):
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert mine.find_dead([]) == []
        assert mine.find_dead([name]) == [name]
    assert list(folder(database).iterdir()) == []


def test_one_that_left_uncleanly_is_found_dead(database: Path) -> None:
    """Who could not clean up leaves its files to tell the others."""
    with present(database) as mine:
        other = FilePresence(str(database))
        other.enter(lambda: None)
        other.leave(is_clean=False)
        assert mine.find_dead([]) == [other.name]


def test_a_file_that_was_removed(database: Path) -> None:
    """A file that is removed or replaced while it is in use is noticed."""
    with present(database) as mine:
        database.rename(database.with_suffix(".aside"))
        with pytest.raises(OSError, match="removed or replaced while it was in use"):
            mine.find_dead([])
        database.touch()
        with pytest.raises(OSError, match="removed or replaced while it was in use"):
            mine.find_dead([])


def test_two_in_one_process(database: Path) -> None:
    """Two brokers of one process find each other alive, and one's end leaves the other."""
    with present(database) as one:
        with present(database) as two:
            assert one.find_dead([two.name]) == two.find_dead([one.name]) == []
        assert one.find_dead([two.name]) == [two.name]
        with child(database) as (_, process), present(database) as three:
            assert three.find_dead([one.name]) == []
            process.kill()
    assert one.name not in three.name


def test_they_meet_by_whatever_path(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the file and a relative path lead to the same folder."""
    link = database.parent / "link.db"
    link.symlink_to(database)
    monkeypatch.chdir(database.parent)
    with present(link) as one, present(Path("roger.db")) as two, present(database) as three:
        for each in (one, two, three):
            assert each.find_dead([one.name, two.name, three.name]) == []


def test_a_forked_child_does_not_keep_its_parent_alive(database: Path) -> None:
    """The lock of a process that died is free, though a child that it forked lives on."""
    code = textwrap.dedent(CHILD).replace(
        "sys.stdin.read()",
        "import os, signal\nreading, writing = os.pipe()\npid = os.fork()\n"
        "if pid == 0: os.write(writing, b'x'); signal.pause()\n"
        "os.read(reading, 1)\nprint(pid, flush=True)\nsys.stdin.read()",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    name, grandchild = process.stdout.readline().strip(), int(process.stdout.readline())
    try:
        with present(database) as mine:
            process.kill()
            process.wait()
            assert mine.find_dead([]) == [name]
            with pytest.raises(OSError, match="No such device"):  # Nor does it read its pipe.
                os.open(folder(database) / f"{name}.wake", os.O_WRONLY | os.O_NONBLOCK)
            os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_the_files_are_private(database: Path) -> None:
    """Lock and pipe are their owner's alone, whatever the umask."""
    umask = os.umask(0)
    try:
        with present(database):
            modes = {stat.S_IMODE(each.stat().st_mode) for each in folder(database).iterdir()}
    finally:
        os.umask(umask)
    assert modes == {0o600}
    assert stat.S_IMODE(folder(database).stat().st_mode) == 0o700


async def test_a_call_is_heard(database: Path) -> None:
    """One wakes the other; many calls while nobody listens are one, and nobody is held up."""
    heard = trio.Event()
    with present(database) as one:
        two = FilePresence(str(database))
        two.enter(heard.set)
        for _ in range(100_000):  # More than a pipe holds.
            one.wake([two.name, one.name])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.listen)
            await heard.wait()
            nursery.cancel_scope.cancel()
        two.leave(is_clean=True)
        one.wake([two.name, "never was"])
        one.wake_all()


def test_a_call_that_could_not_be_made_is_made_later(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When no file can be opened, who was to be woken is woken at the next look."""
    with present(database) as one, present(database) as two:
        pipe = folder(database) / f"{two.name}.wake"
        aside = pipe.rename(pipe.with_suffix(".aside"))
        pipe.symlink_to(pipe)  # ELOOP: as good an error as any.
        one.wake([two.name])
        pipe.unlink()
        aside.rename(pipe)
        assert "cannot be woken now" in caplog.text
        one.find_dead([])
        assert os.read(two._pipe, 10) == b"\0"


@pytest.mark.parametrize("lost", [(".lock",), (".wake",), (".lock", ".wake")])
async def test_files_that_were_removed_are_made_anew(
    database: Path, caplog: pytest.LogCaptureFixture, lost: tuple[str, ...]
) -> None:
    """Whoever lost its files is found alive again, and hears calls, by the same name; once."""
    heard = trio.Event()
    with trio.fail_after(20), present(database) as one:
        two = FilePresence(str(database))
        two.enter(heard.set)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.listen)
            await trio.testing.wait_all_tasks_blocked()
            assert not two.renew()
            for each in lost:
                (folder(database) / f"{two.name}{each}").unlink()
            assert one.lives(two.name) is (".lock" not in lost)
            assert two.renew()
            assert not two.renew()
            assert one.find_dead([two.name]) == []
            await trio.testing.wait_all_tasks_blocked()
            heard = trio.Event()
            two._on_woken = heard.set
            one.wake([two.name])
            await heard.wait()
            nursery.cancel_scope.cancel()
        two.leave(is_clean=True)
        assert one.find_dead([]) == []
        assert len(list(folder(database).iterdir())) == 2
    assert caplog.text.count("are made anew") == 1


async def test_a_folder_that_was_removed_is_made_anew(database: Path) -> None:
    """The folder itself may go, too."""
    with present(database) as one, present(database) as two:
        shutil.rmtree(folder(database))
        assert one.renew()
        assert one.find_dead([two.name]) == [two.name]
        assert two.renew()
        assert one.find_dead([two.name]) == []
        assert stat.S_IMODE(folder(database).stat().st_mode) == 0o700


def test_in_memory_nobody_dies() -> None:
    """Those who share a database in memory wake each other directly."""
    present_ones: dict[str, object] = {}
    heard: list[str] = []
    one, two = RunPresence(present_ones), RunPresence(present_ones)  # type: ignore[arg-type]
    one.enter(lambda: heard.append("one"))
    two.enter(lambda: heard.append("two"))
    one.wake([one.name, two.name])
    two.wake_all()
    assert one.lives(two.name)
    two.leave(is_clean=True)
    assert not one.lives(two.name)
    one.wake([two.name])
    assert heard == ["two", "one"]
    assert one.find_dead([two.name]) == []
