"""Jobs that go on without their deliveries: none does so beside its copy for long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import trio

from .._brokers.base import Broker
from .._control.asking import DEAD_AFTER
from .._control.fates import Fate
from .._logs import log_job
from .control import Control
from .performing import Running, StopReason

logger = logging.getLogger("roger_trio.jobs")

_LOOK_EVERY: Final = 0.1
_ASK_EVERY: Final = 5.0
"""Seconds between questions whether another node has got the delivery; the first is at once."""
_CUT_OFF_FOR: Final = 0.7 * DEAD_AFTER
"""Seconds without a connection after which no job may go on that other nodes take for dead."""


class OrphanWatch:
    """Looks after the jobs of a partition on this node that go on without their deliveries.

    Another node that gets such a delivery asks this one before it starts the job, and so learns
    of it; but while this node is cut off it does not hear that, and after a second counts as
    dead. So it asks itself, once it is connected again. A job with an execution key does not go on
    for that second, for in its place another job may be given the key.

    Args:
        control: What the workers of the partition use.
        broker: What they are connected to.
        orphans: Gives those jobs.
    """

    def __init__(
        self, control: Control, broker: Broker, orphans: Callable[[], Iterable[Running]]
    ) -> None:
        self._control = control
        self._broker = broker
        self._orphans = orphans

    async def run(self) -> NoReturn:
        """Look after them until cancelled."""
        while True:
            await self._control.orphaned.wait()
            self._control.orphaned = trio.Event()
            await self._tend()

    async def _tend(self) -> None:
        """Look after them until there are none."""
        while any(self._orphans()):
            if self._broker.is_connected:
                await self._ask_until_cut_off()
            else:
                await self._let_no_key_be_doubted(self._orphans())
                await trio.sleep(_LOOK_EVERY)

    async def _ask_until_cut_off(self) -> None:
        """Ask where they run; an answer is not waited for without a connection."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_asking)
            while self._broker.is_connected and any(self._orphans()):  # noqa: ASYNC110 -- no event for its end
                await trio.sleep(_LOOK_EVERY)
            nursery.cancel_scope.cancel()

    async def _keep_asking(self) -> NoReturn:
        while True:
            await self._look_for_copies(self._orphans())
            await trio.sleep(_ASK_EVERY)

    async def _let_no_key_be_doubted(self, orphans: Iterable[Running]) -> None:
        now = trio.current_time()
        late = [
            each
            for each in orphans
            if each.envelope.execution_key is not None and now - each.lost_at >= _CUT_OFF_FOR
        ]
        if late and await self._control.has_mates():
            for each in late:
                text = "stopped, as this node is cut off and the job has an execution key"
                log_job(logger, logging.WARNING, each.envelope, text)
                each.stop(StopReason.LOST)

    async def _look_for_copies(self, orphans: Iterable[Running]) -> None:
        async with trio.open_nursery() as nursery:
            for each in orphans:
                nursery.start_soon(self._look_for_copy, each)

    async def _look_for_copy(self, running: Running) -> None:
        fate = await self._control.find_fate(running.envelope, has=False)
        if fate is Fate.RUNS and running.is_orphan and not running.is_beyond_stopping:
            text = "stopped, as it runs on another node, which has its delivery"
            log_job(logger, logging.WARNING, running.envelope, text)
            running.stop(StopReason.LOST)
