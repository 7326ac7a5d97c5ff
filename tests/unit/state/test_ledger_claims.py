"""Queue keys: who holds them, and what repeated, late and lost commands do to them."""

from __future__ import annotations

import pytest

from roger_trio._state import controlling
from roger_trio._state.operations import (
    Cancel,
    Claimed,
    Duplicate,
    Finished,
    Gone,
    HeldBy,
    JobForgotten,
    Keys,
    ListKeys,
    Published,
    PurgeKeyless,
    Release,
    ReplayClaim,
    Run,
    Wait,
    Withdraw,
)

from .ledgers import Journaled, claim, start


@pytest.fixture
def state() -> Journaled:
    """An empty ledger."""
    return Journaled()


def published(state: Journaled, job: str, key: str = "k") -> None:
    """Enqueue a job with a queue key."""
    assert state.ask(claim(job, key)) == Claimed()
    state.ask(Published(job, f"claim of {job}"))


def test_one_job_holds_a_key(state: Journaled) -> None:
    """The second job is refused and learns who holds the key; another key is free."""
    assert state.ask(claim("1")) == Claimed()
    assert state.ask(claim("2")) == HeldBy("1")
    assert state.ask(claim("2", "other", "again")) == Claimed()
    assert state.holders() == {"k": "1", "other": "2"}


def test_a_repeated_claim_changes_nothing(state: Journaled) -> None:
    """A claim that comes twice is claimed twice, provisional or published."""
    state.ask(claim("1"))
    assert state.decide(claim("1")).changes == ()
    state.ask(Published("1", "claim of 1"))
    repeated = state.decide(claim("1"))
    assert (repeated.answer, repeated.changes) == (Claimed(), ())
    assert state.ledger.unconfirmed(state.now, 0) == {}


def test_a_repeated_refusal_stays_one(state: Journaled) -> None:
    """A refused claim that comes again after the key was freed does not take it unheard."""
    published(state, "1")
    assert state.ask(claim("2")) == HeldBy("1")
    state.ask(Release("1"))
    assert state.ask(claim("2")) == HeldBy("1")
    assert state.holders() == {}
    assert state.ask(claim("2", nonce="a new one")) == Claimed()


def test_a_withdrawn_claim_frees_its_key(state: Journaled) -> None:
    """What was not published holds nothing, and a late copy of its claim takes nothing."""
    state.ask(claim("1"))
    state.ask(Withdraw("1", "claim of 1"))
    assert state.holders() == {}
    assert state.decide(claim("1")).changes == ()
    assert state.ask(claim("2")) == Claimed()
    state.ask(Withdraw("1", "claim of 1"))
    assert state.holders() == {"k": "2"}


def test_a_withdrawal_that_overtakes_its_claim_holds(state: Journaled) -> None:
    """A claim that comes only after it was withdrawn takes no key."""
    state.ask(Withdraw("1", "claim of 1"))
    assert state.ask(claim("1")) == Claimed()
    assert state.holders() == {}


def test_a_published_claim_cannot_be_withdrawn(state: Journaled) -> None:
    """A late withdrawal does not free the key of a job that is in its queue."""
    published(state, "1")
    assert state.decide(Withdraw("1", "claim of 1")).changes == ()
    assert state.holders() == {"k": "1"}


def test_somebody_elses_claim_cannot_be_withdrawn_or_published(state: Journaled) -> None:
    """A command that names another job than its nonce belongs to changes nothing."""
    state.ask(claim("1"))
    assert state.decide(Withdraw("2", "claim of 1")).changes == ()
    assert state.decide(Published("2", "claim of 1")).changes == ()


def test_the_same_job_claimed_twice_needs_one_publish(state: Journaled) -> None:
    """Of two claims for one job one may be withdrawn; the key is free when both are."""
    state.ask(claim("1", nonce="x"))
    state.ask(claim("1", nonce="y"))
    state.ask(Withdraw("1", "y"))
    assert state.holders() == {"k": "1"}
    state.ask(Published("1", "x"))
    state.ask(claim("1", nonce="z"))
    state.ask(Withdraw("1", "z"))
    assert state.holders() == {"k": "1"}


