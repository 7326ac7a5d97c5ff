"""The account finds each promise that was not kept, and excuses what it says it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from .account import check
from .history import read_history
from .journal import Event
from .load import PARTITIONS
from .rules_of_jobs import MAX_DELIVERIES
from .verdict import Account, Left


class Told:
    """Journals as they might have been written, and their account."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._runs = 0

    def note(self, time: float, who: str, what: str, job: str = "", **data: object) -> None:
        """Write a line."""
        self.events.append(Event(time, who, what, job, data))

    def enqueue(self, job: str, time: float = 1.0, answer: str = "accepted", **order: Any) -> None:
        """Tell of a job that was sent and answered a hundredth of a second later."""
        facts: Mapping[str, Any] = {
            "kind": "plain", "partition": "alpha", "queue": "default", "fails": 0, "delay": None,
            "unique": None, "serial": None, "promise": "done",
        }  # fmt: skip
        answers = {key: order.pop(key) for key in ("why", "of") if key in order}
        self.note(time, "enqueuer0.0", "send", job, **{**facts, **order})
        if answer:
            self.note(time + 0.01, "enqueuer0.0", answer, job, **answers)

    def run(
        self, job: str, start: float = 2.0, end: float | None = 2.1, *, who: str = "node0.0",
        how: str = "done", attempt: int = 0, deaths: int = 0, queue: str = "alpha/default",
    ) -> None:  # fmt: skip
        """Tell of an attempt."""
        self._runs += 1
        partition, _, name = queue.partition("/")
        self.note(
            start, who, "start", job, run=self._runs, attempt=attempt, partition=partition,
            queue=name, deaths=deaths,
        )  # fmt: skip
        if end is not None:
            self.note(end, who, "end", job, run=self._runs, how=how)

    def fault(self, kind: str, target: str, begin: float, end: float) -> None:
        """Tell of a fault."""
        number = len(self.events)
        data: dict[str, Any] = {"number": number, "kind": kind, "target": target}
        self.note(begin, "suite", "fault", **data, phase="begin")
        self.note(end, "suite", "fault", **data, phase="end")

    def signal(self, time: float, target: str, name: str) -> None:
        """Tell of a signal."""
        self.note(time, "suite", "signal", target=target, signal=name)

    def account(self, **left: Any) -> Account:
        """Account for all of it."""
        return check(read_history(self.events), Left(**left))

    def rules(self, **left: Any) -> list[str]:
        """Return the rules that were violated."""
        return [each.rule for each in self.account(**left).violations]


@pytest.fixture
def told() -> Told:
    """Return empty journals."""
    return Told()


def test_all_is_well(told: Told) -> None:
    """Jobs that end as promised violate nothing, and are counted."""
    told.enqueue("a")
    told.run("a")
    told.enqueue("b", promise="failed")
    told.run("b", how="failed")
    told.enqueue("c", promise="buried")
    account = told.account(buried={"c": "ValueError: planned"})
    assert account.violations == []
    assert account.counts["ended: done"] == account.counts["ended: failed"] == 1


# Nothing is lost


@pytest.mark.parametrize("promise", ["done", "failed", "buried", "cancelled"])
def test_lost(told: Told, promise: str) -> None:
    """A job that was accepted and never ended is lost, and its story is told."""
    told.enqueue("a", promise=promise)
    told.run("a", how="cancelled")
    [violation] = told.account().violations
    assert violation.rule == "nothing is lost"
    assert "send a" in violation.story
    assert "how=cancelled" in violation.story


def test_unknown_may_be_there_or_not(told: Told) -> None:
    """A job without an answer may never be met; once it has started it has to end."""
    told.enqueue("a", answer="unknown")
    assert told.rules() == []
    told.run("a", how="cancelled")
    assert told.rules() == ["nothing is lost"]


def test_killed_enqueuer_leaves_unknown(told: Told) -> None:
    """So is one whose enqueuer was killed before it had the answer."""
    told.enqueue("a", answer="")
    assert told.rules() == []


def test_deleted_with_its_queue(told: Told) -> None:
    """What was sent before the operator deleted the queue may be gone, nothing else."""
    told.enqueue("a", queue="fragile")
    told.fault("queue deleted", "broker", 1.5, 1.6)
    assert told.rules() == []
    told.enqueue("b", time=9.0, queue="fragile")
    told.enqueue("c")
    assert told.rules() == ["nothing is lost"] * 2


