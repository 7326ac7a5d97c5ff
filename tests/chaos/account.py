"""What happened against what was promised: journals in, violations and figures out. Pure.

docs/reliability.md says what is checked, and what is excused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from . import rules_of_jobs as jobs, rules_of_runs as runs
from .history import History
from .verdict import Account, Context, Left, Rule, Violation


def check(history: History, left: Left) -> Account:
    """Account for every job."""
    counts: Counter[str] = Counter()
    context = Context(history, left, counts)
    violations = [each for rule in RULES for each in rule(context)]
    for job in history.jobs.values():
        counts[f"jobs {job.answer}"] += 1
        counts["attempts"] += len(job.runs)
    return Account(violations, dict(sorted(counts.items())))


# Nothing is left.


def nothing_left(context: Context) -> Iterator[Violation]:
    """No key is held, each can be taken again, no queue holds anything."""
    jobs = context.history.jobs
    for partition, key, id in context.left.keys:
        story = jobs[id].story if id in jobs else ""
        yield Violation("no key leaks", f"{key} of {partition} is still held", id, story)
    for text in context.left.not_free:
        yield Violation("no key leaks", f"a key cannot be taken again: {text}")
    for queue, count in context.left.queues.items():
        yield Violation("queues are empty", f"{count} messages in {queue}")


# Processes.


def processes_live(context: Context) -> Iterator[Violation]:
    """No process ends but by a signal, and one that is stopped ends in good order, in time."""
    begun = {each.who for each in context.history.events if each.what == "ready"}
    stopped = {
        each.data["target"]
        for each in context.history.events
        if each.what == "signal" and each.data["signal"] == "SIGTERM"
    }
    killed = {who for _, who in context.history.kills}
    for event in context.history.events:
        who, status = event.data.get("target", ""), event.data.get("status")
        if event.what == "dawdles":
            yield Violation("processes stop in time", f"{who} did not end after SIGTERM")
        elif event.what != "gone" or who in killed:
            continue
        elif status != 0 and (not event.data["wanted"] or (who in stopped and who in begun)):
            yield Violation("processes live", f"{who} ended with status {status}; see its log")


RULES: Final[tuple[Rule, ...]] = (
    jobs.nothing_lost,
    jobs.refusals_true,
    jobs.one_job_of_a_key,
    jobs.attempts_counted,
    jobs.buried_rightly,
    jobs.cancel_true,
    runs.never_early,
    runs.never_two_at_once,
    runs.never_too_many,
    runs.repeats_explained,
    nothing_left,
    processes_live,
)
