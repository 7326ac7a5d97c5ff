"""Execution keys and starts: one at a time, first come first served, through crashes."""

from __future__ import annotations

import pytest

from roger_trio._state.decisions import Drop, Forward
from roger_trio._state.operations import (
    Cancel,
    Cancelled,
    Conclude,
    Duplicate,
    Elsewhere,
    Finished,
    First,
    Fresh,
    Gone,
    Leave,
    Purged,
    PurgeKeyless,
    Release,
    ReplayClaim,
    Requeue,
    Run,
    Sync,
    Wait,
)

from .ledgers import Journaled, claim, start


@pytest.fixture
def state() -> Journaled:
    """A ledger of a partition that the nodes ``a`` and ``b`` run."""
    state = Journaled()
    state.ask(Sync("a", "@a", "host"))
    state.ask(Sync("b", "@b", "host"))
    return state


def test_one_runs_and_the_others_wait_in_order(state: Journaled) -> None:
    """Whoever asked first comes first, and asking again does not change the order."""
    assert state.ask(start("1")) == Run()
    assert [state.ask(start(job)) for job in ("2", "3", "2")] == [Wait(), Wait(), Wait()]
    assert state.keys()["execution", "e"].waiting == 2
    assert state.decide(Release("1")).moves == (Forward("2"),)
    assert state.ask(start("3")) == Wait()
    assert state.ask(start("2")) == Run()
    assert state.decide(Release("2")).moves == (Forward("3"),)


def test_a_redelivered_holder_runs_again(state: Journaled) -> None:
    """A job that meets its own key holds it."""
    assert state.ask(start("1")) == Run()
    assert state.ask(start("1")) == Run()
    assert state.decide(start("1")).changes == ()


def test_a_requeued_job_queues_up_again(state: Journaled) -> None:
    """A job that is to be tried again frees its turn, not its queue key."""
    state.ask(start("1", "k"))
    state.ask(start("2"))
    assert state.decide(Requeue("1")).moves == (Forward("2"),)
    assert state.holders() == {"k": "1", "e": "2"}
    assert state.ask(start("1", "k")) == Wait()


def test_a_late_requeue_does_not_free_the_next_attempt(state: Journaled) -> None:
    """A repeated end of an earlier attempt changes nothing for the one that runs now."""
    state.ask(start("1", attempt="first"))
    state.ask(Requeue("1", "first"))
    assert state.ask(start("1", attempt="second")) == Run()
    state.ask(start("2"))
    assert state.decide(Requeue("1", "first")).changes == ()
    assert state.decide(Release("1", "first")).changes == ()
    assert state.holders() == {"e": "1"}
    assert state.decide(Release("1", "second")).moves == (Forward("2"),)


def test_a_requeue_that_comes_after_the_next_start_frees_nothing(state: Journaled) -> None:
    """The same node may meet a job again before its requeue has been heard."""
    state.ask(start("1", attempt="first"))
    assert state.ask(start("1", attempt="second", instead_of="first")) == Run()
    assert state.decide(Requeue("1", "first")).changes == ()
    assert state.holders() == {"e": "1"}


def test_a_repeated_start_of_an_ended_attempt_takes_nothing(state: Journaled) -> None:
    """A copy of the question that comes after the attempt has ended does not hold the key."""
    state.ask(start("1", attempt="first"))
    state.ask(Requeue("1", "first"))
    assert state.ask(start("1", attempt="first")) == Finished()
    assert state.holders() == {}


def test_a_late_release_does_not_end_a_replayed_job(state: Journaled) -> None:
    """The copy of a release of a job's first life is not about its second."""
    state.ask(start("1", attempt="first"))
    state.ask(Release("1", "first"))
    state.ask(ReplayClaim("1", "k", "q", "r", "client"))
    assert state.decide(Release("1", "first")).changes == ()
    assert state.ask(start("1", "k", attempt="second")) == Run()


def test_a_requeue_of_a_waiting_job_keeps_its_place(state: Journaled) -> None:
    """Only a job that has been started can have ended an attempt."""
    state.ask(start("1"))
    state.ask(start("2"))
    assert state.decide(Requeue("2")).changes == ()


