"""Rules about each job: it ends as promised, and what its user was told is true. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from typing import Final

from .history import AWARE_WITHIN, History, Job
from .load import FRAGILE, LEVELS
from .schedule import HEARTBEAT
from .verdict import Context, Left, Violation

RELEASED_WITHIN: Final = 2.0
"""Seconds in which a key is free after what follows its job's end was done, without a fault."""
VOID_WITHIN: Final = 25.0
"""Seconds in which the claim of a job that was never confirmed is void, withdrawn or made good."""
MAX_DELIVERIES: Final = 5


# Nothing is lost.


def nothing_lost(context: Context) -> Iterator[Violation]:
    """Each job that was accepted, or that started, ended as it was promised to."""
    for job in context.history.jobs.values():
        if job.answer == "refused" or (job.answer != "accepted" and not job.runs):
            continue
        how = how_it_ended(context.history, context.left, job)
        context.counts[f"ended: {how}"] += 1
        if how == "lost":
            yield context.of(job, "nothing is lost", f"promised {job.order.get('promise')}")


def how_it_ended(history: History, left: Left, job: Job) -> str:
    """Tell how a job ended: as promised, in an excused way, or ``lost``."""
    if _was_cancelled(job):
        return "cancelled"
    promise = "done" if job.order["promise"] == "cancelled" else job.order["promise"]
    if promise == "buried":
        if job.id in left.buried:
            return "buried"
    elif any(each.how == promise for each in job.runs):
        return promise
    if job.id in left.buried and "WorkerDied" in left.buried[job.id]:
        return "buried after deaths"
    if _was_deleted(history, job):
        return "deleted with its queue"
    if lost_its_key(left, job):
        return "buried, as another job took its key"
    # Who asked was not told, and who would have called on_cancel may be the one that died.
    if not job.cancel_result and any(job.cancel_asked <= each for each, _ in history.kills):
        return "cancelled, it seems, by a process that was killed"
    return "lost"


def _was_cancelled(job: Job) -> bool:
    """Tell whether it was cancelled, according to what was told or called."""
    was_told = job.cancel_result not in {"", "FINISHED"}
    return job.cancel_asked < math.inf and (was_told or job.count("on_cancel") > 0)


def _was_deleted(history: History, job: Job) -> bool:
    """Tell whether the operator deleted its queue while it may have been in it."""
    return (job.order["partition"], job.order["queue"]) == FRAGILE and any(
        job.sent <= each.end for each in history.windows("queue deleted")
    )


def lost_its_key(left: Left, job: Job) -> bool:
    """Tell whether it was buried as another one held its key, its own enqueue never confirmed."""
    return job.answer == "unknown" and "DuplicateJob" in left.buried.get(job.id, "")


# What was refused never runs, and refusals are true.


def refusals_true(context: Context) -> Iterator[Violation]:
    """A refused job never starts; a job that is said to hold a key holds it."""
    jobs = context.history.jobs
    for job in jobs.values():
        if job.answer != "refused":
            continue
        context.counts[f"refused: {job.why}"] += 1
        if job.runs:
            yield context.of(job, "refusals are true", "refused, and yet it started")
        if job.order.get("unique") is None:
            yield context.of(job, "refusals are true", "refused, though it has no key")
        elif job.why == "duplicate":
            trouble = _why_holder_is_none(context.history, job, jobs.get(job.holder))
            if trouble:
                yield context.of_two(job, jobs.get(job.holder), "refusals are true", trouble)


def _why_holder_is_none(history: History, job: Job, holder: Job | None) -> str:
    """Say why the job that is said to hold a key cannot have held it; '': it can."""
    if holder is None or holder.sent > job.answered:
        return f"told of {job.holder or 'nobody'} as the holder, which did not exist"
    if holder.order["unique"] != job.order["unique"]:
        return f"told of {holder.id} as the holder, whose key is another one"
    if holder.answer == "refused":
        # Its claim was made and withdrawn.
        over = holder.answered + VOID_WITHIN
    elif not holder.runs and holder.answer == "unknown":
        over = min(holder.answered, _death(history, holder.sender)) + VOID_WITHIN
    else:
        over = _released(holder)
    late = job.sent - over - RELEASED_WITHIN
    if late > 0 and not any(
        each.begin <= job.answered and over <= each.end + AWARE_WITHIN for each in history.faults
    ):
        return f"told of {holder.id} as the holder, which had let go of it {late:.2f} s before"
    return ""


def _death(history: History, who: str) -> float:
    return next((moment for moment, each in history.kills if each == who), math.inf)


_OVER: Final = {"after_run", "on_buried", "on_cancel"}


def _released(job: Job) -> float:
    """Tell when what frees a job's key was certainly published: before its callback."""
    return next((each.time for each in job.events if each.what in _OVER), math.inf)


