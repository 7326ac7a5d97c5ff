"""What an account is made of: violations, figures, and what was left when all was over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import attrs

from .history import History, Job


@attrs.frozen
class Violation:
    """A promise that was not kept.

    Args:
        rule: Which one.
        text: What happened.
        job: The job, or ''.
        story: All that the journals have of it.
    """

    rule: str
    text: str
    job: str = ""
    story: str = ""

    def __str__(self) -> str:
        return "\n".join(filter(None, (f"{self.rule}: {self.job} {self.text}", self.story)))


@attrs.frozen
class Left:
    """What was found when all was over.

    Args:
        queues: Broker queues that are not empty, with what they hold.
        keys: Keys that are still held: partition, key, job.
        not_free: Keys that could not be enqueued again.
        buried: The buried jobs: id to error.
    """

    queues: dict[str, int] = attrs.field(factory=dict)
    keys: list[tuple[str, str, str]] = attrs.field(factory=list)
    not_free: list[str] = attrs.field(factory=list)
    buried: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Account:
    """The result: what was violated, and how often what happened."""

    violations: list[Violation]
    counts: dict[str, int]


@attrs.frozen
class Context:
    """What the rules look at, and where they count."""

    history: History
    left: Left
    counts: Counter[str]

    def of(self, job: Job, rule: str, text: str) -> Violation:
        """Make a violation that tells the job's story."""
        return Violation(rule, text, job.id, job.story)

    def of_two(self, job: Job, other: Job | None, rule: str, text: str) -> Violation:
        """Make a violation that tells the stories of two jobs."""
        violation = self.of(job, rule, text)
        if other is None or other is job:
            return violation
        return attrs.evolve(violation, story=f"{job.story}\n  and {other.id}:\n{other.story}")


Rule = Callable[[Context], Iterator[Violation]]
"""Yields each violation of one promise."""