def test_a_job_that_runs_elsewhere_is_not_started_twice(state: Journaled) -> None:
    """It is started only once it was found not to run there."""
    state.ask(start("1", node="a", attempt="first"))
    assert state.ask(start("1", node="b", attempt="2")) == Elsewhere("a", "@a", "first")
    assert state.ask(start("1", node="b", attempt="2", instead_of="first")) == Run()
    assert state.ask(start("1", node="a", attempt="3")) == Elsewhere("b", "@b", "2")


def test_two_copies_of_a_job_do_not_run_at_once_on_one_node(state: Journaled) -> None:
    """Nor does a third one run in place of the first, where the second does so already."""
    assert state.ask(start("1", attempt="first")) == Run()
    assert state.ask(start("1", attempt="2")) == Elsewhere("a", "@a", "first")
    assert state.ask(start("1", attempt="2", instead_of="first")) == Run()
    third = start("1", attempt="3", instead_of="first")
    assert state.ask(third) == Elsewhere("a", "@a", "2")
    assert state.decide(start("1", attempt="2", instead_of="first")).changes == ()


@pytest.mark.parametrize("end", [Leave("@a"), Gone("@a")])
def test_a_job_of_a_node_that_is_gone_starts_at_once(state: Journaled, end: Leave | Gone) -> None:
    """Its key is its own, and nobody else's in between."""
    state.ask(start("1", node="a"))
    state.ask(start("2", node="b"))
    state.ask(end)
    assert state.ask(start("2", node="b")) == Wait()
    assert state.ask(start("1", node="b")) == Run()


def test_an_ended_job_never_starts_again(state: Journaled) -> None:
    """A redelivered copy of a released job is settled silently."""
    state.ask(start("1"))
    state.ask(Release("1"))
    assert state.ask(start("1")) == Finished()
    assert state.holders() == {}


def test_an_id_can_be_used_again_at_once(state: Journaled) -> None:
    """Also where nobody knows when the job that ended was enqueued: not after its end."""
    state.ask(Release("1"))
    assert state.ask(start("1", born=state.now - 1)) == Finished()
    assert state.ask(start("1", born=state.now + 1)) == Run()
    state.ask(Conclude("2", "@a", "x"))
    assert state.ask(start("2", None, None, born=state.now - 1)) == Finished()
    assert state.ask(start("2", None, None, born=state.now + 1)) == Run()


def test_waiting_deliveries_are_held_until_their_turn(state: Journaled) -> None:
    """A waiter's delivery is held, the holder's is sent on, and an ended one's is dropped."""
    state.ask(start("1"))
    state.ask(start("2"))
    assert state.arrive("2").moves == ()
    assert state.decide(Release("1")).moves == (Forward("2"),)
    assert state.arrive("2").moves == (Forward("2"),)
    assert state.arrive("1").moves == (Drop("1"),)


def test_an_unknown_waiting_delivery_gets_a_place(state: Journaled) -> None:
    """When the state was lost, waiting jobs take their turns as they arrive."""
    assert state.arrive("1").moves == (Forward("1"),)
    assert state.arrive("2").moves == ()
    assert state.arrive("3").moves == ()
    assert state.ask(start("1")) == Run()
    assert state.decide(Release("1")).moves == (Forward("2"),)


def test_a_released_waiter_is_dropped(state: Journaled) -> None:
    """It leaves its place and its delivery is settled; the holder keeps the key."""
    state.ask(start("1"))
    state.ask(start("2"))
    assert state.decide(Release("2")).moves == (Drop("2"),)
    assert state.keys()["execution", "e"].waiting == 0
    assert state.holders() == {"e": "1"}


def test_a_freed_execution_key_goes_on(state: Journaled) -> None:
    """The next one gets it; when the former holder ends, it frees nothing."""
    state.ask(start("1", node="a"))
    state.ask(start("2"))
    freed = state.freed("e")["execution", "e"]
    assert (freed.job, freed.node, freed.waiting) == ("1", "a", 1)
    assert state.holders() == {"e": "2"}
    state.ask(Release("1"))
    assert state.holders() == {"e": "2"}
    assert state.freed("no such key") == {}


