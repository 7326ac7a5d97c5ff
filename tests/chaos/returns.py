"""How soon things were as before: after the broker's return, and after a node's death. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from .history import History, Job, Run
from .journal import Event
from .load import PARTITIONS

BROKER_BACK_WITHIN: Final = 5.0
"""Seconds after a broker's return within which all queues are to be consumed again."""
NODE_REPLACED_WITHIN: Final = 2.0
"""Seconds after a node's death within which its jobs are to be started again."""


def broker_returns(events: Iterable[Event]) -> dict[str, list[float]]:
    """Tell how long after each return of the broker all queues were consumed again.

    Those are apart in which something else was struck.
    """
    found: dict[str, list[float]] = {"calm": [], "disturbed": []}
    for event in events:
        if event.what == "consumed again":
            which = "calm" if event.data["calm"] else "disturbed"
            found[which].append(round(event.data["seconds"], 3))
    return found


def node_deaths(history: History) -> dict[str, list[float]]:
    """Tell how long after a node's death each of its running jobs was started again.

    Those are apart for which no other node had a free worker, or where another one was struck as
    well: the broker may have given the job to that one, which was frozen or cut off.
    """
    found: dict[str, list[float]] = {"free": [], "hindered": []}
    ready = {each.who: each.time for each in history.events if each.what == "ready"}
    for job, run in _killed(history):
        later = [each for each in job.runs if each is not run and each.end > run.end]
        if not later or later[0].start < run.end:  # It was over, or had a copy.
            continue
        others = {who for who, at in ready.items() if at < run.end and _is_up(history, who, run)}
        is_free = any(_has_worker(history, who, run) for who in others) and not any(
            _is_struck(history, who, run) for who in others
        )
        found["free" if is_free else "hindered"].append(round(later[0].start - run.end, 3))
    return found


def _killed(history: History) -> Iterator[tuple[Job, Run]]:
    for job in history.jobs.values():
        for run in job.runs:
            if run.how == "killed":
                yield job, run


def _is_up(history: History, who: str, run: Run) -> bool:
    """Tell whether a process was up, beside the one that was killed in a run."""
    return who != run.who and history.ends.get(who, math.inf) > run.end


def _is_struck(history: History, who: str, run: Run) -> bool:
    """Tell whether something else struck a process while the job was to be taken over."""
    begin, end = run.end, run.end + NODE_REPLACED_WITHIN
    is_hit = any(each.touches(who) and each.meets(begin, end) for each in history.faults)
    return is_hit or history.ends.get(who, math.inf) < end


def _has_worker(history: History, who: str, run: Run) -> bool:
    """Tell whether a process had a worker free for the job of a run."""
    running = sum(
        each.who == who
        and (each.partition, each.queue) == (run.partition, run.queue)
        and each.start < run.end < each.end
        for job in history.jobs.values()
        for each in job.runs
    )
    return running < PARTITIONS[run.partition][run.queue]
