"""Measures all peers, one after the other in every line of every repeat, and sums up."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import attrs

from .. import queues
from ..harness import summary
from ..work import latencies
from . import order, processes, programs
from .client import Metrics
from .line import Line
from .order import Order
from .peer import ROGER, Peer
from .programs import StepFailed, Worker

PATIENCE: Final = 45.0
"""Seconds that a client, or a worker until it is warm, may take besides what it measures."""
GIVE_UP: Final = 3
"""Failures after which a peer is not run any more."""
FILL: Final = 4.0
"""Seconds to fill a queue; a slow peer performs fewer jobs."""


@attrs.frozen(kw_only=True)
class Installed:
    """A peer that can be run."""

    peer: Peer
    python: Path


class Run:
    """Measures lines; has a prefix of its own in the broker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"bench{secrets.token_hex(3)}"
        self._numbers = count()

    def measure(self, line: Line, installed: Installed) -> Metrics:
        """Measure one line of one peer.

        Raises:
            StepFailed: A step failed or took too long.
        """
        with self._place(installed.peer) as (queue, folder):
            run = _Step(line=line, installed=installed, url=self._url, queue=queue, folder=folder)
            match line.task:
                case "perform":
                    return run.perform()
                case "keys":
                    return run.keys()
                case "latency":
                    return run.latency()
                case "enqueue" | "enqueue_many":
                    return run.enqueue()

    @contextmanager
    def _place(self, peer: Peer) -> Generator[tuple[str, Path]]:
        """Give a queue and a folder; in the end nothing of them is left."""
        queue = f"{self._prefix}x{next(self._numbers)}"
        with TemporaryDirectory(prefix="bench") as folder:
            try:
                yield queue, Path(folder)
            finally:
                queues.delete(self._url, peer.leaves(queue))
                if peer.name == ROGER:
                    queues.delete_shared(self._url, f"{queue}-")