def test_a_start_after_its_turn_was_freed_waits_again(state: Journaled) -> None:
    """A redelivered job whose key went on does not count as running while it waits."""
    state.ask(start("1", "k"))
    state.ask(start("2"))
    state.freed("e")
    assert state.ask(start("1", "k")) == Wait()
    assert state.keys()["queue", "k"].node is None
    assert state.decide(Release("2")).moves == (Forward("1"),)


def test_a_job_that_changes_its_execution_key_leaves_the_old_one(state: Journaled) -> None:
    """It holds or awaits one execution key at a time."""
    state.ask(start("1", None, "e1"))
    state.ask(start("2", None, "e1"))
    decision = state.decide(start("1", None, "e2"))
    assert (decision.answer, decision.moves) == (Run(), (Forward("2"),))
    assert state.holders() == {"e1": "2", "e2": "1"}


def test_a_queue_with_a_waiting_job_is_not_purged_at_once(state: Journaled) -> None:
    """It might be the copy that is in the queue yet, and its place would never be left."""
    state.ask(start("1"))
    state.ask(start("2"))
    state.ask(Release("1"))
    assert state.ask(PurgeKeyless("q", "client", 1)) == Purged(None)
    state.ask(Release("2"))
    assert state.decide(PurgeKeyless("q", "client", 2)).purge == "q"


def test_a_job_without_keys_leaves_no_trace(state: Journaled) -> None:
    """Nobody releases a plain job, so nothing is kept about its start."""
    assert state.decide(start("1", None, None)).changes == ()
    assert state.ask(start("1", None, None)) == Run()


def test_tombstones_go_after_a_while(state: Journaled) -> None:
    """Ten minutes after it was over, a job is as good as unknown."""
    state.ask(Release("1"))
    state.now += 600
    assert state.expire().changes == ()
    state.now += 1
    assert state.expire().changes != ()
    assert state.ask(start("1")) == Run()


def test_what_looks_old_to_another_clock_is_kept(state: Journaled) -> None:
    """A coordinator whose clock is an hour ahead forgets nothing in its first ten minutes."""
    state.ask(start("1", "k", attempt="first"))
    state.ask(Release("1", "first", 7.0))
    state.ask(Cancel("2", "client", 1))
    state.ask(Conclude("2", "@a", "x"))
    state.now += 3601
    for held_for in (0.0, 599.0):
        assert state.expire(held_for).changes == ()
    assert state.ask(start("1", "k", attempt="copy")) == Finished()
    assert state.expire(600.0).events == ()
    assert state.ask(start("1", "k", attempt="copy")) == Run()
    assert state.expire(3600.0).events != ()


def test_a_new_broker_has_no_jobs(state: Journaled) -> None:
    """All keys, turns and tombstones are void."""
    state.ask(start("1", "k"))
    state.ask(start("2"))
    state.ask(Release("3"))
    state.ask(Fresh(before=state.now + 1))
    assert state.holders() == {}
    assert state.ask(start("3")) == Run()


def test_what_was_claimed_since_the_queue_is_there_is_not_void(state: Journaled) -> None:
    """Of a key's turns the older ones go, and the first of the new ones is sent on."""
    state.ask(start("old holder", "k"))
    state.ask(start("old waiter"))
    state.now += 10
    state.ask(claim("new", "other"))
    state.ask(start("new waiter"))
    assert state.decide(Fresh(before=state.now)).moves[-1:] == (Forward("new waiter"),)
    assert state.holders() == {"other": "new", "e": "new waiter"}


def test_an_id_can_be_used_again(state: Journaled) -> None:
    """A copy of a job that ended is forgotten; a job enqueued later under its id is another one."""
    first, second = start("1", None, born=1.0), start("1", None, born=2.0)
    assert state.ask(first) == Run()
    state.ask(Release("1", "", 1.0))
    assert state.ask(first) == Finished()
    assert state.ask(second) == Run()
    state.ask(Release("1", "", 2.0))
    assert state.ask(second) == Finished()


