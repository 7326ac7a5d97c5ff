"""What is measured, how much of it, and what we want to reach."""

from __future__ import annotations

from typing import Final

import attrs

from .benchmark import Benchmark, Target
from .catalogue_keys import KEY_BENCHMARKS
from .catalogue_nodes import NODE_BENCHMARKS
from .catalogue_partitions import PARTITION_BENCHMARKS


def _perform(concurrency: int, count: int, *targets: Target) -> Benchmark:
    return Benchmark(
        name=f"perform-{concurrency}",
        title=f"perform a no-op job, concurrency {concurrency}",
        task="perform",
        count=count,
        warm_up=count // 10,
        concurrency=concurrency,
        is_filled=True,
        targets=targets,
    )


def _at_least(limit: float) -> Target:
    return Target(metric="per_second", limit=limit, at_least=True)


def _ratio_at_least(limit: float) -> Target:
    return Target(metric="per_second", limit=limit, of_ratio=True, at_least=True)


_PERFORM_100: Final = Benchmark(
    name="perform-100",
    title="perform a no-op job, concurrency 100",
    task="perform",
    count=10_000,
    warm_up=1000,
    concurrency=100,
    is_filled=True,
    repeats=3,
)

FEWER: Final = 1000
"""Jobs waiting on the other side of a backlog."""

_SQLITE: Final = (
    Benchmark(
        name="sqlite-enqueue",
        group="sqlite",
        broker="sqlite",
        baseline="huey",
        title="sqlite: enqueue one by one",
        task="enqueue",
        count=2000,
        warm_up=100,
        repeats=5,
        targets=(_ratio_at_least(1),),
    ),
    Benchmark(
        name="sqlite-enqueue-many",
        group="sqlite",
        broker="sqlite",
        baseline="huey",
        title="sqlite: enqueue_many",
        task="enqueue_many",
        count=10_000,
        warm_up=100,
        repeats=3,
        targets=(_at_least(5000), _ratio_at_least(1)),
    ),
    attrs.evolve(
        _PERFORM_100,
        name="sqlite-perform",
        group="sqlite",
        broker="sqlite",
        baseline="huey",
        title="sqlite: perform a no-op job, concurrency 100",
        targets=(_at_least(4000), _ratio_at_least(1)),
    ),
)

_MEMORY: Final = (
    Benchmark(
        name="memory-broker-enqueue-many",
        group="memory",
        broker="memory",
        baseline="",
        title="memory: enqueue_many",
        task="enqueue_many",
        count=20_000,
        warm_up=2000,
        targets=(_at_least(10_000),),
    ),
    attrs.evolve(
        _PERFORM_100,
        name="memory-broker-perform",
        group="memory",
        broker="memory",
        baseline="",
        title="memory: perform a no-op job, concurrency 100",
        count=20_000,
        repeats=5,
        targets=(_at_least(10_000),),
    ),
)

_BACKLOG: Final = (
    Benchmark(
        name="sqlite-backlog-enqueue-many",
        group="sqlite-backlog",
        broker="sqlite",
        baseline="fewer",
        title="sqlite: enqueue_many",
        task="enqueue_many",
        count=20_000,
        warm_up=1000,
        waiting=1_000_000,
        repeats=5,
        targets=(_ratio_at_least(0.8),),
    ),
    attrs.evolve(
        _PERFORM_100,
        name="sqlite-backlog-perform",
        group="sqlite-backlog",
        broker="sqlite",
        baseline="fewer",
        title="sqlite: perform a no-op job, concurrency 100",
        task="perform_and_look",
        waiting=1_000_000,
        repeats=5,
        targets=(_ratio_at_least(0.8), Target(metric="resident_mib", limit=1.1, of_ratio=True)),
    ),
)

ALL: Final = (
    Benchmark(name="enqueue", title="enqueue one by one", task="enqueue", count=2000, warm_up=200),
    Benchmark(
        name="enqueue-many",
        title="enqueue_many, pipelined",
        task="enqueue_many",
        count=20_000,
        warm_up=2000,
        targets=(Target(metric="cpu_us", limit=0.35, of_ratio=True),),
    ),
    _perform(1, 3000),
    _perform(10, 10_000),
    _perform(
        100,
        30_000,
        Target(metric="cpu_us", limit=0.6, of_ratio=True),
        Target(metric="per_second", limit=8000, at_least=True),
    ),
    _perform(500, 30_000),
    Benchmark(
        name="latency",
        title="idle latency, same process",
        task="latency",
        count=200,
        warm_up=20,
        targets=(Target(metric="median_ms", limit=2.0),),
    ),
    Benchmark(
        name="latency-between",
        title="idle latency, another process",
        task="latency_node",
        companion="latency_client",
        count=200,
        warm_up=20,
        targets=(Target(metric="median_ms", limit=2.0),),
    ),
    Benchmark(
        name="memory-idle",
        title="memory of an idle node",
        task="memory_idle",
        count=0,
        warm_up=0,
        repeats=3,
        targets=(Target(metric="resident_mib", limit=60),),
    ),
    Benchmark(
        name="memory-waiting",
        title="memory, 200,000 jobs waiting",
        task="memory_waiting",
        count=200_000,
        warm_up=0,
        is_filled=True,
        is_blocked=True,
        repeats=1,
        targets=(Target(metric="growth_mib", limit=5),),
    ),
    Benchmark(
        name="memory-passing",
        title="memory, 200,000 jobs passing",
        task="memory_passing",
        count=200_000,
        warm_up=0,
        concurrency=100,
        is_filled=True,
        repeats=1,
        targets=(Target(metric="growth_mib", limit=5),),
    ),
    *_SQLITE,
    *_MEMORY,
    *_BACKLOG,
    *KEY_BENCHMARKS,
    *NODE_BENCHMARKS,
    *PARTITION_BENCHMARKS,
)

BASELINES: Final = {
    "aiormq": ("roger_trio", "plain aiormq"),
    "huey": ("roger_trio", "Huey"),
    "fewer": ("1,000,000 jobs waiting", "1,000 jobs waiting"),
    "plain": ("jobs with both keys", "plain jobs"),
    "none": ("100,000 keys held", "no keys held"),
    "single": ("1,000 partitions", "one partition"),
    "one": ("two processes", "one process"),
    "": ("roger_trio",),
}
"""The heads of the columns."""

UNITS: Final = {
    "cpu_us": "CPU µs each",
    "broker_cpu_us": "the broker's CPU µs each",
    "cores": "cores in use, the broker's too",
    "per_second": "per second",
    "median_ms": "median, ms",
    "p99_ms": "99th percentile, ms",
    "most_ms": "longest, ms",
    "gap_ms": "median from job to job, ms",
    "gap_p99_ms": "99th percentile, job to job, ms",
    "startup_ms": "start to first claim, ms",
    "ready_ms": "start to ready, ms",
    "first_ms": "first start to ready, ms",
    "stop_ms": "stop, ms",
    "resident_mib": "MiB",
    "growth_mib": "growth, MiB",
    "early_mib": "after 10,000, MiB",
    "most_mib": "most, MiB",
}

WALL_CLOCK: Final = frozenset(
    (
        "per_second",
        "median_ms",
        "p99_ms",
        "gap_ms",
        "gap_p99_ms",
        "startup_ms",
        "ready_ms",
        "first_ms",
        "stop_ms",
        "most_ms",
    )
)
"""Metrics that only a quiet machine tells the truth about."""
