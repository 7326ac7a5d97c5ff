"""What a partition on a node does with what it is told and asked."""

from __future__ import annotations

import itertools
import math

import pytest
import trio

from roger_trio._control.gathering import Asker
from roger_trio._state import operations as op
from tests.unit.tree.fakes import Desk, FakeBroker, make_membership


@pytest.mark.parametrize("is_known", [False, True])
async def test_who_is_asked_about_an_unknown_cancellation_learns_what_is_cancelled(
    is_known: bool,
) -> None:
    """It missed the event: before it starts another job, it asks the coordinator."""
    desk = Desk()
    membership = make_membership(FakeBroker(), desk)
    view = membership.control.view
    await view.sync()
    assert view.fresh_until == math.inf
    asker = Asker("inbox.client", 1)
    if is_known:
        membership.take_event(op.JobCancelled(1, "job", "inbox.client", 1))
    desk.synced = op.Synced(1, (), ("job",))
    membership.take_question({"ask": "cancel", "partition": "myapp", "job": "job"}, asker)
    assert view.fresh_until == (math.inf if is_known else -math.inf)
    await view.freshen()
    assert view.cancelled == {"job"}


async def test_who_is_asked_while_it_leaves_answers_nothing() -> None:
    """At no moment of its end does a question find a nursery that takes no more tasks."""
    membership = make_membership(FakeBroker())
    ended = trio.Event()

    async def keep_asking() -> None:
        for request in itertools.count():
            membership.take_question(
                {"ask": "pause", "partition": "myapp", "queue": "default"},
                Asker("inbox.client", request),
            )
            if ended.is_set():
                return
            await trio.lowlevel.checkpoint()

    with trio.fail_after(10):
        for _ in range(20):
            ended = trio.Event()
            async with trio.open_nursery() as nursery:
                await nursery.start(membership.run)
                nursery.start_soon(keep_asking)
                await membership.leave()
                ended.set()
