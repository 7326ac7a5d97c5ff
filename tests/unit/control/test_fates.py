"""What became of a job: whom a node asks, how long it waits, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from roger_trio._control.fates import ANSWER_WITHIN, Fate, Fates, Inquiry, dump_fate, read_fate
from roger_trio._control.gathering import NobodyListens, NoReply
from roger_trio._control.roster import Card, Identity, Roster, Unreadable
from roger_trio._jobs.copies import Copy, Instance

COPY = Copy("j1", datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), 2, 7)
HAS = Inquiry("mail", "default", Instance(COPY, 3), has=True)
LOOK = Inquiry("mail", "default", Instance(COPY, 3), has=False)

SILENT = "silent"
GONE = "gone"


class Mates:
    """Other nodes, each with what it does when it is asked: the last of it again and again."""

    def __init__(self, **answers: list[Fate | str]) -> None:
        self.answers = answers
        self.dead_at = 1.0
        self.asked: list[str] = []
        self.roster = Roster("inbox.own")

    async def find_mates(self, partition: str) -> Sequence[str]:
        assert partition == "mail"
        return list(self.answers)

    def is_dead(self, inbox: str) -> bool:
        return trio.current_time() >= self.dead_at

    async def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Mapping[str, Any]:
        assert Inquiry.from_json(question) in (HAS, LOOK)
        self.asked.append(inbox)
        line = self.answers[inbox]
        answer = line.pop(0) if len(line) > 1 else line[0]
        await trio.sleep(0.01)
        if answer == SILENT:
            await trio.sleep(timeout)
            raise NoReply(inbox)
        if answer == GONE:
            raise NobodyListens(inbox)
        assert isinstance(answer, Fate)
        return dump_fate(answer)

    def note_silence(self, inbox: str, seconds: float) -> None:
        self.roster.note_silence(inbox, seconds)

    def is_silent(self, inbox: str) -> bool:
        return self.roster.is_silent(inbox)


async def test_alone_nobody_is_asked() -> None:
    """And it takes no time."""
    before = trio.current_time()
    assert await Fates(Mates()).find(HAS) is Fate.ABSENT
    assert trio.current_time() - before < 0.1


async def test_the_most_telling_answer_counts(autojump_clock: MockClock) -> None:
    """That it is done even before the others have answered."""
    assert await Fates(Mates(a=[Fate.ABSENT], b=[Fate.ABSENT])).find(HAS) is Fate.ABSENT
    assert await Fates(Mates(a=[Fate.ABSENT], b=[Fate.SURVIVED])).find(HAS) is Fate.SURVIVED
    before = trio.current_time()
    assert await Fates(Mates(a=[SILENT], b=[Fate.DONE])).find(HAS) is Fate.DONE
    assert trio.current_time() - before < ANSWER_WITHIN


async def test_one_who_runs_the_job_counts_more_than_one_who_had_it() -> None:
    """Whoever answers first."""
    for mates in ({"a": Fate.RUNS, "b": Fate.SURVIVED}, {"a": Fate.SURVIVED, "b": Fate.RUNS}):
        answers = {inbox: [fate] for inbox, fate in mates.items()}
        assert await Fates(Mates(**answers)).find(HAS) is Fate.RUNS


async def test_a_node_that_may_be_reconnecting_is_asked_again(autojump_clock: MockClock) -> None:
    """Until it is given up."""
    back, dead = Mates(a=[GONE, GONE, Fate.DONE]), Mates(a=[GONE])
    dead.dead_at = back.dead_at = trio.current_time() + 1.0
    assert await Fates(back).find(HAS) is Fate.DONE
    assert await Fates(dead).find(HAS) is Fate.ABSENT
    assert dead.dead_at <= trio.current_time() <= dead.dead_at + 0.3


async def test_a_frozen_node_is_waited_for_once_in_a_while(autojump_clock: MockClock) -> None:
    """A backlog that came back is not held up job by job."""
    fates = Fates(Mates(a=[SILENT]))
    times = [trio.current_time()]
    for _ in range(3):
        assert await fates.find(HAS) is Fate.ABSENT
        times.append(trio.current_time())
    assert times[1] - times[0] >= ANSWER_WITHIN
    assert times[3] - times[1] < 0.1
    await trio.sleep(10)
    before = trio.current_time()
    await fates.find(HAS)
    assert trio.current_time() - before >= ANSWER_WITHIN


async def test_a_node_that_was_frozen_is_asked_as_soon_as_it_is_heard(
    autojump_clock: MockClock,
) -> None:
    """It runs what it ran before: a job of it must not be started elsewhere meanwhile."""
    mates = Mates(a=[SILENT, Fate.RUNS])
    fates = Fates(mates)
    assert await fates.find(HAS) is Fate.ABSENT
    assert await fates.find(HAS) is Fate.ABSENT
    mates.roster.hear_from("a")
    assert await fates.find(HAS) is Fate.RUNS


@pytest.mark.parametrize("inquiry", [HAS, LOOK])
def test_an_inquiry_survives_the_way(inquiry: Inquiry) -> None:
    """Exactly: what is compared is when the job was enqueued, to the microsecond."""
    assert Inquiry.from_json(inquiry.as_json()) == inquiry


@pytest.mark.parametrize(
    "change",
    [
        {"copy": None},
        {"copy": []},
        {"copy": ["j1", "yesterday", 0, 0, 0]},
        {"copy": ["j1", "2026-01-02T03:04:05", 0, 0, 0]},
        {"copy": ["j1", COPY.queued_at.isoformat(), -1, 0, 0]},
        {"copy": ["j1", COPY.queued_at.isoformat(), 0, "0", 0]},
        {"queue": 5},
        {"partition": None},
    ],
)
def test_what_is_no_inquiry_is_refused(change: dict[str, Any]) -> None:
    """Never guessed."""
    with pytest.raises(Unreadable):
        Inquiry.from_json(HAS.as_json() | change)


def test_an_answer_that_is_not_known_says_nothing() -> None:
    """Of a later version, or of one that cannot be asked."""
    assert [read_fate(dump_fate(each)) for each in Fate] == list(Fate)
    assert read_fate({"fate": "reborn"}) is read_fate({}) is Fate.ABSENT


async def test_a_roster_keeps_in_mind_who_may_be_reconnecting(autojump_clock: MockClock) -> None:
    """Not who has said goodbye; hearsay does not make one young again, its own word does."""
    card = _card("inbox.a", "mail")
    roster = Roster("inbox.own")
    roster.hear(card)
    roster.hear(_card("inbox.b", "other"))
    assert roster.hosts_of("mail") == {"inbox.a"}
    roster.forget("inbox.a")
    since = roster.away_since("inbox.a")
    assert (since, roster.get("inbox.a")) == (trio.current_time(), None)
    assert roster.hosts_of("mail") == {"inbox.a"}
    await trio.sleep(1)
    roster.hear_of([card])
    roster.forget("inbox.a")
    assert roster.away_since("inbox.a") == since
    roster.hear(card)
    assert roster.away_since("inbox.a") is None
    roster.dismiss("inbox.a")
    assert roster.hosts_of("mail") == set()


def _card(inbox: str, partition: str) -> Card:
    identity = Identity(
        name=inbox, host="h", pid=1, version="1", started_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Card(identity=identity, inbox=inbox, partitions={partition: {}}, settled=True)
