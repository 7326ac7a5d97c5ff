"""The pump: the one task that moves messages between the database and the channels.

In one transaction it writes what was settled since, closes the channels that have ended, and
borrows as many messages as the subscriptions have room for. It runs when there is something to
do and at no other time. What it could not write it keeps, and tries again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NoReturn

import attrs
import trio

from ..base import BrokerError, ConnectionLost
from .channels import EmbeddedChannel, Subscription
from .engine import Engine
from .runner import Runner
from .values import Broadcast, Row

logger = logging.getLogger(__name__)

_RETRY: Final = 0.25
"""Seconds after which is tried again what the database did not take."""


@attrs.frozen
class Settlements:
    """What one channel has to tell the database."""

    channel: EmbeddedChannel
    acked: list[int]
    returned: list[int]
    is_last: bool
    """Whether the channel has ended."""


@attrs.frozen
class Claim:
    """What one subscription asks of the database."""

    channel: EmbeddedChannel
    subscription: Subscription
    room: int


@attrs.frozen
class Turn:
    """What one turn of the pump brought."""

    claimed: Sequence[Sequence[Row]]
    broadcasts: Sequence[Broadcast]
    next_due: float | None


class Pump:
    """Moves messages; see above.

    Args:
        runner: Runs transactions.
        now: The clock of delays, in seconds.
        process: What the database knows us by.
        on_broadcasts: Takes what was said to us.
        where: What logs call the database.
    """

    def __init__(
        self,
        runner: Runner,
        now: Callable[[], float],
        process: str,
        on_broadcasts: Callable[[Sequence[Broadcast]], None],
        where: str,
    ) -> None:
        self._runner = runner
        self._now = now
        self._process = process
        self._on_broadcasts = on_broadcasts
        self._where = where
        self._channels: list[EmbeddedChannel] = []
        self._work = trio.Event()
        self._next_due = math.inf
        self._flushes: list[trio.Event] = []
        self._stopped = False
        self.trouble = ""
        """Why the database did not take what it was told last, or ''."""

    def stir(self) -> None:
        """There is something to do."""
        self._work.set()

    def look_again(self) -> None:
        """Any queue may have something."""
        self._stir_subscriptions(None)
        self.stir()

    def check_due(self) -> None:
        """Look at the clock: while the machine is suspended it goes on, and waits do not."""
        if self._now() >= self._next_due:
            self.stir()

    def stir_queues(self, queues: frozenset[int]) -> None:
        """These queues may have something."""
        if queues:
            self._stir_subscriptions(queues)

    def _stir_subscriptions(self, queues: frozenset[int] | None) -> None:
        for channel in self._channels:
            for subscription in channel.subscriptions:
                if queues is None or subscription.number in queues:
                    subscription.may_have_more = True
                    self.stir()

    # Channels come and go...

    def add(self, channel: EmbeddedChannel) -> None:
        """Serve a channel.

        Raises:
            ConnectionLost: The pump has stopped.
        """
        if self._stopped:
            raise ConnectionLost("the broker is closed")
        self._channels.append(channel)

    async def close(self, channel: EmbeddedChannel, reason: str) -> None:
        """End a channel, and wait until what was on loan to it has gone back."""
        channel.lose(ConnectionLost(reason))
        if not self._stopped:
            await channel.closed.wait()

    async def drop_all(self, reason: str) -> None:
        """End every channel as if a connection were cut: what is not yet committed is void."""
        channels = list(self._channels)
        for channel in channels:
            channel.take_settlements()
            channel.lose(ConnectionLost(reason))
        for channel in channels:
            await channel.closed.wait()

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is committed, or never can be."""
        done = trio.Event()
        if self._stopped:
            done.set()
        self._flushes.append(done)
        self.stir()
        await done.wait()

    # Turning...

    async def run(self) -> NoReturn:
        """Turn whenever there is something to do."""
        while True:
            with trio.move_on_after(self._until_due()):
                await self._work.wait()
            self._work = trio.Event()
            try:
                await self._turn()
            except BrokerError as exc:
                self._report(str(exc))
                await trio.sleep(_RETRY)
                self.stir()
            else:
                self.trouble = ""

    def _until_due(self) -> float:
        if any(channel.subscriptions for channel in self._channels):
            return max(0.0, self._next_due - self._now())
        return math.inf

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            text = "%s: %s; trying again, nothing is forgotten"
            logger.error(text, self._where, trouble)
        self.trouble = trouble

    async def stop(self) -> bool:
        """Write what was settled, give back the rest; return whether the database took it."""
        for channel in self._channels:
            channel.lose(ConnectionLost("the broker is closed"))
        settlements, flushes = self._take_settlements(), self._take_flushes()
        self._stopped = True
        try:
            await self._runner.call(partial(_leave, settlements=settlements, process=self._process))
        except BrokerError as exc:
            text = "%s: %s; what was settled last will be redelivered"
            logger.error(text, self._where, exc)
            return False
        finally:
            for event in (*flushes, *(channel.closed for channel in self._channels)):
                event.set()
        return True

    def _take_settlements(self) -> list[Settlements]:
        taken: list[Settlements] = []
        for channel in self._channels:
            is_last = channel.lost is not None
            if is_last or channel.acked or channel.returned:
                taken.append(Settlements(channel, *channel.take_settlements(), is_last))
        return taken

    def _take_flushes(self) -> list[trio.Event]:
        flushes, self._flushes = self._flushes, []
        return flushes

    def _take_claims(self) -> list[Claim]:
        claims = [
            Claim(channel, subscription, subscription.room)
            for channel in self._channels
            for subscription in channel.subscriptions
            if subscription.room
        ]
        for claim in claims:
            # Before the question, not after: what is published while it is answered counts.
            claim.subscription.may_have_more = False
        return claims

    async def _turn(self) -> None:
        settlements, flushes, claims = (
            self._take_settlements(),
            self._take_flushes(),
            self._take_claims(),
        )
        work = partial(
            _turn, settlements=settlements, claims=claims, now=self._now(), process=self._process
        )
        try:
            turn = await self._runner.call(work)
        except BaseException:
            # Settling twice does no harm, so it does none that this may have been done.
            self._flushes[:0] = flushes
            self._put_back(settlements, claims)
            raise
        self._next_due = math.inf if turn.next_due is None else turn.next_due
        for settled in settlements:
            if settled.is_last:
                self._channels.remove(settled.channel)
                settled.channel.closed.set()
        for flush in flushes:
            flush.set()
        for claim, rows in zip(claims, turn.claimed, strict=True):
            if len(rows) == claim.room:
                claim.subscription.may_have_more = True
            claim.channel.receive(claim.subscription, rows)
        if turn.broadcasts:
            self._on_broadcasts(turn.broadcasts)

    def _put_back(self, settlements: Sequence[Settlements], claims: Sequence[Claim]) -> None:
        for each in settlements:
            each.channel.acked[:0] = each.acked
            each.channel.returned[:0] = each.returned
        for claim in claims:
            claim.subscription.may_have_more = True


def _settle(engine: Engine, settlements: Sequence[Settlements]) -> None:
    for each in settlements:
        engine.settle(each.channel.number, each.acked, each.returned)
        if each.is_last:
            engine.close_channel(each.channel.number)


def _turn(
    engine: Engine,
    settlements: Sequence[Settlements],
    claims: Sequence[Claim],
    now: float,
    process: str,
) -> Turn:
    _settle(engine, settlements)
    next_due = engine.promote(now)
    claimed = [
        engine.claim(each.channel.number, each.subscription.number, each.room) for each in claims
    ]
    return Turn(claimed, engine.collect(process), next_due)


def _leave(engine: Engine, settlements: Sequence[Settlements], process: str) -> None:
    _settle(engine, settlements)
    engine.close_process(process)
