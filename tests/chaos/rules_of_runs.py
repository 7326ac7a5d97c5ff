"""Rules about attempts: when they start, what runs beside them, why they are repeated. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from .history import History, Job, Run
from .load import LEVELS, PARTITIONS
from .verdict import Context, Violation

NOTICES_WITHIN: Final = 2.0
"""Seconds for which a process that was frozen or cut off may go on with what it has lost."""
CLOCK_ERROR: Final = 0.005
"""Seconds by which a time that was written down may be late."""


# Never early.


def never_early(context: Context) -> Iterator[Violation]:
    """No job starts before its delay, no retry before its level's."""
    for job in context.history.jobs.values():
        delay = job.order.get("delay")
        if delay is not None and job.runs:
            early = job.sent + delay - job.runs[0].start
            if early > CLOCK_ERROR:
                yield context.of(job, "never early", f"started {early:.3f} s before its delay")
        failed: dict[int, float] = {}
        for run in job.runs:
            before = failed.get(run.attempt - 1)
            if run.attempt and before is not None:
                early = before + LEVELS[run.attempt - 1] - run.start
                if early > CLOCK_ERROR:
                    text = f"attempt {run.attempt} started {early:.3f} s before its level"
                    yield context.of(job, "never early", text)
            if run.how == "failed":
                failed[run.attempt] = min(run.end, failed.get(run.attempt, math.inf))


# Never two at once.


def never_two_at_once(context: Context) -> Iterator[Violation]:
    """No two jobs of one execution or queue key run at once, no job twice in one process."""
    by_key: dict[tuple[str, str, str], list[tuple[Job, Run]]] = defaultdict(list)
    for job in context.history.jobs.values():
        for run in job.runs:
            by_key["job", "", job.id].append((job, run))
            for kind in ("serial", "unique"):
                if (key := job.order.get(kind)) is not None:
                    by_key[kind, run.partition, key].append((job, run))
    for (kind, _, key), runs in by_key.items():
        for (first, one), (second, other) in _overlaps(runs):
            text = (
                f"{kind} {key}: {one.who} from {one.start:.3f} to {one.end:.3f}, and {second.id} "
                f"on {other.who} from {other.start:.3f} to {other.end:.3f}"
            )
            if kind == "job" and one.who != other.who:
                context.counts["ran twice at once, on two nodes"] += (
                    first.order.get("serial") is None
                )
            elif kind != "job" and _is_excused(context.history, one, other):
                context.counts[f"{kind}: overlaps excused, one side was cut off"] += 1
            else:
                yield context.of_two(first, second, f"never two at once ({kind})", text)


Pair = tuple[tuple[Job, Run], tuple[Job, Run]]


def _overlaps(runs: list[tuple[Job, Run]]) -> Iterator[Pair]:
    """Return the pairs that overlap, the earlier start first."""
    ordered = sorted(runs, key=lambda each: each[1].start)
    for number, earlier in enumerate(ordered):
        for later in ordered[number + 1 :]:
            if later[1].start < earlier[1].end and later[1].end > later[1].start:
                yield earlier, later


def _is_excused(history: History, one: Run, other: Run) -> bool:
    """Tell whether an overlap lies where one side was frozen or cut off, or has just come back."""
    begin, end = other.start, min(one.end, other.end)
    return any(
        each.target in {one.who, other.who}
        and each.begin <= begin
        and end <= each.end + NOTICES_WITHIN
        for each in history.cut_off
    )


# Never more than max_workers.


def never_too_many(context: Context) -> Iterator[Violation]:
    """In no process do more jobs of a queue run than it has workers."""
    changes: dict[tuple[str, str, str], list[tuple[float, int]]] = defaultdict(list)
    for job in context.history.jobs.values():
        for run in job.runs:
            where = (run.who, run.partition, run.queue)
            changes[where] += [(run.start, 1), (run.end, -1)]
    for (who, partition, queue), moments in changes.items():
        limit, running, most = PARTITIONS[partition][queue], 0, 0
        for _, change in sorted(moments):
            running += change
            most = max(most, running)
        if most > limit:
            text = f"{most} jobs of {partition}/{queue} ran at once on {who}, which has {limit}"
            yield Violation("never more than max_workers", text)


# Repeats.


def repeats_explained(context: Context) -> Iterator[Violation]:
    """An attempt is repeated only if a fault interrupted it, or the messages it hangs on."""
    for job in context.history.jobs.values():
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in job.runs:
            runs[run.attempt].append(run)
        for attempt, repeated in runs.items():
            for number in range(1, len(repeated)):
                why = _why_repeated(context.history, job, repeated[:number])
                context.counts[f"repeats: {why}"] += 1
                if why == "unexplained":
                    text = f"attempt {attempt} was repeated without a fault"
                    yield context.of(job, "repeats only after faults", text)


def _why_repeated(history: History, job: Job, before: list[Run]) -> str:
    for run in before:
        for fault in history.faults:
            if fault.touches(run.who) and fault.meets(run.start, run.end):
                return "its node or the broker was struck while it ran"
    last = max(each.end for each in before)
    if any(each.meets(job.sent, last) for each in history.faults):
        return "a copy was made when something was struck before"
    return "unexplained"