def one_job_of_a_key(context: Context) -> Iterator[Violation]:
    """No job is accepted while another one with its queue key is queued or runs."""
    by_key: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in context.history.jobs.values():
        if job.answer == "accepted" and job.order["unique"] is not None:
            by_key[job.order["partition"], job.order["unique"]].append(job)
    for (_, key), jobs in by_key.items():
        for one, other in permutations(jobs, 2):
            if one.answered <= other.sent and other.answered <= _surely_lives_until(one):
                text = f"{key}: accepted, as was {other.id} while this one lived"
                yield context.of_two(one, other, "one job of a queue key", text)


def _surely_lives_until(job: Job) -> float:
    """Tell until when a job certainly holds its queue key."""
    last = min(job.order["fails"], len(LEVELS))
    ends = [x.end for x in job.runs if x.how == "done" or (x.how, x.attempt) == ("failed", last)]
    told = [each.time for each in job.events if each.what in _OVER]
    return min([job.cancel_asked, *ends, *told])


# Attempts and deaths.


def attempts_counted(context: Context) -> Iterator[Violation]:
    """Interruptions spend no attempt, and are no deaths, unless the process was as good as dead."""
    for job in context.history.jobs.values():
        most = max((each.attempt for each in job.runs), default=0)
        planned = min(job.order.get("fails", 0), len(LEVELS))
        if most > planned:
            text = f"attempt {most}, though only {planned} were to fail"
            yield context.of(job, "interruptions spend no attempt", text)
        for run in job.runs:
            dead = _seemed_dead(context.history, job.sent, run.start)
            if run.deaths > dead:
                text = f"{run.deaths} deaths were counted, and {dead} nodes were dead, or seemed so"
                yield context.of(job, "no deaths but deaths", text)
                break


def buried_rightly(context: Context) -> Iterator[Violation]:
    """No job is buried but those that were to be, and those that nodes died of."""
    for id, error in context.left.buried.items():
        job = context.history.jobs.get(id)
        if job is None:
            yield Violation("buried as promised", f"nobody ordered it: {error}", id)
        elif "WorkerDied" in error:
            dead = _seemed_dead(context.history, job.sent, math.inf)
            if dead < MAX_DELIVERIES:
                text = f"{error}; {dead} nodes were dead, or seemed so"
                yield context.of(job, "no deaths but deaths", text)
        elif job.order["promise"] != "buried" and not lost_its_key(context.left, job):
            yield context.of(job, "buried as promised", f"it was not to be: {error}")


def _seemed_dead(history: History, begin: float, end: float) -> int:
    """Count the nodes that were dead, or could not be told from dead ones, in a time.

    That is who does not answer for so long that the broker gives its connections up.
    """
    killed = sum(begin <= at <= end and who.startswith("node") for at, who in history.kills)
    given_up = sum(
        each.end - each.begin > HEARTBEAT and each.begin <= end and begin <= each.end
        for each in history.cut_off
    )
    return killed + given_up


# Cancelling.


def cancel_true(context: Context) -> Iterator[Violation]:
    """What `cancel` said was true, and `on_cancel` was called once."""
    rule = "cancel tells the truth"
    for job in context.history.jobs.values():
        if job.cancel_asked == math.inf:
            continue
        context.counts[f"cancel told {job.cancel_result or 'nothing'}"] += 1
        calls = job.count("on_cancel")
        if calls > 1:
            yield context.of(job, rule, f"on_cancel was called {calls} times")
        if calls and job.count("after_run"):
            if _was_interrupted(context.history, job):
                context.counts["done and cancelled, as its settlement was lost"] += 1
            else:
                yield context.of(job, rule, "it was called both cancelled and done")
        if job.cancel_result == "FINISHED":
            if calls:
                # It was asked again by itself, as the answer was lost.
                context.counts["cancel told FINISHED of what it had cancelled itself"] += 1
            elif not any(
                each.how in {"done", "failed"} and each.end <= job.cancel_told for each in job.runs
            ):
                yield context.of(job, rule, "FINISHED, but it had not ended")
        elif job.cancel_result:
            yield from _check_cancelled(context, job, rule)


def _was_interrupted(history: History, job: Job) -> bool:
    """Tell whether a fault may have kept the end of a run from the broker, so that it came back."""
    return any(
        fault.touches(run.who) and fault.meets(run.start, run.end)
        for run in job.runs
        if run.how == "done"
        for fault in history.faults
    )


def _check_cancelled(context: Context, job: Job, rule: str) -> Iterator[Violation]:
    """Check a job of which `cancel` has said that it stops, or will not start."""
    late = [each.start for each in job.runs if each.start > job.cancel_told]
    if late:
        text = f"it started {late[0] - job.cancel_told:.3f} s after {job.cancel_result}"
        yield context.of(job, rule, text)
    if job.count("on_cancel") or any(each.how == "done" for each in job.runs):
        return
    # The one way to miss it: that very process dies just before or during the call.
    if any(job.cancel_asked <= each for each, _ in context.history.kills):
        context.counts["on_cancel missed, a process was killed"] += 1
    else:
        yield context.of(job, rule, f"{job.cancel_result}, but on_cancel was not called")
