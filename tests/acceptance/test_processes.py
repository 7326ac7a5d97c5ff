"""``roger serve --processes N``: several nodes, killed and stopped in many ways."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from signal import SIGINT, SIGKILL, SIGSTOP, SIGTERM, Signals
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio

from tests.acceptance.command import PATIENCE, Process, Roger

APP = """
import os
import trio
import roger_trio as roger
from app import config as given, attrs

def note(*words):
    number = os.open("notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(number, (" ".join(map(str, words)) + "\\\\n").encode())
    os.close(number)

@roger.job(name="work")
async def work(tag: str, seconds: float = 0.02) -> None:
    note("began", tag, os.getpid())
    await trio.sleep(seconds)
    note("ended", tag, os.getpid())

@roger.job(name="many")
async def many(jobs: list[dict[str, str | float]]) -> None:
    for each in jobs:
        await work.job(**each).enqueue(roger.current_job().partition)

config = attrs.evolve(given, node_name="web", shutdown_timeout=10)
"""
STUCK = """
import os, sys, time
from pathlib import Path
if Path("imported").exists():
    print("importing", file=sys.stderr, flush=True)
    time.sleep(100)
Path("imported").touch()
from app import config
"""


@pytest.fixture(autouse=True)
def _folders(roger: Roger) -> Iterator[None]:
    """Have the apps, and sockets in a folder whose name is short enough."""
    roger.folder.joinpath("crowd.py").write_text(APP.replace("\\\\n", "\\n"))
    roger.folder.joinpath("stuck.py").write_text(STUCK)
    with TemporaryDirectory(prefix="roger") as folder:
        roger.environment["ROGER_RUN_DIR"] = folder
        yield


@pytest.fixture(params=["rabbitmq", "sqlite"])
def broker(roger: Roger, request: pytest.FixtureRequest) -> None:
    """Run a test on each broker that processes can share."""
    if request.param == "sqlite":
        roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"


@pytest.fixture
def sqlite(roger: Roger) -> None:
    """Run a test where the broker does not matter."""
    roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"


@asynccontextmanager
async def serving(
    roger: Roger, *words: str, count: int = 2, own_group: bool = False
) -> AsyncGenerator[Process]:
    """Have processes run, all of them ready."""
    command = ("serve", "crowd:config", "--processes", str(count), *words)
    async with roger.running(*command, own_group=own_group) as process:
        await process.wait_log(f"all processes are ready: {count}")
        yield process


async def enqueue(roger: Roger, *args: dict[str, Any]) -> None:
    """Enqueue jobs that work."""
    jobs = json.dumps({"jobs": args})
    done = await roger("enqueue", "crowd:config", roger.partition, "many", "-", stdin=jobs.encode())
    assert done.status == 0, done


def notes(roger: Roger, what: str) -> list[tuple[str, int]]:
    """Return tag and process of what the jobs noted."""
    file = roger.folder / "notes"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(tag, int(pid)) for kind, tag, pid in lines if kind == what]


async def noted(roger: Roger, what: str, tags: set[str]) -> None:
    """Wait until jobs have noted something."""
    with trio.fail_after(PATIENCE):
        while not tags <= {tag for tag, _ in notes(roger, what)}:  # noqa: ASYNC110 -- a file
            await trio.sleep(0.02)


def pids(process: Process) -> dict[int, int]:
    """Return the ids of the processes, by their numbers."""
    found = re.findall(r"process (\d+) is started, pid (\d+)", "\n".join(process.log))
    return {int(number): int(pid) for number, pid in found}


async def health(roger: Roger) -> tuple[int, dict[str, list[str]]]:
    """Ask all; return the exit status, and what each has to say."""
    done = await roger("health", "crowd:config", "--json")
    found = json.loads(done.out)["nodes"]
    return done.status, {each["node"]: each["reasons"] for each in found}


async def end(process: Process, *, number: Signals = SIGTERM) -> None:
    """Stop gracefully."""
    process.signal(number)
    assert await process.wait() == 0, process.log


@pytest.mark.usefixtures("broker")
async def test_all_processes_run_jobs_and_are_named_everywhere(roger: Roger) -> None:
    """In every line of the log, in node names, and in what health says."""
    async with serving(roger, "--log-format", "json") as process:
        tags = {f"t{number}" for number in range(4)}
        await enqueue(roger, *({"tag": tag, "seconds": 0.5} for tag in tags))
        await noted(roger, "ended", tags)
        assert await health(roger) == (0, {"supervisor": [], "web-1": [], "web-2": []})
        await end(process)
    documents: list[dict[str, Any]] = [json.loads(line) for line in process.log]
    nodes = {(each["process"], each.get("node")) for each in documents}
    assert nodes == {(0, None), (1, "web-1"), (2, "web-2")}
    done = [each["process"] for each in documents if ": succeeded" in each["message"]]
    assert {number: done.count(number) >= 2 for number in done} == {1: True, 2: True}
    assert {pid for _, pid in notes(roger, "ended")} == set(pids(process).values())


@pytest.mark.usefixtures("broker")
async def test_a_process_that_is_killed_loses_nothing_and_comes_back(roger: Roger) -> None:
    """Its jobs are run again, the others go on, and health says what is missing."""
    async with serving(roger) as process:
        tags = {f"t{number}" for number in range(300)}
        await enqueue(roger, *({"tag": tag} for tag in tags))
        victim = pids(process)[2]
        with trio.fail_after(PATIENCE):
            while sum(pid == victim for _, pid in notes(roger, "began")) < 20:  # noqa: ASYNC110
                await trio.sleep(0.01)
        os.kill(victim, SIGKILL)
        line = await process.wait_log(f"process 2 (pid {victim}) was killed by SIGKILL")
        assert "] process 2" in line
        await process.wait_log("all processes are ready: 2", count=2)
        await noted(roger, "ended", tags)
        assert (await health(roger))[0] == 0
        await enqueue(roger, *({"tag": f"u{n}", "seconds": 0.5} for n in range(4)))
        await noted(roger, "ended", {f"u{n}" for n in range(4)})
        assert pids(process)[2] in {pid for _, pid in notes(roger, "ended")}
        await end(process)


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=lambda number: number.name)
async def test_a_signal_to_the_whole_group_is_one_signal(roger: Roger, number: Signals) -> None:
    """As a terminal's Ctrl-C, or systemd, sends it: running jobs end; the second is at once."""
    async with serving(roger, own_group=True) as process:
        await enqueue(roger, {"tag": "a", "seconds": 1.5}, {"tag": "b", "seconds": 1.5})
        await noted(roger, "began", {"a", "b"})
        process.signal_group(number)
        assert await process.wait() == 0
    assert {tag for tag, _ in notes(roger, "ended")} == {"a", "b"}
    assert "Traceback" not in "".join(process.log)

    async with serving(roger, own_group=True) as process:
        await enqueue(roger, {"tag": "c", "seconds": 100})
        await noted(roger, "began", {"c"})
        process.signal_group(number)
        await process.wait_log("stopping once the running jobs have ended", count=2)
        process.signal_group(number)
        assert await process.wait() == 0
    assert {tag for tag, _ in notes(roger, "ended")} == {"a", "b"}


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize("is_group", [False, True])
async def test_a_signal_while_processes_still_import(roger: Roger, is_group: bool) -> None:
    """They end without a word, and the status is 0."""
    words = ("serve", "stuck:config", "--processes", "2")
    async with roger.running(*words, own_group=True) as process:
        await process.wait_log("importing", count=2)
        for pid in pids(process).values():
            os.kill(pid, SIGINT)  # as the group's, when the supervisor has not got it yet
        done = await roger("health", "--json")
        [said] = json.loads(done.out)["nodes"]
        assert said["reasons"] == ["process 1 is starting", "process 2 is starting"]
        if is_group:
            process.signal_group(SIGINT)
        else:
            process.signal(SIGTERM)
        assert await process.wait() == 0
    assert "Traceback" not in "".join(process.log)
    assert "Aborted" not in "".join(process.log)


@pytest.mark.usefixtures("sqlite")
async def test_a_signal_to_one_process_has_it_replaced(roger: Roger) -> None:
    """It ends its jobs, and another one comes: one after the other, that renews them all."""
    async with serving(roger, count=1) as process:
        await enqueue(roger, {"tag": "a", "seconds": 1})
        await noted(roger, "began", {"a"})
        first = pids(process)[1]
        os.kill(first, SIGTERM)
        os.kill(first, SIGTERM)
        await process.wait_log("all processes are ready: 1", count=2)
        assert notes(roger, "ended") == [("a", first)]
        assert pids(process)[1] != first
        await end(process)


@pytest.mark.usefixtures("sqlite")
async def test_processes_do_not_outlive_their_supervisor(roger: Roger) -> None:
    """Killed, it can tell them nothing; they end what runs, and go."""
    async with serving(roger) as process:
        await enqueue(roger, {"tag": "a", "seconds": 1})
        await noted(roger, "began", {"a"})
        process.signal(SIGKILL)
        assert await process.wait() == -SIGKILL
        await process.wait_closed()
    said = [line for line in process.log if "the supervisor is gone" in line]
    assert len(said) == 2
    assert [tag for tag, _ in notes(roger, "ended")] == ["a"]


@pytest.mark.usefixtures("sqlite")
async def test_a_process_that_does_not_stop_is_killed(roger: Roger) -> None:
    """Frozen, it hears nothing; ten seconds after the second signal it is gone."""
    async with serving(roger) as process:
        os.kill(pids(process)[1], SIGSTOP)
        status, said = await health(roger)
        assert status == 1
        assert said["supervisor"] == []
        process.signal(SIGTERM)
        await process.wait_log("got SIGTERM; stopping all processes once")
        process.signal(SIGTERM)
        assert await process.wait() == 1
    [line] = [line for line in process.log if "does not stop, so it is killed" in line]
    assert "process 1" in line


async def test_memory_is_refused(roger: Roger) -> None:
    """Each process would have jobs of its own."""
    roger.environment["ROGER_BROKER"] = "memory:"
    done = await roger("serve", "app:config", "--processes", "2")
    assert done.status == 1
    assert "CRITICAL [0] broker: expected one that processes can share" in done.err


@pytest.mark.parametrize("count", ["0", "-1", "auto"])
async def test_a_number_of_processes_that_is_none(roger: Roger, count: str) -> None:
    """It is wrong usage."""
    done = await roger("serve", "app:config", "--processes", count)
    assert done.status == 2
    assert "--processes" in done.err