def test_both_claims_of_a_job_withdrawn_free_its_key(state: Journaled) -> None:
    """Nothing was published, so nothing is held."""
    state.ask(claim("1", nonce="x"))
    state.ask(claim("1", nonce="y"))
    state.ask(Withdraw("1", "x"))
    state.ask(Withdraw("1", "y"))
    assert state.holders() == {}


def test_a_stale_claim_does_not_come_back_after_the_job_has_ended(state: Journaled) -> None:
    """The copy of a claim whose job is done long since is answered, and takes no key."""
    published(state, "1")
    state.ask(start("1", "k", None))
    state.ask(Release("1"))
    repeated = state.decide(claim("1"))
    assert (repeated.answer, repeated.changes) == (Claimed(), ())


def test_a_key_is_held_until_the_job_is_over(state: Journaled) -> None:
    """It is free once the job is released, and a second release frees nobody else's."""
    published(state, "1")
    state.ask(start("1", "k", None))
    assert state.ask(claim("2")) == HeldBy("1")
    state.ask(Release("1"))
    published(state, "3")
    assert state.decide(Release("1")).changes == ()
    assert state.holders() == {"k": "3"}


def test_a_dead_senders_claims_are_void(state: Journaled) -> None:
    """What a sender claimed and did not publish is freed when nobody listens at its inbox."""
    published(state, "1", "k1")
    state.ask(claim("2", "k2"))
    state.ask(claim("3", "k3", inbox="another"))
    state.now += 5
    assert state.ledger.unconfirmed(state.now, 5) == {
        "client": frozenset({"2"}),
        "another": frozenset({"3"}),
    }
    assert state.ledger.unconfirmed(state.now, 5.1) == {}
    state.ask(Gone("client"))
    assert state.holders() == {"k1": "1", "k3": "3"}


def test_a_sender_that_was_out_of_reach_is_not_told_that_it_holds_a_voided_claim(
    state: Journaled,
) -> None:
    """It asks again, as it missed the answer: by then another job may hold the key, or none."""
    state.ask(claim("1"))
    state.ask(Gone("client"))
    assert state.ask(claim("1")) == Claimed()
    assert state.holders() == {"k": "1"}
    state.ask(Gone("client"))
    assert state.ask(claim("2", inbox="another")) == Claimed()
    assert state.ask(claim("1")) == HeldBy("2")
    state.ask(Withdraw("1", "claim of 1"))
    assert state.holders() == {"k": "2"}


def test_a_start_takes_a_key_that_nobody_holds(state: Journaled) -> None:
    """A job that was published by one that died before it could say so gets its key back."""
    assert state.ask(start("1", "k", None)) == Run()
    assert state.ask(claim("2")) == HeldBy("1")


def test_a_start_confirms_the_claim(state: Journaled) -> None:
    """A job that is met has been published, whatever its sender says later."""
    state.ask(claim("1"))
    assert state.ask(start("1", "k", None)) == Run()
    state.ask(Withdraw("1", "claim of 1"))
    state.ask(Gone("client"))
    assert state.holders() == {"k": "1"}


def test_a_job_whose_key_went_to_another_is_a_duplicate(state: Journaled) -> None:
    """It learns who holds its key, holds nothing itself, and hears the same when asked again."""
    assert state.ask(start("1", "k1", "e")) == Run()
    published(state, "2", "k2")
    assert state.ask(start("1", "k2", "e")) == Duplicate("2")
    assert state.ask(start("1", "k2", "e")) == Duplicate("2")
    assert state.holders() == {"k2": "2"}


def test_an_ended_job_can_be_enqueued_again(state: Journaled) -> None:
    """A new claim of the same id is a new life: it starts, and holds its key."""
    published(state, "1")
    state.ask(Release("1"))
    assert state.ask(start("1", "k", None)) == Finished()
    state.ask(claim("1", nonce="a new one"))
    assert state.ask(start("1", "k", None)) == Run()


def test_a_refused_claim_does_not_revive_its_job(state: Journaled) -> None:
    """A job that is over stays over if it could not be enqueued again."""
    published(state, "1")
    state.ask(Release("1"))
    published(state, "2")
    assert state.ask(claim("1", nonce="a new one")) == HeldBy("2")
    assert state.ask(start("1", "k", None)) == Finished()