def test_the_id_of_a_cancelled_job_can_be_used_again(state: Journaled) -> None:
    """Its copies stay cancelled; a job enqueued later under its id runs."""
    state.ask(Cancel("1", "client", 1))
    assert state.ask(start("1", None, None, born=1.0)) == Cancelled()
    assert state.ask(Conclude("1", "@a", "x", 1.0)) == First(is_first=True)
    assert state.ask(start("1", None, None, born=1.0)) == Finished()
    assert state.ask(start("1", None, None, born=2.0)) == Run()


def test_a_repeated_start_of_an_attempt_that_waited_takes_nothing(state: Journaled) -> None:
    """It hears again that it has to wait, though the key is free by now."""
    state.ask(start("1", attempt="first"))
    assert state.ask(start("2", attempt="waits")) == Wait()
    state.ask(Release("1", "first"))
    assert state.ask(start("2", attempt="second")) == Run()
    state.ask(Requeue("2", "second"))
    repeated = state.decide(start("2", attempt="waits"))
    assert (repeated.answer, repeated.changes) == (Wait(), ())


def test_a_repeated_start_of_a_duplicate_takes_nothing(state: Journaled) -> None:
    """It hears again who held its key, though the key is free by now."""
    state.ask(start("1", "k", None, attempt="first"))
    assert state.ask(start("2", "k", None, attempt="duplicate")) == Duplicate("1")
    state.ask(Release("1", "first"))
    repeated = state.decide(start("2", "k", None, attempt="duplicate"))
    assert (repeated.answer, repeated.changes) == (Duplicate("1"), ())


def test_a_superseded_attempt_takes_nothing_back(state: Journaled) -> None:
    """When a job was started again, a late start of its lost delivery is settled."""
    state.ask(start("1", node="a", attempt="lost"))
    state.ask(start("1", node="b", attempt="second", instead_of="lost"))
    state.ask(Requeue("1", "second"))
    assert state.ask(start("1", node="a", attempt="lost")) == Finished()
    assert state.holders() == {}


def test_an_old_copy_of_a_job_whose_turn_it_is_does_not_take_its_turn(state: Journaled) -> None:
    """What was settled as the job began to wait came back, when the job was just sent on."""
    state.ask(start("1", attempt="first"))
    state.ask(start("2", "k", attempt="waits"))
    state.ask(start("3", attempt="waits, too"))
    assert state.decide(Release("1", "first")).moves == (Forward("2"),)
    old = state.decide(start("2", "k", attempt="old", to_forget=True))
    assert (old.answer, old.changes, old.moves) == (Finished(), (), ())
    assert state.ask(start("2", "k", attempt="forwarded")) == Run()
    assert state.holders() == {"k": "2", "e": "2"}


def test_an_old_copy_of_a_waiting_job_changes_nothing(state: Journaled) -> None:
    """It neither waits a second time nor loses its place, and claims no key that is free."""
    state.ask(start("1"))
    state.ask(start("2"))
    for key in ("e", "free"):
        old = state.decide(start("2", "k", key, attempt=f"old {key}", to_forget=True))
        assert (old.answer, old.changes, old.moves) == (Finished(), (), ())


def test_an_old_copy_frees_what_a_lost_attempt_took(state: Journaled) -> None:
    """It takes that over, without a turn of its own, once it was found not to run any more."""
    state.ask(start("1", "k", node="b", attempt="lost"))
    state.ask(start("2"))
    old = start("1", "k", attempt="old", to_forget=True)
    assert state.ask(old) == Elsewhere("b", "@b", "lost")
    old = start("1", "k", attempt="old", instead_of="lost", to_forget=True)
    assert state.ask(old) == Run()
    assert state.decide(Requeue("1", "lost")).changes == ()
    assert state.decide(Requeue("1", "old")).moves == (Forward("2"),)
    assert state.holders() == {"k": "1", "e": "2"}
