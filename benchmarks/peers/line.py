"""What is measured of every peer, how long, and what roger_trio shall reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from .peer import ROGER

Figures = Mapping[str, Mapping[str, Any]]
"""The result of each line, by its name."""


@attrs.frozen(kw_only=True)
class Line:
    """One thing to measure."""

    name: str
    title: str
    task: Literal["enqueue", "enqueue_many", "perform", "keys", "latency"]
    kind: str = "noop"
    concurrency: int = 10
    """Jobs at a time in each process."""
    processes: int = 1
    jobs: int = 40_000
    """Jobs enqueued, at most."""
    seconds: float = 2.5
    """Time measured, at most."""
    only_roger: bool = False

    @property
    def warm_up(self) -> int:
        """Jobs before the measured ones."""
        return min(1000, self.jobs // 10)

    @property
    def margin(self) -> int:
        """Jobs that are left when the last measured one ends, so that the stream is steady."""
        return min(self.jobs // 10, 2 * self.concurrency * self.processes + 100)

    def quick(self) -> Line:
        """Shrink it until its figures mean nothing, but everything has run."""
        return attrs.evolve(self, jobs=min(self.jobs // 20, 1000), seconds=self.seconds / 10)


def _perform(concurrency: int, **fields: Any) -> Line:
    return Line(
        name=f"perform-{concurrency}",
        title=f"perform a no-op job, concurrency {concurrency}",
        task="perform",
        concurrency=concurrency,
        **fields,
    )


def _both(concurrency: int) -> Line:
    return Line(
        name=f"both-{concurrency}",
        title=f"perform a no-op job, 2 processes, concurrency {concurrency} in each",
        task="perform",
        concurrency=concurrency,
        processes=2,
    )


LINES: Final = (
    Line(name="enqueue", title="enqueue one by one", task="enqueue", seconds=2),
    Line(name="enqueue-many", title="enqueue pipelined", task="enqueue_many"),
    _perform(1, jobs=5000),
    _perform(10),
    _perform(100),
    Line(
        name="nap-100",
        title="perform a job that sleeps 10 ms, concurrency 100",
        task="perform",
        kind="nap",
        concurrency=100,
    ),
    _both(10),
    _both(100),
    Line(
        name="keys",
        title="enqueue and perform jobs with both keys",
        task="keys",
        kind="keyed",
        concurrency=100,
        jobs=20_000,
        only_roger=True,
    ),
    Line(
        name="latency",
        title="idle latency, another process",
        task="latency",
        kind="stamp",
        jobs=200,
    ),
)

PERFORM: Final = ("perform-1", "perform-10", "perform-100")
BOTH: Final = ("both-10", "both-100")

UNITS: Final = {
    "per_second": "per second",
    "cpu_us": "CPU µs each",
    "memory_mib": "MiB",
    "busy_percent": "processors busy, %",
    "median_ms": "median, ms",
    "p99_ms": "99th percentile, ms",
}


# Targets...


@attrs.frozen(kw_only=True)
class Target:
    """What roger_trio shall reach."""

    title: str
    metric: str
    lines: tuple[str, ...]
    """Lines of roger_trio; the best of them counts."""
    limit: float
    peers: tuple[str, ...] = ()
    """If not empty: a ratio, to the best figure that any peer has in any of these lines."""
    itself: tuple[str, ...] = ()
    """If not empty: a ratio, to its own best figure in these lines."""

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.metric == "per_second"

    def is_met(self, value: float) -> bool:
        """Compare."""
        return value >= self.limit if self.at_least else value <= self.limit


TARGETS: Final = (
    Target(
        title="perform no-op jobs, to the best peer's single process",
        metric="per_second",
        lines=PERFORM,
        peers=PERFORM,
        limit=4,
    ),
    Target(
        title="perform no-op jobs on both cores, to the best peer on both",
        metric="per_second",
        lines=BOTH,
        peers=BOTH,
        limit=2,
    ),
    Target(
        title="enqueue one by one, to the best peer",
        metric="per_second",
        lines=("enqueue",),
        peers=("enqueue",),
        limit=2,
    ),
    Target(
        title="perform no-op jobs, concurrency 100",
        metric="per_second",
        lines=("perform-100",),
        limit=10_000,
    ),
    Target(title="enqueue pipelined", metric="per_second", lines=("enqueue-many",), limit=12_000),
    Target(title="enqueue pipelined", metric="cpu_us", lines=("enqueue-many",), limit=45),
    Target(title="perform no-op jobs", metric="cpu_us", lines=("perform-100",), limit=75),
    Target(title="idle latency", metric="median_ms", lines=("latency",), limit=1.5),
    Target(title="idle latency", metric="p99_ms", lines=("latency",), limit=5),
    Target(title="jobs with both keys", metric="per_second", lines=("keys",), limit=3000),
    Target(
        title="two processes, to one (or the processors are all busy)",
        metric="per_second",
        lines=("both-100",),
        itself=("perform-100",),
        limit=1.7,
    ),
)


def value(target: Target, figures: Figures) -> float | None:
    """Work out what a target is about; None where a figure is missing."""
    ours = best(figures, target.lines, [ROGER], target)
    if target.itself:
        return _ratio(ours, best(figures, target.itself, [ROGER], target))
    if target.peers:
        others = {name for line in figures.values() for name in line["runs"]} - {ROGER}
        return _ratio(ours, best(figures, target.peers, sorted(others), target))
    return ours


def best(
    figures: Figures, lines: Sequence[str], peers: Sequence[str], target: Target
) -> float | None:
    """Find the best median that any of the peers has in any of the lines."""
    medians = [
        figures[line]["metrics"][target.metric][peer]["median"]
        for line in lines
        for peer in peers
        if line in figures and peer in figures[line]["metrics"].get(target.metric, {})
    ]
    if not medians:
        return None
    return max(medians) if target.at_least else min(medians)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