@attrs.frozen(kw_only=True)
class _Step:
    """One line of one peer, with a queue of its own."""

    line: Line
    installed: Installed
    url: str
    queue: str
    folder: Path

    def enqueue(self) -> Metrics:
        metrics = self._client(self.line.task, warm_up=self.line.warm_up, seconds=self.line.seconds)
        del metrics["sent"]
        return metrics

    def perform(self) -> Metrics:
        """Perform jobs from a queue that is never empty."""
        sent = self._client("enqueue_many", seconds=FILL, is_confirmed=False)["sent"]
        with self._worker() as worker:
            return self._watch(worker, int(sent) - self.line.margin)

    def keys(self) -> Metrics:
        """Perform jobs while a client enqueues them, as a key is claimed from a running node."""
        order_ = self._order("enqueue_many", count=self.line.jobs, seconds=PATIENCE)
        python, module = self.installed.python, self.installed.peer.module
        with self._worker() as worker, programs.started(python, module, order_):
            return self._watch(worker, self.line.jobs - self.line.margin)

    def latency(self) -> Metrics:
        """Send jobs to an idle worker; and look at its memory."""
        with self._worker() as worker:
            self._client("stamps", count=1)
            self._wait_for_stamps(worker, 1, "the first job")  # then the worker has started
            before = 1 + self.line.warm_up
            self._client("stamps", warm_up=self.line.warm_up)
            self._wait_for_stamps(worker, before + self.line.jobs, "the last job")
            seen = order.stamps(self.folder)[before:]
            return {**latencies(seen), "memory_mib": processes.memory_mib(worker.ids)}

    def _wait_for_stamps(self, worker: Worker, number: int, what: str) -> None:
        worker.wait_until(lambda: len(order.stamps(self.folder)) >= number, PATIENCE, what)

    def _watch(self, worker: Worker, last: int) -> Metrics:
        first = min(self.line.warm_up, last // 4)
        worker.wait_until(lambda: self._is_warm(first), PATIENCE, "warm up")
        before = self._look(worker)
        end = before.at + self.line.seconds
        worker.wait_until(
            lambda: self._total() >= last or time.perf_counter() >= end,
            PATIENCE,
            "measure",
        )
        return figures(before, self._look(worker), processes.memory_mib(worker.ids))

    def _is_warm(self, first: int) -> bool:
        counts = order.performed(self.folder)
        return sum(counts) >= first and len(counts) >= self.line.processes

    def _total(self) -> int:
        return sum(order.performed(self.folder))

    def _look(self, worker: Worker) -> processes.Look:
        return processes.look(worker.ids, self._total())

    def _client(self, task: str, **fields: Any) -> Metrics:
        fields = {"count": self.line.jobs, "seconds": PATIENCE, **fields}
        made = self._order(task, **fields)
        return programs.run_client(
            self.installed.python, self.installed.peer.module, made, PATIENCE + self.line.seconds
        )

    @contextmanager
    def _worker(self) -> Generator[Worker]:
        peer, python = self.installed.peer, self.installed.python
        number = peer.programs(self.line.processes)
        with programs.running_worker(python, peer.module, self._order("worker"), number) as worker:
            yield worker

    def _order(self, task: str, **fields: Any) -> Order:
        return Order(
            task=task,
            url=self.url,
            queue=self.queue,
            folder=str(self.folder),
            kind=self.line.kind,
            concurrency=self.line.concurrency,
            processes=self.line.processes,
            variant=self.installed.peer.variant,
            **fields,
        )


def figures(before: processes.Look, after: processes.Look, memory: float) -> Metrics:
    """Work out what happened between two looks.

    Raises:
        StepFailed: No job was performed between them.
    """
    jobs = after.performed - before.performed
    if jobs <= 0:
        raise StepFailed("measure: no job was performed")
    ticks = after.ticks - before.ticks
    return {
        "per_second": jobs / (after.at - before.at),
        "cpu_us": (after.cpu - before.cpu) / jobs * 1e6,
        "memory_mib": memory,
        "busy_percent": 100 * (after.busy - before.busy) / ticks if ticks else 0.0,
    }


# All of it...


def in_turn(installed: Sequence[Installed], repeat: int) -> list[Installed]:
    """Let another peer begin in every repeat, so that what disturbs the machine disturbs all."""
    start = repeat % len(installed) if installed else 0
    return [*installed[start:], *installed[:start]]


def measure_all(
    run: Run,
    lines: Sequence[Line],
    installed: Sequence[Installed],
    repeats: int,
    minutes: float,
    wait_quiet: Callable[[], float | None],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure everything; a step that fails is written down, and the others go on.

    `wait_quiet` waits for others, and tells what they use then, before each line.

    Returns:
        The result of each line. None is begun once the minutes have passed.
    """
    results = [_nothing(line) for line in lines]
    end = time.monotonic() + 60 * minutes
    for repeat, (line, result) in product(range(repeats), zip(lines, results, strict=True)):
        if time.monotonic() > end:
            say(f"{minutes:g} minutes have passed: {line.name} and what follows is left out")
            break
        say(f"{line.name}: {repeat + 1} of {repeats}")
        result["others_busy_before"].append(wait_quiet())
        given_up = hopeless(results)
        for each in in_turn(installed, repeat):
            if each.peer.name not in given_up and (each.peer.name == ROGER or not line.only_roger):
                _measure_one(run, line, each, result, say)
    for result in results:
        result["metrics"] = summarise(result["runs"])
    return results


def _measure_one(
    run: Run, line: Line, each: Installed, result: dict[str, Any], say: Callable[[str], None]
) -> None:
    try:
        metrics = run.measure(line, each)
    except StepFailed as exc:
        say(f"{line.name}: {each.peer.title}: {exc}")
        result["failures"].setdefault(each.peer.name, []).append(str(exc))
    else:
        result["runs"].setdefault(each.peer.name, []).append(metrics)


def hopeless(results: Sequence[dict[str, Any]]) -> set[str]:
    """Name the peers that have failed so often that no more time is spent on them."""
    failures = Counter(
        peer for result in results for peer, many in result["failures"].items() for _ in many
    )
    return {peer for peer, number in failures.items() if number >= GIVE_UP}


def _nothing(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "title": line.title,
        "concurrency": line.concurrency,
        "processes": line.processes,
        "seconds": line.seconds,
        "others_busy_before": [],
        "failures": {},
        "runs": {},
    }


def summarise(runs: dict[str, list[Metrics]]) -> dict[str, dict[str, dict[str, float]]]:
    """Sum up each metric of each peer that has one."""
    summaries: dict[str, dict[str, dict[str, float]]] = {}
    for peer, several in runs.items():
        for metric in several[0]:
            summaries.setdefault(metric, {})[peer] = summary([each[metric] for each in several])
    return summaries
