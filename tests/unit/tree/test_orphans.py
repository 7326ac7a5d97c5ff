"""Jobs without their deliveries: when they are asked about, and when they are stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from roger_trio._brokers.base import Broker
from roger_trio._control.asking import DEAD_AFTER
from roger_trio._tree.orphans import OrphanWatch
from roger_trio._tree.performing import Running, StopReason
from tests.unit.tree.fakes import Desk, FakeBroker, make_control, make_envelope


class Silent(Desk):
    """Another node, whose answer never comes."""

    async def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Mapping[str, Any]:
        self.questions.append(question)
        await trio.sleep(timeout)
        return {}


@asynccontextmanager
async def watching(desk: Desk, running: Running) -> AsyncIterator[FakeBroker]:
    """Watch over a job that has just lost its delivery, until it is stopped."""
    desk.mates = ["inbox.two"]
    broker, control = FakeBroker(), make_control(desk)
    running.lost_at = trio.current_time()
    watch = OrphanWatch(
        control, cast("Broker", broker), lambda: [] if running.stopped else [running]
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        control.orphaned.set()
        yield broker
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", [None, "k"])
async def test_who_is_cut_off_while_it_asks_stops_in_time(
    key: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    """The answer may have gone with the connection: it is not waited for before the job stops.

    Others give a node up that does not answer for `DEAD_AFTER`, and hand the key on.
    """
    desk, running = Silent(), Running(make_envelope(execution_key=key))
    async with watching(desk, running) as broker:
        await trio.sleep(0.05)
        assert len(desk.questions) == 1
        broker.is_connected = False
        await trio.sleep(DEAD_AFTER - 0.05)
        assert running.stopped is (StopReason.LOST if key else None)


async def test_who_is_back_asks_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """However shortly before the connection was lost it had asked."""
    desk, running = Silent(), Running(make_envelope())
    async with watching(desk, running) as broker:
        for asked in (1, 2, 3):
            broker.is_connected = True
            await trio.sleep(0.2)
            assert len(desk.questions) == asked
            broker.is_connected = False
            await trio.sleep(0.2)
