"""The coordinator of a partition: one in the cluster, on the node that the broker chooses."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from .._brokers.base import Broker, BrokerError, ConnectionLost, Message
from .._state.operations import Fresh
from .._state.store import Store
from .._topology import PartitionNames
from . import wire
from .term import Duties, Term

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 30.0
"""Seconds between attempts to consume a queue the broker refuses."""
_COMPLAINTS: Final = 100
"""Different things that are logged once each."""


class Coordinator:
    """Takes its terms as the coordinator of one partition, whenever the broker says so.

    It answers on the channel on which it is the active consumer, after it has saved: one that was
    superseded is heard by nobody. What it leaves unacknowledged, the next one gets again.

    Args:
        broker: Where the commands are.
        prefix: The cluster's prefix.
        partition: The partition's name.
        store: Keeps what it has decided.
        is_heard: Finds out whether anybody listens at an inbox.
        is_wanted: Finds out whether a request from an inbox is still waited for.
    """

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        partition: str,
        store: Store,
        is_heard: Callable[[str], Awaitable[bool]],
        is_wanted: Callable[[str, int], Awaitable[bool]],
    ) -> None:
        self._broker = broker
        self._partition = partition
        self._names = PartitionNames.of(prefix, partition)
        self._duties = Duties(
            partition=partition,
            prefix=prefix,
            names=self._names,
            broker=broker,
            store=store,
            is_heard=is_heard,
            is_wanted=is_wanted,
            complain=self._complain,
        )
        self._complaints: set[str] = set()
        self._made_at: float | None = None
        """When the queue of commands was made by us, until the coordinator is told of it."""
        self._pausing = trio.CancelScope()
        self._term: Term | None = None
        self.stopping: trio.Event = trio.Event()
        """Set once it has been asked to stop."""
        self.declared = trio.Event()
        """Set once the partition's own queues are there: who asks before has to ask again."""

    async def run(self) -> None:
        """Take terms until `stop`.

        Raises:
            Exception: The state could not be loaded or saved; to be run again after a pause. The
                commands come again.
        """
        pause, trouble = _FIRST_PAUSE, ""
        while not self.stopping.is_set():
            try:
                await self._take_term()
                pause = _FIRST_PAUSE
            except ConnectionLost as exc:
                logger.debug("coordinator of partition %r: %s", self._partition, exc)
                pause = _FIRST_PAUSE
            except BrokerError as exc:
                if str(exc) != trouble:
                    logger.error("cannot coordinate partition %r: %s", self._partition, exc)
                pause, trouble = min(_MAX_PAUSE, pause * 2), str(exc)
            if not self.stopping.is_set():
                with trio.CancelScope() as self._pausing:
                    await trio.sleep(pause)

    def stop(self) -> None:
        """Take no more: `run` returns when what is in hand is done."""
        self.stopping.set()
        self._pausing.cancel()
        if self._term is not None:
            self._term.stop()

    async def _take_term(self) -> None:
        with trio.CancelScope() as self._pausing:
            await self._broker.wait_connected()
            await self._declare()
        if self.stopping.is_set():
            return
        async with self._broker.open_channel(speaks=True) as channel:
            self._term = Term(self._duties, channel)
            try:
                if not self.stopping.is_set():
                    await self._term.run()
                await channel.flush()
            finally:
                self._term = None

    async def _declare(self) -> None:
        """Have all queues of the partition there, before it takes jobs.

        At once, so that what a new queue has to be waited for is waited for once, and none is made
        later, when a broker that is killed would forget it with the jobs of an older one.
        """
        name, before = self._names.coordinator, time.time()
        specs = (*self._names.specs(), *self._duties.store.queues)
        if name in await self._broker.declare(specs, afresh=True):
            self._made_at = before
        if self._made_at is not None:
            # Another node may become the coordinator first, so it is told like the rest.
            body = wire.encode(wire.Commands("", 0, (Fresh(self._made_at),)))
            await self._broker.publish(name, Message(body))
            self._made_at = None
        self.declared.set()

    def _complain(self, text: str) -> None:
        if len(self._complaints) < _COMPLAINTS and text not in self._complaints:
            self._complaints.add(text)
            logger.warning("partition %r: %s", self._partition, text)