def test_a_replay_holds_its_key_again(state: Journaled) -> None:
    """A buried job that is replayed is not over; one whose key another holds is refused."""
    published(state, "1")
    state.ask(Release("1"))
    assert state.ask(ReplayClaim("1", "k", "q", "r1", "client")) == Claimed()
    assert state.ask(start("1", "k", None)) == Run()
    assert state.ask(ReplayClaim("2", "k", "q", "r2", "client")) == HeldBy("1")
    assert state.ask(ReplayClaim("2", "k", "q", "r2", "client")) == HeldBy("1")


def test_a_replay_without_a_key_revives_the_job_once(state: Journaled) -> None:
    """It holds nothing; its late copy does not revive the job when it is over again."""
    state.ask(Release("1"))
    replay = ReplayClaim("1", None, "q", "r", "client")
    assert state.ask(replay) == Claimed()
    assert state.holders() == {}
    assert state.ask(start("1")) == Run()
    state.ask(Release("1"))
    assert state.ask(replay) == Claimed()
    assert state.ask(start("1")) == Finished()


def test_a_replay_forgets_the_cancellation(state: Journaled) -> None:
    """Whoever replays a job wants it to run; nodes hear that it is cancelled no more."""
    state.ask(Cancel("1", "client", 1))
    decision = state.decide(ReplayClaim("1", None, "q", "r", "client"))
    assert decision.events == (JobForgotten(2, "1"),)
    assert state.ask(start("1")) == Run()


def test_a_key_freed_by_hand_does_not_cost_the_job(state: Journaled) -> None:
    """Its job goes on without it, though another one holds the key by now."""
    published(state, "1")
    assert state.freed("k")["queue", "k"].job == "1"
    published(state, "2")
    assert state.ask(start("1", "k", "e")) == Run()
    assert state.ask(start("2", "k", "e")) == Wait()
    state.ask(Release("1"))
    assert state.holders() == {"k": "2", "e": "2"}


def test_a_job_whose_key_was_freed_by_hand_is_not_lost_however_long_it_queues(
    state: Journaled,
) -> None:
    """It starts without its key a day later, though another job holds that."""
    published(state, "1")
    state.freed("k")
    published(state, "2")
    state.now += 86_400
    state.expire()
    assert state.ask(start("1", "k", None)) == Run()
    assert state.ask(claim("3")) == HeldBy("2")


def test_many_keys_are_told_in_pieces_that_lose_none(
    state: Journaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was taken at one moment stays together; a freed key costs no other."""
    monkeypatch.setattr(controlling, "KEYS_PER_ANSWER", 3)
    for number in range(10):
        state.now = 1_000.0 + number // 4  # four at a time
        published(state, f"q{number}", f"k{number}")
        state.ask(start(f"e{number}", None, f"e{number}"))
    told: list[str] = []
    answer = state.ask(ListKeys())
    while True:
        assert isinstance(answer, Keys)
        told += [each.key for each in answer.keys]
        if answer.is_all:
            break
        assert 0 < len(answer.keys) <= 8
        state.freed(told[0])
        answer = state.ask(ListKeys(answer.keys[-1].since))
    assert sorted(told) == sorted([f"{kind}{number}" for kind in "ke" for number in range(10)])


def test_a_queue_with_keys_is_not_purged_at_once(state: Journaled) -> None:
    """Jobs with keys have to be released one by one; without them the queue may be purged."""
    published(state, "1")
    decision = state.decide(PurgeKeyless("q", "client", 1))
    assert decision.purge is None
    assert decision.answer is not None
    assert state.decide(PurgeKeyless("other", "client", 2)).purge == "other"
    state.ask(Release("1"))
    decision = state.decide(PurgeKeyless("q", "client", 3))
    assert (decision.purge, decision.answer) == ("q", None)


def test_a_job_may_hold_several_keys(state: Journaled) -> None:
    """An id that was enqueued with two keys frees both of them when it is over."""
    published(state, "1", "k1")
    state.ask(claim("1", "k2", "second"))
    assert state.holders() == {"k1": "1", "k2": "1"}
    state.ask(Release("1"))
    assert state.holders() == {}
