"""What a benchmark is, and what it is to reach."""

from __future__ import annotations

from typing import Final, Literal

import attrs

KEYS: Final = "keys"
"""The group, and the part of the README, of keys, cancellation and fail-over."""

NODES: Final = "nodes"
"""The group, and the part of the README, of several nodes under one supervisor."""


@attrs.frozen(kw_only=True)
class Target:
    """What a figure shall reach."""

    metric: str
    limit: float
    of_ratio: bool = False
    """Whether it is about the ratio to the other side rather than about roger_trio's figure."""
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Compare."""
        return value >= self.limit if self.at_least else value <= self.limit


@attrs.frozen(kw_only=True)
class Benchmark:
    """One thing to measure, on both sides."""

    name: str
    group: str = ""
    """Another name that asks for it, and for others."""
    broker: Literal["rabbitmq", "sqlite", "memory"] = "rabbitmq"
    baseline: Literal["aiormq", "huey", "fewer", "plain", "none", "one", "single", ""] = "aiormq"
    """The other side: another program; roger_trio with `FEWER` jobs waiting, with plain jobs, with
    no keys held, in one process, or in one partition; or nobody."""
    program: str = ""
    """The module that runs it with roger_trio; empty: ``with_roger``."""
    title: str
    task: str
    """The function of the measured programs."""
    companion: str = ""
    """The function that another process runs once the first one is ready."""
    count: int
    """Operations measured in one run."""
    warm_up: int
    """Operations before them."""
    least: int = 40
    """Operations that a quick run measures at least."""
    concurrency: int = 10
    is_filled: bool = False
    """Whether the jobs are in the queue before the run."""
    is_blocked: bool = False
    """Whether the first jobs never end."""
    waiting: int = 0
    """On `sqlite`: jobs that wait from the beginning to the end."""
    partitions: int = 0
    """Partitions of one node, where many are measured beside one."""
    held: int = 0
    """Queue keys that jobs hold from the beginning to the end."""
    processes: int = 1
    """Of ``roger serve``, where several are measured beside one."""
    repeats: int = 100
    """The most repeats that make sense."""
    targets: tuple[Target, ...] = ()

    def quick(self) -> Benchmark:
        """Shrink it until its figures mean nothing, but every line has run."""
        return attrs.evolve(
            self,
            count=min(self.count, max(self.least, self.count // 100)),
            warm_up=self.warm_up // 10,
            waiting=self.waiting // 100,
            held=self.held // 100,
            partitions=self.partitions // 100,
            repeats=1,
        )

    @property
    def part(self) -> str:
        """The part of the README that has its figures."""
        if self.group in {KEYS, NODES}:
            return self.group
        return "rabbitmq" if self.broker == "rabbitmq" else "embedded"

    @property
    def jobs(self) -> int:
        """Jobs in the queue of a benchmark that performs, besides those that wait all the time."""
        return self.count + self.warm_up + self.margin

    @property
    def margin(self) -> int:
        """Jobs that are left when the last measured one begins, so that the stream is steady."""
        return 4 * self.concurrency * self.processes + 200
