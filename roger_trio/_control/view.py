"""What a node knows of a partition before it starts a job: what is cancelled, what is paused."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import trio

from .._state.operations import Event, JobCancelled, JobForgotten, QueuePaused, QueueResumed, Synced

logger = logging.getLogger(__name__)

MAX_SILENCE: Final = 1.0
"""Seconds for which a node may not have been scheduled before it has to ask what it missed."""
_BEAT: Final = 0.3


class Pulse:
    """Notices that the process was frozen: what it knows may be out of date.

    Args:
        now: A steady clock that also counts while the process is frozen.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._last = now()
        self.breaks = 0
        """How often it was frozen."""
        self.views: set[View] = set()
        """Those that are fresh only while the pulse goes on."""

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await trio.sleep(_BEAT)

    def beat(self) -> None:
        """Keep the fresh views fresh for a while, or notice that there was a break."""
        self.feel()
        self._last = self._now()
        for view in self.views:
            view.prolong()

    def feel(self) -> int:
        """Return how many breaks there were, one that has just ended included."""
        now = self._now()
        if now - self._last > MAX_SILENCE:
            self.breaks += 1
            self._last = now
            for view in self.views:
                view.expire()
        return self.breaks

    @property
    def lasts_until(self) -> float:
        """Until when the last beat counts."""
        return self._last + MAX_SILENCE


class View:
    """What one node knows of one partition, as of the last `sync` and the events since.

    Args:
        partition: Its name, for the log.
        ask: Asks the coordinator; the answer is as of some moment after the call.
        pulse: What tells that the process was frozen; None: it is of no concern.
    """

    def __init__(
        self, partition: str, ask: Callable[[], Awaitable[Synced]], pulse: Pulse | None = None
    ) -> None:
        self._partition = partition
        self._ask = ask
        self._pulse = pulse
        self._syncing: trio.Event | None = None
        self._missed: list[Event] = []
        self._has_gap = False
        self.fresh_until = -math.inf
        """Until when, on the pulse's clock, jobs may be started without a new `sync`."""
        self.version = 0
        """The newest change that is known."""
        self.cancelled: set[str] = set()
        """Ids of jobs that must not be started."""
        self.paused: set[str] = set()
        """Queues of which no job must be started."""
        self.on_synced: Callable[[], None] = _nothing
        """Called after each sync, before whoever waited for it goes on."""
        self.on_gap: Callable[[], None] = _nothing
        """Called when an event shows that others were missed."""

    # Being fresh...

    @contextmanager
    def following(self, pulse: Pulse | None) -> Generator[None]:
        """Let a pulse say how long it is fresh, in the block."""
        if pulse is not None:
            pulse.views.add(self)
        try:
            yield
        finally:
            self.expire()
            if pulse is not None:
                pulse.views.discard(self)

    def prolong(self) -> None:
        """Stay fresh for a while, if it is."""
        if self._pulse is not None and self.fresh_until > -math.inf:
            self.fresh_until = self._pulse.lasts_until

    def expire(self) -> None:
        """Be out of date until the next sync."""
        self.fresh_until = -math.inf

    def doubt(self) -> None:
        """Be out of date, as something may have been missed; a sync on its way does not count."""
        self._has_gap = True
        self.expire()

    async def freshen(self) -> None:
        """Return once it is fresh: at once if it is."""
        if self._pulse is not None:
            self._pulse.feel()
        while self.fresh_until == -math.inf:
            await self.sync()

    async def sync(self) -> None:
        """Ask the coordinator; return once there is an answer. Who calls meanwhile shares it."""
        while self._syncing is not None:
            shared = self._syncing
            await shared.wait()
            if self.fresh_until > -math.inf:
                return
        self._syncing = trio.Event()
        try:
            await self._sync()
        finally:
            self._syncing.set()
            self._syncing = None
            self._missed.clear()
        self.on_synced()

    async def _sync(self) -> None:
        while True:
            breaks = self._pulse.feel() if self._pulse is not None else 0
            self._has_gap = False
            self._take(await self._ask())
            if self._has_gap:
                continue
            if self._pulse is None:
                self.fresh_until = math.inf
                return
            # The answer may have waited here while the process was frozen.
            if self._pulse.feel() == breaks:
                self.fresh_until = self._pulse.lasts_until
                return

    def _take(self, answer: Synced) -> None:
        self.version = answer.version
        self.paused = set(answer.paused)
        self.cancelled.clear()  # The workers look into this very set.
        self.cancelled.update(answer.cancelled)
        missed, self._missed = self._missed, []
        for event in missed:
            if event.version > self.version:
                self._apply(event)

    # What changes...

    def apply(self, event: Event) -> None:
        """Take note of a change that the coordinator tells."""
        if self._syncing is not None:
            self._missed.append(event)
        if event.version != self.version:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        # One that is older comes from a coordinator that has forgotten what it knew.
        if event.version != self.version + 1:
            self._notice_gap()
        self.version = event.version
        match event:
            case JobCancelled(job=job):
                self.cancelled.add(job)
            case JobForgotten(job=job):
                self.cancelled.discard(job)
            case QueuePaused(queue=queue):
                self.paused.add(queue)
            case QueueResumed(queue=queue):
                self.paused.discard(queue)

    def _notice_gap(self) -> None:
        self._has_gap = True
        if self.fresh_until == -math.inf:
            return  # It is out of date already, and a sync is due.
        logger.debug("partition %r: some changes were missed", self._partition)
        self.expire()
        self.on_gap()


def _nothing() -> None:
    """Do nothing."""
