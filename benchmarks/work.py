"""What a measured program is asked to do, and the meter it holds.

Only the standard library is imported: the memory of the programs is measured too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Metrics = dict[str, float]

_MIB = 1024 * 1024
_STATM = Path("/proc/self/statm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One order to a measured program; it comes in as JSON on standard input."""

    task: str
    url: str
    prefix: str
    partition: str
    queues: list[tuple[str, dict[str, Any]]]
    """On RabbitMQ: the broker queues of the partition's only queue and how they are declared; the
    jobs are in the last one."""
    count: int
    """Operations to measure."""
    warm_up: int
    """Operations before that, which are not measured."""
    concurrency: int = 10
    blocked: int = 0
    """When filling a queue: how many of the first jobs never end."""
    state: str = ""
    """On RabbitMQ: the folder where nodes keep the state of the partition."""
    has_keys: bool = True
    """Whether jobs have keys, where they are compared with those that have none."""
    processes: int = 1
    """Processes of ``roger serve``, where that is run."""
    partitions: int = 0
    """Partitions of the node, where it has many."""
    own_jobs: int = 0
    """Jobs that the program itself enqueues before it performs: in memory nobody else can."""

    @property
    def queue(self) -> str:
        """The broker queue that holds the jobs."""
        return self.queues[-1][0]

    @classmethod
    def read(cls) -> Work:
        """Read the order from standard input."""
        return cls(**json.loads(sys.stdin.readline()))

    def dump(self) -> str:
        """Write the order as one line."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


class Meter:
    """Wall clock and CPU time of the whole process over a number of operations."""

    def __init__(self, work: Work) -> None:
        self._first, self._last = work.warm_up, work.warm_up + work.count
        self._count = work.count
        self._done = 0
        self._started = self._ended = (0.0, 0.0)

    def start(self) -> None:
        """Begin to measure."""
        self._started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """End."""
        self._ended = (time.perf_counter(), time.process_time())

    def tick(self) -> bool:
        """Count one operation of a steady stream; tell whether it was the last one to measure.

        What is measured lies between two operations in the middle of the stream: all the work
        of `count` of them, without a beginning or an end.
        """
        self._done += 1
        if self._done == self._first:
            self.start()
        elif self._done == self._last:
            self.stop()
            return True
        return False

    def metrics(self) -> Metrics:
        """CPU time of one operation, and operations in a second."""
        wall, cpu = (end - start for start, end in zip(self._started, self._ended, strict=True))
        return {"cpu_us": cpu / self._count * 1e6, "per_second": self._count / wall}


class Growth:
    """Memory of the process while a stream of operations passes."""

    STEPS = 20

    def __init__(self, work: Work) -> None:
        self._step = max(1, work.count // self.STEPS)
        self._done = 0
        self._samples: list[float] = []

    def tick(self) -> bool:
        """Count one operation; tell whether it was the last one."""
        self._done += 1
        if self._done % self._step == 0:
            self._samples.append(resident_mib())
        return len(self._samples) == self.STEPS

    def metrics(self) -> Metrics:
        """Memory after a twentieth of the operations, the most of it, and what came between."""
        first, most = self._samples[0], max(self._samples)
        return {"early_mib": first, "most_mib": most, "growth_mib": self._samples[-1] - first}


def latencies(nanoseconds: Sequence[int]) -> Metrics:
    """Summarise latencies."""
    ordered = sorted(nanoseconds)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    return {"median_ms": ordered[len(ordered) // 2] / 1e6, "p99_ms": p99 / 1e6}


def longest(nanoseconds: Sequence[int]) -> Metrics:
    """Summarise a few latencies."""
    return {"median_ms": statistics.median(nanoseconds) / 1e6, "most_ms": max(nanoseconds) / 1e6}


def resident_mib() -> float:
    """Memory of this process that is in RAM; only Linux tells."""
    if not _STATM.exists():
        return math.nan
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


def say_ready() -> None:
    """Let a companion begin."""
    print("ready", flush=True)


def report(metrics: Metrics) -> None:
    """Hand the figures to the harness."""
    print(json.dumps(metrics), flush=True)
