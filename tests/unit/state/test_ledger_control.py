"""Cancellations, pauses and members: what is remembered and what nodes are told."""

from __future__ import annotations

import itertools

import pytest

from roger_trio._state import cancellations
from roger_trio._state.decisions import Drop, Forward
from roger_trio._state.ledger import Member
from roger_trio._state.operations import (
    Cancel,
    Cancelled,
    Claimed,
    Conclude,
    Elsewhere,
    Finished,
    First,
    FreeKey,
    Fresh,
    Gone,
    HeldBy,
    JobCancelled,
    JobForgotten,
    Keys,
    Leave,
    ListPaused,
    Pause,
    PausedQueues,
    Published,
    Purged,
    PurgeKeyless,
    PurgeWaiting,
    QueuePaused,
    QueueResumed,
    Recorded,
    Release,
    ReplayClaim,
    Resume,
    Run,
    Start,
    Sync,
    Synced,
    Wait,
)

from .ledgers import Journaled, claim, start

MEMBERS = (("a", "@a"), ("b", "@b"))
DAY = 24 * 3600


@pytest.fixture
def state() -> Journaled:
    """A ledger of a partition that the nodes ``a`` and ``b`` run."""
    state = Journaled()
    state.ask(Sync("a", "@a", "host"))
    state.ask(Sync("b", "@b", "host"))
    return state


requests = itertools.count(100)


def cancel(job: str, request: int | None = None) -> Cancel:
    """Return a client's cancel; a new one, unless its number is given."""
    return Cancel(job, "client", next(requests) if request is None else request)


def test_a_cancelled_job_is_not_started(state: Journaled) -> None:
    """All nodes are told, and whoever meets it hears that it is cancelled."""
    decision = state.decide(cancel("1", 1))
    assert decision.answer == Recorded(MEMBERS)
    assert decision.events == (JobCancelled(1, "1", "client", 1),)
    assert state.ask(start("1")) == Cancelled()
    assert state.ask(start("1", None, None)) == Cancelled()
    assert state.holders() == {}


def test_nodes_are_told_again_of_a_repeated_cancel(state: Journaled) -> None:
    """They have to answer it, though nothing has changed."""
    state.ask(cancel("1"))
    for _ in range(2):
        decision = state.decide(cancel("1", 2))
        assert decision.answer == Recorded(MEMBERS)
        assert decision.events == (JobCancelled(1, "1", "client", 2),)


def test_a_cancelled_queued_job_frees_its_keys_at_once(state: Journaled) -> None:
    """Its queue key can be claimed before anybody has met it."""
    state.ask(claim("1"))
    state.ask(Published("1", "claim of 1"))
    state.ask(cancel("1"))
    assert state.ask(claim("2")) == Claimed()
    assert state.ask(start("1", "k")) == Cancelled()
    state.ask(Conclude("1", "@a", "x"))
    assert state.holders() == {"k": "2"}


def test_a_cancelled_waiting_job_is_sent_on(state: Journaled) -> None:
    """It leaves its place and is met at once, so that it can be concluded; the holder runs on."""
    state.ask(start("1"))
    state.ask(start("2"))
    state.ask(start("3"))
    assert state.decide(cancel("2")).moves == (Forward("2"),)
    assert state.holders() == {"e": "1"}
    assert state.arrive("2").moves == (Forward("2"),)
    assert state.ask(start("2")) == Cancelled()
    assert state.decide(Release("1")).moves == (Forward("3"),)


def test_a_cancelled_job_whose_turn_it_is_hands_it_on(state: Journaled) -> None:
    """A waiter that got the key and is not started yet leaves it to the next one."""
    for job in ("1", "2", "3"):
        state.ask(start(job))
    state.ask(Release("1"))
    assert state.decide(cancel("2")).moves == (Forward("3"),)
    assert state.ask(start("3")) == Run()


def test_a_running_job_keeps_its_keys_until_it_is_concluded(state: Journaled) -> None:
    """Nobody else runs with its keys while it cleans up."""
    state.ask(start("1", "k"))
    state.ask(start("2"))
    assert state.decide(cancel("1")).moves == ()
    assert state.ask(claim("3")) == HeldBy("1")
    assert state.ask(start("2")) == Wait()
    decision = state.decide(Conclude("1", "@a", "x"))
    assert (decision.answer, decision.moves) == (First(is_first=True), (Forward("2"),))
    assert state.holders() == {"e": "2"}


def test_a_copy_of_a_job_that_is_being_stopped_is_not_concluded_beside_it(
    state: Journaled,
) -> None:
    """Its keys are freed when it has ended where it runs, not when a copy of it is met."""
    state.ask(start("1", node="a", attempt="first"))
    state.ask(cancel("1"))
    assert state.ask(start("1", node="b")) == Elsewhere("a", "@a", "first")
    state.ask(Conclude("1", "@a", "x"))
    assert state.ask(start("1", node="b", instead_of="first")) == Finished()


