"""What is measured of nodes with many partitions, and what we want to reach."""

from __future__ import annotations

from typing import Any, Final

from .benchmark import Benchmark, Target

_COMMON: Final[dict[str, Any]] = {
    "group": "many-partitions",
    "baseline": "single",
    "program": "benchmarks.with_partitions",
    "task": "spread",
    "count": 10_000,
    "warm_up": 10_000,  # In which each worker of each partition has its first job.
    "concurrency": 10,
    "partitions": 1000,
    "repeats": 3,
    "targets": (Target(metric="cpu_us", limit=1.5, of_ratio=True),),
}

PARTITION_BENCHMARKS: Final = (
    Benchmark(
        name="many-partitions-rabbitmq",
        title="rabbitmq: 10,000 jobs",
        companion="send",
        **_COMMON,
    ),
    Benchmark(
        name="many-partitions-sqlite",
        broker="sqlite",
        title="sqlite: 10,000 jobs",
        companion="send",
        **_COMMON,
    ),
    Benchmark(
        name="many-partitions-memory", broker="memory", title="memory: 10,000 jobs", **_COMMON
    ),
)