def test_buried_after_deaths(told: Told) -> None:
    """A job may be buried as its worker died so often, if so many nodes were killed since."""
    told.enqueue("a")
    for number in range(MAX_DELIVERIES):
        told.signal(2.0 + number, f"node0.{number}", "SIGKILL")
    buried = {"a": "WorkerDied: its worker's process died 5 times"}
    assert told.rules(buried=buried) == []
    told.events.pop()
    assert told.rules(buried=buried) == ["no deaths but deaths"]


def test_buried_as_its_key_is_held(told: Told) -> None:
    """Only a job whose enqueue was not confirmed may be buried as another one holds its key."""
    told.enqueue("a", answer="unknown", unique="k")
    told.run("a", how="cancelled")
    buried = {"a": "roger_trio:DuplicateJob: queue key 'k' is held by job b"}
    assert told.rules(buried=buried) == []
    told.enqueue("a", unique="k")
    assert told.rules(buried=buried) == ["nothing is lost", "buried as promised"]


# Refusals


def test_refused_and_performed(told: Told) -> None:
    """A job that was refused must not start."""
    told.enqueue("a", answer="refused", why="not running", unique="k")
    told.run("a")
    assert told.rules() == ["refusals are true"]


def test_refused_without_a_key(told: Told) -> None:
    """A job without a queue key is never refused."""
    told.enqueue("a", answer="refused", why="not running")
    assert told.rules() == ["refusals are true"]


@pytest.mark.parametrize(
    ("sent", "key", "told_of", "is_true"),
    [
        (2.05, "k", "a", True),
        (4.0, "k", "a", True),  # As long as it may take to let go of a key.
        (5.0, "k", "a", False),
        (2.05, "other", "a", False),
        (2.05, "k", "nobody", False),
    ],
)
def test_duplicate_of(told: Told, sent: float, key: str, told_of: str, is_true: bool) -> None:
    """A duplicate is one of a job with its key that has not let go of it before."""
    told.enqueue("a", unique="k")
    told.run("a")
    told.note(2.2, "node0.0", "after_run", "a")
    told.enqueue("b", time=sent, unique=key, answer="refused", why="duplicate", of=told_of)
    assert told.rules() == ([] if is_true else ["refusals are true"])


def test_key_is_let_go_of_late_after_a_fault(told: Told) -> None:
    """It may take longer if something was struck meanwhile."""
    told.enqueue("a", unique="k")
    told.run("a")
    told.note(2.2, "node0.0", "after_run", "a")
    told.fault("broker killed", "broker", 2.1, 5.0)
    told.enqueue("b", time=6.0, unique="k", answer="refused", why="duplicate", of="a")
    assert told.rules() == []


def test_two_accepted_with_one_key(told: Told) -> None:
    """Two jobs of one queue key are never accepted while the first one lives."""
    told.enqueue("a", unique="k")
    told.enqueue("b", time=1.5, unique="k")
    told.run("a", 2.0, 2.1)
    told.run("b", 3.0, 3.1)
    assert told.rules() == ["one job of a queue key"]


def test_accepted_after_the_first_has_ended(told: Told) -> None:
    """Once the first one has ended, or somebody has cancelled it, the next one is accepted."""
    told.enqueue("a", unique="k")
    told.run("a", 2.0, 2.1)
    told.enqueue("b", time=2.11, unique="k", promise="cancelled")
    told.note(2.2, "enqueuer0.0", "cancel", "b")
    told.note(2.25, "enqueuer0.0", "cancel told", "b", result="RECORDED")
    told.note(2.9, "node0.0", "on_cancel", "b")
    told.enqueue("c", time=2.3, unique="k")
    told.run("c", 3.0, 3.1)
    assert told.rules() == []


# Times


def test_delayed_job_is_early(told: Told) -> None:
    """A delayed job does not start before its time."""
    told.enqueue("a", delay=1.0)
    told.run("a", 1.9, 2.1)
    assert told.rules() == ["never early"]


def test_retry_is_early(told: Told) -> None:
    """A retry does not start before its level's delay is over."""
    told.enqueue("a", fails=1)
    told.run("a", 2.0, 2.1, how="failed")
    told.run("a", 2.34, 2.4, attempt=1)
    assert told.rules() == ["never early"]


# At once