def test_only_the_first_conclusion_calls_on_cancel(state: Journaled) -> None:
    """The same conclusion sent again hears the same; that of a copy of the job does not."""
    state.ask(cancel("1"))
    assert state.ask(Conclude("1", "@a", "x")) == First(is_first=True)
    assert state.ask(Conclude("1", "@a", "x")) == First(is_first=True)
    assert state.ask(Conclude("1", "@a", "y")) == First(is_first=False)
    assert state.ask(Conclude("1", "@b", "x")) == First(is_first=False)
    assert state.ask(start("1")) == Finished()
    assert state.ask(cancel("1")) == Finished()


def test_a_job_that_ended_is_not_cancelled(state: Journaled) -> None:
    """Its end came first: it stays unmarked, and nobody is told."""
    state.ask(start("1"))
    state.ask(Release("1"))
    decision = state.decide(cancel("1"))
    assert (decision.answer, decision.events) == (Finished(), ())
    assert state.ask(Sync("a", "@a", "host")) == Synced(0, (), ())
    assert state.ask(Conclude("1", "@a", "x")) == First(is_first=False)


def test_a_job_found_finished_is_forgotten(state: Journaled) -> None:
    """A node that knows that the job had ended releases it: the cancellation goes."""
    state.ask(cancel("1"))
    assert state.decide(Release("1")).events == (JobForgotten(2, "1"),)
    assert state.ask(Sync("a", "@a", "host")) == Synced(2, (), ())
    assert state.ask(cancel("1")) == Finished()


def test_a_concluded_job_stays_concluded_when_it_is_released(state: Journaled) -> None:
    """A late release does not let its copies run, nor call on_cancel again."""
    state.ask(cancel("1"))
    state.ask(Conclude("1", "@a", "x"))
    assert state.decide(Release("1")).changes == ()
    assert state.ask(Conclude("1", "@a", "x")) == First(is_first=True)
    assert state.ask(start("1")) == Finished()


def test_an_unknown_cancellation_can_be_concluded(state: Journaled) -> None:
    """A node that has stopped a job calls on_cancel, though the state was lost meanwhile."""
    decision = state.decide(Conclude("1", "@a", "x"))
    assert decision.answer == First(is_first=True)
    assert decision.events == (JobCancelled(1, "1"),)
    assert state.ask(start("1", None, None)) == Finished()


def test_a_concluded_waiter_is_dropped(state: Journaled) -> None:
    """Its waiting delivery is a copy, to be settled."""
    state.ask(start("1"))
    state.ask(start("2"))
    assert state.decide(Conclude("2", "@a", "x")).moves == (Drop("2"),)


def test_a_job_cancelled_before_it_is_enqueued_is_not_started(state: Journaled) -> None:
    """It may be claimed and published; whoever meets it concludes it, and its key is free."""
    state.ask(cancel("1"))
    assert state.ask(claim("1")) == Claimed()
    state.ask(Published("1", "claim of 1"))
    assert state.ask(start("1", "k")) == Cancelled()
    state.ask(Conclude("1", "@a", "x"))
    assert state.holders() == {}


def test_a_concluded_id_can_be_enqueued_again(state: Journaled) -> None:
    """A new claim is a new life, and nodes hear that it is cancelled no more."""
    state.ask(cancel("1"))
    state.ask(Conclude("1", "@a", "x"))
    assert state.decide(claim("1")).events == (JobForgotten(2, "1"),)
    assert state.ask(start("1", "k")) == Run()


def test_remembered_cancellations_expire(state: Journaled) -> None:
    """One that is never met goes after 30 days, a concluded one after an hour."""
    state.ask(cancel("1"))
    state.ask(cancel("2"))
    state.ask(Conclude("2", "@a", "x"))
    state.now += 3601
    assert state.expire().events == (JobForgotten(3, "2"),)
    state.now += 30 * DAY
    assert state.expire().events == (JobForgotten(4, "1"),)
    assert state.ask(Sync("a", "@a", "host")) == Synced(4, (), ())


