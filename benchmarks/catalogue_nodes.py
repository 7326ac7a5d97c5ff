"""What is measured of several nodes under one supervisor, and what we want to reach."""

from __future__ import annotations

from typing import Final

from .benchmark import NODES, Benchmark, Target

_SCALES: Final = Target(metric="per_second", limit=1.7, of_ratio=True, at_least=True)


def _make(name: str, title: str, task: str, count: int) -> Benchmark:
    return Benchmark(
        name=f"nodes-{name}",
        group=NODES,
        baseline="one",
        program="benchmarks.with_nodes",
        title=title,
        task=task,
        count=count,
        warm_up=count // 10,
        least=500,
        concurrency=100,
        processes=2,
        is_filled=True,
        repeats=5,
        targets=(_SCALES,),
    )


NODE_BENCHMARKS: Final = (
    _make("noop", "perform a no-op job, concurrency 100 each", "perform", 50_000),
    _make("busy", "perform a job that computes 0.5 ms", "perform_busy", 10_000),
)
