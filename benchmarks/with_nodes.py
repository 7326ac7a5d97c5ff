"""The real command, ``roger serve --processes N``, watched from outside.

Each node counts its jobs in a file that it shares with the watcher; so nothing but an addition is
done for a job. The processor time of the nodes and of the broker is what the kernel says of their
processes; only Linux tells.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

import roger_trio as roger

from . import with_roger
from .jobs import hooks
from .work import Metrics, Work, report

ORDER = "BENCHMARKS_ORDER"
"""The environment variable with what the nodes have to know: in JSON, and read by nobody else."""
TALLIES = "BENCHMARKS_TALLIES"
"""The one with the folder where they count."""
SECONDS_OF_WORK = 0.0005
"""What a job computes that is not a no-op."""
ARRIVED = ".arrived"
_LOOK = 0.002
_PATIENCE = 120.0


# In the nodes...


def config() -> roger.Config:
    """Configure a node, and have it count."""
    work = Work(**json.loads(os.environ[ORDER]))
    count_jobs(work, Path(os.environ[TALLIES]))
    made = with_roger.config(work)
    return attrs.evolve(made, partitions={work.partition: with_roger.queues(work)})


def count_jobs(work: Work, folder: Path) -> None:
    """Count jobs from now on; the first one waits until all processes have one."""
    file = folder / str(os.getpid())
    file.write_bytes(bytes(8))
    with file.open("r+b") as opened:
        cell = memoryview(mmap.mmap(opened.fileno(), 8)).cast("Q")

    def count() -> None:
        cell[0] += 1

    def compute_and_count() -> None:
        end = time.thread_time() + SECONDS_OF_WORK
        while time.thread_time() < end:
            pass
        cell[0] += 1

    def are_all_here() -> bool:
        return len(list(folder.glob(f"*{ARRIVED}"))) == work.processes

    async def wait_for_others() -> None:
        (folder / f"{os.getpid()}{ARRIVED}").touch()
        while not are_all_here():  # noqa: ASYNC110 -- a file is all that the others leave
            await trio.sleep(_LOOK)
        hooks.gate = None

    hooks.gate = wait_for_others
    hooks.on_noop = compute_and_count if work.task == "perform_busy" else count


def tallies(folder: Path) -> dict[int, int]:
    """Read how many jobs each process has performed."""
    return {
        int(file.name): int.from_bytes(file.read_bytes(), sys.byteorder)
        for file in folder.iterdir()
        if not file.suffix
    }


# Outside...


@attrs.frozen(kw_only=True)
class Moment:
    """What there was to see at one moment."""

    wall: float
    done: int
    nodes: float
    broker: float
    """NaN where it is not known: on another machine, or of another user."""


class Watch:
    """Looks at the tallies, and at processor times."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        address = roger.AmqpConfig.from_url(url)
        is_here = address.host in {"localhost", "127.0.0.1", "::1"}
        self._brokers = listeners(address.port) if is_here else set[int]()

    def done(self) -> int:
        """Tell how many jobs were performed."""
        return sum(tallies(self._folder).values())

    def look(self) -> Moment:
        """Take down how it is now."""
        found = tallies(self._folder)
        return Moment(
            wall=time.perf_counter(),
            done=sum(found.values()),
            nodes=sum(processor_time(pid) for pid, count in found.items() if count),
            broker=sum(map(processor_time, self._brokers)) if self._brokers else math.nan,
        )


def processor_time(pid: int) -> float:
    """Tell the seconds of processor time of a process: its clock has this number on Linux."""
    return time.clock_gettime((~pid << 3) | 2)


def listeners(port: int) -> set[int]:
    """Find the processes that listen on a port here: for the broker's, one has to be root."""
    sockets: set[str] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{words[9]}]")
    found: set[int] = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # another user's, or just closed
            if str(link.readlink()) in sockets:
                found.add(int(link.parts[2]))
    return found


@contextmanager
def serving(work: Work, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run the command; stopped at the end."""
    command = [sys.executable, "-m", "roger_trio", "serve", f"{__package__}.with_nodes:config"]
    order = json.dumps(vars(work))
    with subprocess.Popen(
        [*command, "--processes", str(work.processes), "--log-level", "warning"],
        env={**os.environ, ORDER: order, TALLIES: str(folder), "ROGER_RUN_DIR": str(folder.parent)},
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def perform(work: Work) -> Metrics:
    """Watch jobs being performed, from a queue that is never empty."""
    with TemporaryDirectory(prefix="bench") as folder:
        counted = Path(folder) / "tallies"
        counted.mkdir()
        watch = Watch(counted, work.url)
        with serving(work, counted) as process:
            first = wait(lambda: watch.done() >= work.warm_up, process, watch)
            enough = first.done + work.count
            return figures(first, wait(lambda: watch.done() >= enough, process, watch))


def wait(is_over: Callable[[], bool], process: subprocess.Popen[bytes], watch: Watch) -> Moment:
    """Wait for something, and look."""
    end = time.monotonic() + _PATIENCE
    while not is_over():
        assert process.poll() is None, "the command ended by itself"
        assert time.monotonic() < end, "the jobs were not performed in time"
        time.sleep(_LOOK)
    return watch.look()


def figures(first: Moment, last: Moment) -> Metrics:
    """Say what lies between two moments."""
    wall, count = last.wall - first.wall, last.done - first.done
    nodes = last.nodes - first.nodes
    broker = last.broker - first.broker
    return {
        "cpu_us": nodes / count * 1e6,
        "broker_cpu_us": broker / count * 1e6,
        "cores": (nodes + broker) / wall,
        "per_second": count / wall,
    }


TASKS = {"perform": perform, "perform_busy": perform}

if __name__ == "__main__":
    order = Work.read()
    report(TASKS[order.task](order))