@pytest.mark.parametrize("kind", ["serial", "unique"])
def test_two_of_one_key_at_once(told: Told, kind: str) -> None:
    """Two jobs of one key do not run at once, whichever kind of key it is."""
    key: dict[str, Any] = {kind: "k"}
    told.enqueue("a", **key)
    told.enqueue("b", answer="unknown", **key)
    told.run("a", 2.0, 3.0)
    told.run("b", 2.9, 3.5, who="node1.0")
    assert told.rules() == [f"never two at once ({kind})"]


def test_frozen_owner_is_excused(told: Told) -> None:
    """Only what overlaps while one side is frozen, or has just woken up, is excused."""
    told.enqueue("a", serial="k")
    told.enqueue("b", serial="k")
    told.run("a", 2.0, 9.1, how="done")
    told.signal(2.5, "node0.0", "SIGSTOP")
    told.signal(9.0, "node0.0", "SIGCONT")
    told.run("b", 7.0, 7.5, who="node1.0")
    assert told.rules() == []
    told.enqueue("c", serial="k")
    told.run("c", 2.2, 2.3, who="node1.0")
    assert told.rules() == ["never two at once (serial)"]


def test_killed_process_does_nothing_any_more(told: Told) -> None:
    """A job whose process was killed has run until then, and not longer."""
    told.enqueue("a", serial="k")
    told.run("a", 2.0, None)
    told.signal(2.5, "node0.0", "SIGKILL")
    told.note(2.6, "suite", "gone", target="node0.0", status=-9, wanted=True)
    told.fault("node killed", "node0.0", 2.5, 2.6)
    told.run("a", 2.55, 3.0, who="node1.0")
    assert told.rules() == []


def test_one_job_twice_on_a_node(told: Told) -> None:
    """A node does not run one job twice at once, frozen or not; two nodes may."""
    told.enqueue("a")
    told.fault("connections cut", "node0.0", 2.0, 2.0)
    told.run("a", 2.0, 3.0)
    told.run("a", 2.5, 3.5, who="node1.0")
    assert told.rules() == []
    told.signal(2.0, "node0.0", "SIGSTOP")
    told.signal(3.0, "node0.0", "SIGCONT")
    told.run("a", 2.9, 3.5)
    assert told.rules() == ["never two at once (job)"]


def test_too_many_workers(told: Told) -> None:
    """No more jobs of a queue run on a node than it has workers, on each node."""
    limit = PARTITIONS["alpha"]["default"]
    for number in range(limit + 1):
        told.enqueue(f"a{number}")
        told.enqueue(f"b{number}")
        told.run(f"a{number}", who=f"node{number % 2}.0")
        told.run(f"b{number}", 3.0, 3.1)
    assert told.rules() == ["never more than max_workers"]


# Repeats, attempts, deaths


def test_repeated_without_a_fault(told: Told) -> None:
    """An attempt is not repeated unless something was struck."""
    told.enqueue("a")
    told.run("a", 2.0, 2.1)
    told.run("a", 3.0, 3.1)
    assert told.rules() == ["repeats only after faults"]
    told.fault("connections cut", "node0.0", 2.05, 2.05)
    account = told.account()
    assert account.violations == []
    assert account.counts["repeats: its node or the broker was struck while it ran"] == 1


def test_attempt_spent(told: Told) -> None:
    """An interruption spends no attempt."""
    told.enqueue("a", fails=1)
    told.run("a", 2.0, 2.1, how="failed")
    told.run("a", 3.0, 3.1, attempt=1, how="cancelled")
    told.run("a", 5.0, 5.1, attempt=2)
    assert told.rules() == ["interruptions spend no attempt"]


def test_death_without_a_death(told: Told) -> None:
    """No more deaths are counted than nodes were killed."""
    told.enqueue("a")
    told.run("a", deaths=1)
    assert told.rules() == ["no deaths but deaths"]
    told.signal(1.0, "node0.0", "SIGSTOP")
    told.signal(1.5, "node0.0", "SIGCONT")
    assert told.rules() == ["no deaths but deaths"]


def test_death_that_only_seems_so(told: Told) -> None:
    """Who is frozen, or cut off, for so long that the broker gives it up, seems dead."""
    told.enqueue("a")
    told.signal(1.5, "node0.0", "SIGSTOP")
    told.signal(8.5, "node0.0", "SIGCONT")
    told.run("a", 7.0, 7.1, deaths=1, who="node1.0")
    assert told.rules() == []


