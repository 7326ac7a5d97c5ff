"""What the journals say, put in order: each job's story, and what was done to each process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from .journal import Event, in_order

_CUTS_OFF: Final = {"connections stalled", "connections stalled for a moment"}
"""Faults that cut a process off while it runs."""
AWARE_WITHIN: Final = 5.0
"""Seconds for which what a fault has interrupted may still be on its way when it is healed."""


@attrs.define(eq=False)
class Run:
    """One attempt of a job in one process.

    Args:
        who: The process.
        start: When it began.
        end: When it ended, or was killed; infinite: nobody knows.
        attempt: How many attempts had failed before.
        how: How it ended: ``done``, ``failed``, ``cancelled``, or ``killed`` with its process.
        deaths: The deaths that were counted when it began.
    """

    who: str
    start: float
    attempt: int
    partition: str
    queue: str
    deaths: int
    end: float = math.inf
    how: str = "unknown"


@attrs.define(eq=False)
class Job:
    """One job's story.

    Args:
        id: Its id.
        order: What was ordered: kind, promise, keys and so on; empty if nobody ordered it.
        sent: When it was sent.
        sender: Who sent it.
        answered: When there was an answer; infinite: never.
        answer: ``accepted``, ``refused``, or ``unknown``.
        why: Why it was refused.
        holder: The job that holds its key, according to the refusal.
    """

    id: str
    order: dict[str, Any] = attrs.field(factory=dict)
    sent: float = math.inf
    sender: str = ""
    answered: float = math.inf
    answer: str = "unknown"
    why: str = ""
    holder: str = ""
    runs: list[Run] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    cancel_asked: float = math.inf
    cancel_told: float = math.inf
    cancel_result: str = ""

    def count(self, what: str) -> int:
        """Count how often something was written down of it."""
        return sum(each.what == what for each in self.events)

    @property
    def story(self) -> str:
        """All that was written down of it, a line each."""
        return "\n".join(f"    {each}" for each in self.events)


@attrs.frozen
class Window:
    """A time in which something was done to somebody.

    Args:
        target: To whom: a process, ``broker``, or ``all``.
    """

    kind: str
    target: str
    begin: float
    end: float

    def touches(self, who: str) -> bool:
        """Tell whether it concerned a process."""
        return self.target in {who, "broker", "all"}

    def meets(self, begin: float, end: float) -> bool:
        """Tell whether the times meet, with what takes its time to be noticed."""
        return self.begin <= end and begin <= self.end + AWARE_WITHIN


@attrs.define(eq=False)
class History:
    """What happened in a run."""

    jobs: dict[str, Job]
    faults: list[Window]
    cut_off: list[Window]
    """When processes were frozen, or could not be reached."""
    kills: list[tuple[float, str]]
    """When which process was killed."""
    ends: dict[str, float]
    """When each process that is gone was killed, or was found to be gone."""
    events: list[Event]

    def windows(self, kind: str) -> Iterator[Window]:
        """Return the faults of a kind."""
        return (each for each in self.faults if each.kind == kind)


def read_history(events: Iterable[Event]) -> History:
    """Put in order what the journals say."""
    ordered = in_order(events)
    ends = _ends(ordered)
    jobs: dict[str, Job] = {}
    open_runs: dict[tuple[str, int], Run] = {}
    for event in ordered:
        if event.job:
            job = jobs.setdefault(event.job, Job(event.job))
            job.events.append(event)
            _tell(job, event, open_runs)
    for (who, _), run in open_runs.items():
        if who in ends:
            run.end, run.how = max(run.start, ends[who]), "killed"
    faults = _faults(ordered)
    cut_off = [each for each in faults if each.kind in _CUTS_OFF] + _frozen(ordered)
    kills = [
        (each.time, each.data["target"])
        for each in ordered
        if each.what == "signal" and each.data["signal"] == "SIGKILL"
    ]
    return History(jobs, faults, cut_off, kills, ends, ordered)


def _ends(events: Iterable[Event]) -> dict[str, float]:
    """Find out until when each process that is gone can have done something."""
    ends: dict[str, float] = {}
    for event in events:
        is_kill = event.what == "signal" and event.data["signal"] == "SIGKILL"
        if is_kill or event.what == "gone":
            ends.setdefault(event.data["target"], event.time)
    return ends


def _tell(job: Job, event: Event, open_runs: dict[tuple[str, int], Run]) -> None:
    """Take one event into a job's story."""
    data = event.data
    match event.what:
        case "send":
            job.order, job.sent, job.sender = data, event.time, event.who
        case "accepted" | "refused" | "unknown":
            job.answer, job.answered = event.what, event.time
            job.why, job.holder = data.get("why", ""), data.get("of", "")
        case "start":
            run = Run(
                event.who, event.time, data["attempt"], data["partition"], data["queue"],
                data["deaths"],
            )  # fmt: skip
            job.runs.append(run)
            open_runs[event.who, data["run"]] = run
        case "end":
            run = open_runs.pop((event.who, data["run"]))
            run.end, run.how = event.time, data["how"]
        case "cancel":
            job.cancel_asked = event.time
        case "cancel told":
            job.cancel_told, job.cancel_result = event.time, data["result"]
        case _:
            pass


def _faults(events: Iterable[Event]) -> list[Window]:
    begun: dict[int, Event] = {}
    found: list[Window] = []
    for event in events:
        if event.what != "fault" or event.data["phase"] == "skipped":
            continue
        number = event.data["number"]
        if event.data["phase"] == "begin":
            begun[number] = event
        else:
            found.append(_window(begun.pop(number), event.time))
    return found + [_window(each, math.inf) for each in begun.values()]


def _window(event: Event, end: float) -> Window:
    return Window(event.data["kind"], event.data["target"], event.time, end)


def _frozen(events: Iterable[Event]) -> list[Window]:
    since: dict[str, float] = {}
    found: list[Window] = []
    for event in events:
        if event.what == "signal":
            target = event.data["target"]
            if event.data["signal"] == "SIGSTOP":
                since[target] = event.time
            elif target in since:
                found.append(Window("frozen", target, since.pop(target), event.time))
    return found