def test_the_oldest_cancellations_go_when_there_are_too_many(
    state: Journaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is bounded; nodes are told which one is forgotten."""
    monkeypatch.setattr(cancellations, "MAX_REMEMBERED", 2)
    monkeypatch.setattr(cancellations, "MAX_CONCLUDED", 1)
    for job in ("1", "2"):
        state.ask(cancel(job))
    decision = state.decide(cancel("3", 1))
    assert decision.events == (JobCancelled(3, "3", "client", 1), JobForgotten(4, "1"))
    state.ask(Conclude("2", "@a", "x"))
    assert state.decide(Conclude("3", "@a", "x")).events == (JobForgotten(5, "2"),)


def test_a_pause_is_remembered_and_told(state: Journaled) -> None:
    """All nodes have to answer each call; only a real change gets a new version."""
    decision = state.decide(Pause("q", "client", 1))
    assert decision.answer == Recorded(MEMBERS)
    assert decision.events == (QueuePaused(1, "q", "client", 1),)
    assert state.decide(Pause("q", "client", 2)).events == (QueuePaused(1, "q", "client", 2),)
    state.ask(Pause("a", "client", 3))
    assert state.ask(ListPaused()) == PausedQueues(("a", "q"))
    assert state.decide(Resume("q", "client", 4)).events == (QueueResumed(3, "q", "client", 4),)
    assert state.decide(Resume("q", "client", 5)).events == (QueueResumed(3, "q", "client", 5),)
    assert state.ask(ListPaused()) == PausedQueues(("a",))


def test_what_is_sent_again_undoes_nothing_that_came_after_it(state: Journaled) -> None:
    """The next coordinator gets commands again that were answered, and acted on, long before."""
    paused, resumed = Pause("q", "client", 1), Resume("q", "client", 2)
    state.ask(paused)
    state.ask(resumed)
    decision = state.decide(paused)
    assert (decision.answer, decision.changes, decision.events) == (Recorded(MEMBERS), (), ())
    state.ask(Pause("q", "client", 3))
    decision = state.decide(resumed)
    assert (decision.answer, decision.changes, decision.events) == (Recorded(MEMBERS), (), ())
    assert state.ask(ListPaused()) == PausedQueues(("q",))


@pytest.mark.parametrize("is_over", [False, True])
def test_a_cancel_sent_again_does_not_cancel_the_job_that_was_replayed_since(
    state: Journaled, is_over: bool
) -> None:
    """Whether it was cancelled then, or had ended."""
    state.ask(start("1"))
    if is_over:
        state.ask(Release("1"))
    state.ask(cancel("1", 1))
    state.ask(ReplayClaim("1", None, "q", "r", "client"))
    decision = state.decide(cancel("1", 1))
    assert (decision.answer, decision.changes, decision.events) == (Recorded(MEMBERS), (), ())
    assert state.ask(start("1")) == Run()


def test_a_key_freed_by_hand_is_not_taken_from_the_next_job(state: Journaled) -> None:
    """The command is sent again after another job has taken the key."""
    state.ask(claim("1"))
    free = FreeKey("k", "client", 1)
    state.ask(free)
    state.ask(claim("2"))
    decision = state.decide(free)
    assert (decision.answer, decision.changes) == (Keys(()), ())
    assert state.holders() == {"k": "2"}


def test_a_purge_sent_again_deletes_nothing_that_was_enqueued_since(state: Journaled) -> None:
    """Neither what waits for a key nor what is in the queue."""
    waiting, keyless = PurgeWaiting("q", "client", 1), PurgeKeyless("q", "client", 1)
    assert state.decide(keyless).purge == "q"
    assert state.ask(waiting) == Purged(0)
    state.ask(start("1"))
    state.ask(start("2"))
    assert state.ask(waiting) == Purged(None)
    assert state.keys()["execution", "e"].waiting == 1
    state.ask(Release("1"))
    state.ask(Release("2"))
    decision = state.decide(keyless)
    assert (decision.answer, decision.purge) == (Purged(None), None)


def test_pauses_and_cancellations_survive_a_new_broker(state: Journaled) -> None:
    """They are about queues and ids, not about the jobs that are gone."""
    state.ask(Pause("q", "client", 1))
    state.ask(cancel("1"))
    state.ask(cancel("2"))
    state.ask(Conclude("2", "@a", "x"))
    state.ask(Fresh(before=state.now + 1))
    assert state.ask(Sync("a", "@a", "host")) == Synced(3, ("q",), ("1", "2"))


def test_nodes_become_members_and_leave(state: Journaled) -> None:
    """A node that comes back with another inbox is one member; a repeated sync changes nothing."""
    assert state.decide(Sync("a", "@a", "host")).changes == ()
    state.ask(Sync("a", "@a2", "other host"))
    assert state.ledger.members == {
        "@b": Member("b", "host"),
        "@a2": Member("a", "other host"),
    }
    state.ask(Leave("@a2"))
    state.ask(Gone("@b"))
    assert state.ledger.members == {}
    assert state.decide(Leave("@a2")).changes == ()
    assert state.ask(cancel("1")) == Recorded(())


def test_listed_keys_say_where_and_since_when(state: Journaled) -> None:
    """Both kinds are listed, with queue, node, time and how many wait."""
    state.ask(Start("1", "q1", "k", "e", "a", "@a"))
    state.now += 1
    state.ask(Start("2", "q2", None, "e", "b", "@b"))
    keys = state.keys()
    queue_key, execution_key = keys["queue", "k"], keys["execution", "e"]
    assert (queue_key.job, queue_key.queue, queue_key.since) == ("1", "q1", 1000.0)
    assert (queue_key.node, queue_key.waiting) == ("a", 0)
    assert (execution_key.job, execution_key.node, execution_key.waiting) == ("1", "a", 1)
    state.ask(Release("1"))
    execution_key = state.keys()["execution", "e"]
    assert (execution_key.job, execution_key.queue, execution_key.since) == ("2", "q2", 1001.0)
    assert (execution_key.node, execution_key.waiting) == (None, 0)