def test_buried_by_mistake(told: Told) -> None:
    """A job that was to be done is not buried."""
    told.enqueue("a")
    told.run("a")
    assert told.rules(buried={"a": "ValueError: x"}) == ["buried as promised"]


# Cancelling


def test_started_after_cancelled(told: Told) -> None:
    """A job does not start once `cancel` has said that it will not."""
    told.enqueue("a", promise="cancelled")
    told.note(2.0, "enqueuer0.0", "cancel", "a")
    told.note(2.1, "enqueuer0.0", "cancel told", "a", result="RECORDED")
    told.run("a", 2.2, 2.3, how="cancelled")
    told.note(2.3, "node0.0", "on_cancel", "a")
    assert told.rules() == ["cancel tells the truth"]


def test_finished_but_not(told: Told) -> None:
    """`FINISHED` is not said of a job that has not ended."""
    told.enqueue("a", promise="cancelled")
    told.note(2.0, "enqueuer0.0", "cancel", "a")
    told.note(2.1, "enqueuer0.0", "cancel told", "a", result="FINISHED")
    told.run("a", 2.2, 2.3)
    assert told.rules() == ["cancel tells the truth"]


def test_on_cancel_twice(told: Told) -> None:
    """`on_cancel` is called once."""
    told.enqueue("a", promise="cancelled")
    told.note(2.0, "enqueuer0.0", "cancel", "a")
    for who in ("node0.0", "node1.0"):
        told.note(2.1, who, "on_cancel", "a")
    told.note(2.2, "enqueuer0.0", "cancel told", "a", result="STOPPED")
    assert told.rules() == ["cancel tells the truth"]


def test_on_cancel_missed(told: Told) -> None:
    """`on_cancel` is missed only if a process was killed."""
    told.enqueue("a", promise="cancelled")
    told.note(2.0, "enqueuer0.0", "cancel", "a")
    told.note(2.2, "enqueuer0.0", "cancel told", "a", result="STOPPED")
    assert told.rules() == ["cancel tells the truth"]
    told.signal(2.1, "node0.0", "SIGKILL")
    assert told.rules() == []


def test_cancelled_by_one_that_was_killed_and_nobody_told(told: Told) -> None:
    """Who asked got no answer; who had the answer died: without a death, the job is lost."""
    told.enqueue("a", promise="cancelled")
    told.note(3, "enqueuer0.0", "cancel", "a")
    told.note(13, "enqueuer0.0", "cancel unknown", "a", error="no answer")
    assert told.rules() == ["nothing is lost"]
    told.signal(5, "node1.0", "SIGKILL")
    assert told.rules() == []


def test_cancelled_and_done(told: Told) -> None:
    """A job that was cancelled is not called done as well."""
    told.enqueue("a", promise="cancelled")
    told.run("a", 1.5, 2.1)
    told.note(2.0, "enqueuer0.0", "cancel", "a")
    told.note(2.15, "node0.0", "on_cancel", "a")
    told.note(2.2, "enqueuer0.0", "cancel told", "a", result="STOPPED")
    assert told.rules() == []
    told.note(2.3, "node0.0", "after_run", "a")
    assert told.rules() == ["cancel tells the truth"]


# What is left


def test_left(told: Told) -> None:
    """Keys that are held, cannot be taken, and messages that are left are violations."""
    assert told.rules(keys=[("alpha", "k", "a")]) == ["no key leaks"]
    assert told.rules(not_free=["alpha: k"]) == ["no key leaks"]
    assert told.rules(queues={"alpha-default": 1}) == ["queues are empty"]


@pytest.mark.parametrize(
    ("signals", "status", "wanted", "rule"),
    [
        (["SIGKILL"], -9, True, []),
        (["SIGTERM"], 0, True, []),
        (["SIGTERM"], 1, True, ["processes live"]),
        ([], 1, False, ["processes live"]),
        ([], -6, False, ["processes live"]),
    ],
)
def test_ends(told: Told, signals: list[str], status: int, wanted: bool, rule: list[str]) -> None:
    """A process that ends by itself, or in disorder, is a violation."""
    told.note(1.0, "node0.0", "ready")
    for name in signals:
        told.signal(2.0, "node0.0", name)
    told.note(3.0, "suite", "gone", target="node0.0", status=status, wanted=wanted)
    assert told.rules() == rule


def test_dawdles(told: Told) -> None:
    """A process that does not stop in time is a violation."""
    told.note(3.0, "suite", "dawdles", target="node0.0")
    assert told.rules() == ["processes stop in time"]
