"""What is measured, how much of it, and what we want to reach."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Target:
    """What a figure shall reach."""

    metric: str
    limit: float
    of_ratio: bool = False
    """Whether it is about roger_trio / aiormq rather than about roger_trio's own figure."""
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Compare."""
        return value >= self.limit if self.at_least else value <= self.limit


@attrs.frozen(kw_only=True)
class Benchmark:
    """One thing to measure, on both sides."""

    name: str
    title: str
    task: str
    """The function of the measured programs."""
    companion: str = ""
    """The function that another process runs once the first one is ready."""
    count: int
    """Operations measured in one run."""
    warm_up: int
    """Operations before them."""
    concurrency: int = 10
    is_filled: bool = False
    """Whether the jobs are in the queue before the run."""
    is_blocked: bool = False
    """Whether the first jobs never end."""
    repeats: int = 100
    """The most repeats that make sense."""
    targets: tuple[Target, ...] = ()

    def quick(self) -> Benchmark:
        """Shrink it until its figures mean nothing, but every line has run."""
        return attrs.evolve(self, count=max(40, self.count // 100), warm_up=self.warm_up // 10)

    @property
    def margin(self) -> int:
        """Jobs that are left when the last measured one begins, so that the stream is steady."""
        return 4 * self.concurrency + 200


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
        count=400,
        warm_up=40,
        targets=(Target(metric="median_ms", limit=2.0),),
    ),
    Benchmark(
        name="latency-between",
        title="idle latency, another process",
        task="latency_node",
        companion="latency_client",
        count=400,
        warm_up=40,
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
)

UNITS: Final = {
    "cpu_us": "CPU µs each",
    "per_second": "per second",
    "median_ms": "median, ms",
    "p99_ms": "99th percentile, ms",
    "resident_mib": "MiB",
    "growth_mib": "growth, MiB",
    "early_mib": "after 10,000, MiB",
    "most_mib": "most, MiB",
}
