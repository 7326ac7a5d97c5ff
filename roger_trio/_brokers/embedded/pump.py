"""The pump: the one task that moves messages between the database and the channels.

In one transaction it writes what was settled since, closes the channels that have ended, and
borrows as many messages as the subscriptions have room for. It runs when there is something to
do and at no other time. What it could not write it keeps, and tries again.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, NoReturn

import attrs
import trio

from ..base import BrokerError, ConnectionLost
from .channels import EmbeddedChannel, Pile, Subscription
from .engine import TAKEN_FOR_DEAD, Engine
from .runner import Runner
from .values import Broadcast, Row, Stuck

logger = logging.getLogger(__name__)

_RETRY: Final = 0.25
"""Seconds after which is tried again what the database did not take."""
_RETRY_STUCK: Final = 1.0
"""Seconds after which is tried again to send on what had nowhere to go."""
_LENT_AT_ONCE: Final = 1000
"""Messages claimed for one subscription in one transaction; the rest follow in the next."""


@attrs.define
class Settlements:
    """What one channel has to tell the database."""

    channel: EmbeddedChannel
    pile: Pile
    is_last: bool
    """Whether the channel has ended."""
    is_done: bool = False
    """Whether a transaction has had them; it need not have been committed."""


@attrs.frozen
class Settled:
    """What became of them."""

    stuck: Sequence[tuple[EmbeddedChannel, Stuck]]
    overdue: Collection[str]
    """Processes that did not get what was said to them."""


@attrs.frozen
class Claim:
    """What one subscription asks of the database."""

    channel: EmbeddedChannel
    subscription: Subscription
    limit: int


@attrs.frozen
class Turn:
    """What one turn of the pump brought."""

    settled: Settled
    superseded: Sequence[EmbeddedChannel]
    """Channels that were taken back, because our process was taken for dead."""
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
        on_overdue: Takes the processes that do not get what was said to them.
        where: What logs call the database.
    """

    def __init__(
        self,
        runner: Runner,
        now: Callable[[], float],
        process: str,
        on_broadcasts: Callable[[Sequence[Broadcast]], None],
        on_overdue: Callable[[Collection[str]], None],
        where: str,
    ) -> None:
        self._runner = runner
        self._now = now
        self._process = process
        self._on_broadcasts = on_broadcasts
        self._on_overdue = on_overdue
        self._where = where
        self._channels: dict[EmbeddedChannel, None] = {}
        # A turn must not cost more the more channels there are that have nothing to do.
        self._stirred: dict[EmbeddedChannel, None] = {}
        """Those that may have something to tell, or to get, in the order they came up in."""
        self._consuming: defaultdict[int, dict[EmbeddedChannel, None]] = defaultdict(dict)
        """Number of a queue → those that consume it, or did."""
        self._work = trio.Event()
        self._next_due = math.inf
        self._flushes: list[trio.Event] = []
        self._unsure: list[Settlements] = []
        """What the database may have been told, or not: we were cancelled meanwhile."""
        self._missing: frozenset[str] = frozenset()
        """Queues that messages could not be sent on to, for want of the queue."""
        self._stopped = False
        self.trouble = ""
        """Why the database did not take what it was told last, or ''."""

    def stir(self) -> None:
        """There is something to do."""
        self._work.set()

    def stir_channel(self, channel: EmbeddedChannel) -> None:
        """A channel has something to tell, or room for more."""
        self._stirred[channel] = None
        self._work.set()

    def note_subscription(self, channel: EmbeddedChannel, subscription: Subscription) -> None:
        """A channel consumes one more queue."""
        self._consuming[subscription.number][channel] = None
        self.stir_channel(channel)

    def look_again(self) -> None:
        """Any queue may have something."""
        self.stir_queues(frozenset(self._consuming))
        self.stir()

    def check_due(self) -> None:
        """Look at the clock: while the machine is suspended it goes on, and waits do not."""
        if self._now() >= self._next_due:
            self.stir()

    def stir_queues(self, queues: frozenset[int]) -> None:
        """These queues may have something."""
        for number in queues:
            for channel in self._consuming.get(number, ()):
                for subscription in channel.subscriptions:
                    if subscription.number == number:
                        subscription.may_have_more = True
                        self._stirred[channel] = None
                        self.stir()

    # Channels come and go...

    def add(self, channel: EmbeddedChannel) -> None:
        """Serve a channel.

        Raises:
            ConnectionLost: The pump has stopped.
        """
        if self._stopped:
            raise ConnectionLost("the broker is closed")
        self._channels[channel] = None

    def _remove(self, channel: EmbeddedChannel) -> None:
        """Serve a channel no more."""
        del self._channels[channel]
        self._stirred.pop(channel, None)
        for number in channel.consumed:
            consuming = self._consuming[number]
            del consuming[channel]
            if not consuming:
                del self._consuming[number]
        channel.closed.set()

    async def close(self, channel: EmbeddedChannel, reason: str) -> None:
        """End a channel, and wait until what was on loan to it has gone back."""
        channel.lose(ConnectionLost(reason))
        if not self._stopped:
            await channel.closed.wait()

    async def drop_all(self, reason: str) -> None:
        """End every channel as if a connection were cut: what is not yet committed is void."""
        channels = list(self._channels)
        for channel in channels:
            channel.take_pile()
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
        wait = math.inf
        if any(channel.subscriptions for channel in self._channels):
            wait = max(0.0, self._next_due - self._now())
        if any(channel.pile for channel in self._stirred):
            wait = min(wait, _RETRY_STUCK)
        return wait

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            text = "%s: %s; trying again, nothing is forgotten"
            logger.error(text, self._where, trouble)
        self.trouble = trouble

    async def stop(self) -> bool:
        """Write what was settled, give back the rest; return whether the database took it."""
        for channel in self._channels:
            channel.lose(ConnectionLost("the broker is closed"))
        settlements = _take_settlements(self._channels)
        flushes = self._take_flushes()
        self._stopped = True
        leave = partial(_leave, unsure=self._unsure, settlements=settlements, process=self._process)
        try:
            await self._runner.call(leave)
        except BrokerError as exc:
            text = "%s: %s; what was settled last will be redelivered"
            logger.error(text, self._where, exc)
            return False
        finally:
            for event in (*flushes, *(channel.closed for channel in self._channels)):
                event.set()
        return True

    def _take_flushes(self) -> list[trio.Event]:
        flushes, self._flushes = self._flushes, []
        return flushes

    async def _turn(self) -> None:
        stirred, self._stirred = self._stirred, {}
        settlements, flushes = _take_settlements(stirred), self._take_flushes()
        claims = _take_claims(stirred)
        work = partial(
            _turn,
            channels=list(stirred),
            settlements=settlements,
            claims=claims,
            now=self._now(),
            process=self._process,
        )
        try:
            turn = await self._runner.call(work)
        except BaseException as exc:
            self._flushes[:0] = flushes
            self._put_back(settlements, claims, is_undone=isinstance(exc, BrokerError))
            raise
        self._next_due = math.inf if turn.next_due is None else turn.next_due
        for settled in settlements:
            if settled.is_last:
                self._remove(settled.channel)
        for flush in flushes:
            flush.set()
        self._consider(turn)
        for claim, rows in zip(claims, turn.claimed, strict=True):
            if len(rows) == claim.limit:
                claim.subscription.may_have_more = True
            claim.channel.receive(claim.subscription, rows)
            if claim.subscription.room:
                self.stir_channel(claim.channel)  # It has more room than was claimed for at once.
        if turn.broadcasts:
            self._on_broadcasts(turn.broadcasts)

    def _consider(self, turn: Turn) -> None:
        """Draw the conclusions from what became of channels and settlements."""
        settled = turn.settled
        for channel in turn.superseded:
            channel.lose(ConnectionLost(TAKEN_FOR_DEAD))
        for channel, stuck in settled.stuck:
            channel.pile.forwarded.append(stuck.id)
            self._stirred[channel] = None  # To be tried again after a while.
        missing = frozenset(stuck.onward for _, stuck in settled.stuck)
        for queue in missing - self._missing:
            text = "%s: there is no queue %r: messages to be sent on to it stay where they are"
            logger.warning(text, self._where, queue)
        self._missing = missing
        if settled.overdue:
            self._on_overdue(settled.overdue)

    def _put_back(
        self, settlements: Sequence[Settlements], claims: Sequence[Claim], *, is_undone: bool
    ) -> None:
        if is_undone:
            for each in settlements:
                each.pile.precede(each.channel.pile)
                self._stirred[each.channel] = None
        else:
            self._unsure += settlements
        for claim in claims:
            claim.subscription.may_have_more = True
            self._stirred[claim.channel] = None


def _take_settlements(channels: Iterable[EmbeddedChannel]) -> list[Settlements]:
    taken: list[Settlements] = []
    for channel in channels:
        is_last = channel.lost is not None
        if is_last or channel.pile:
            taken.append(Settlements(channel, channel.take_pile(), is_last))
    return taken


def _take_claims(channels: Iterable[EmbeddedChannel]) -> list[Claim]:
    claims = [
        Claim(channel, subscription, min(subscription.room, _LENT_AT_ONCE))
        for channel in channels
        for subscription in channel.subscriptions
        if subscription.room
    ]
    for claim in claims:
        # Before the question, not after: what is published while it is answered counts.
        claim.subscription.may_have_more = False
    return claims


def _settle(engine: Engine, settlements: Sequence[Settlements]) -> Settled:
    stuck: list[tuple[EmbeddedChannel, Stuck]] = []
    overdue: set[str] = set()
    for each in settlements:
        number, pile = each.channel.number, each.pile
        engine.settle(number, pile.acked, pile.returned)
        if pile.forwarded:
            found = engine.forward(number, pile.forwarded)
            stuck += [(each.channel, one) for one in found if not each.is_last]
        if pile.said and engine.is_open(number):
            overdue.update(_say(engine, pile.said))
        if each.is_last:
            engine.close_channel(number)
        each.is_done = True
    return Settled(stuck, overdue)


def _say(engine: Engine, said: Sequence[Broadcast]) -> set[str]:
    """Broadcast; return the processes that do not get all of it."""
    return {each for one in said for each in engine.post.broadcast(one.topic, one.body).overdue}


def _turn(
    engine: Engine,
    channels: Sequence[EmbeddedChannel],
    settlements: Sequence[Settlements],
    claims: Sequence[Claim],
    now: float,
    process: str,
) -> Turn:
    # Before those that have ended are closed, which are not there after it.
    superseded = [each for each in channels if not engine.is_open(each.number)]
    settled = _settle(engine, settlements)
    next_due = engine.promote(now)
    claimed = [
        engine.claim(each.channel.number, each.subscription.number, each.limit) for each in claims
    ]
    return Turn(settled, superseded, claimed, engine.post.collect(process), next_due)


def _leave(
    engine: Engine,
    unsure: Sequence[Settlements],
    settlements: Sequence[Settlements],
    process: str,
) -> None:
    # What was asked before this was done before this, if it was: nothing is to be said twice.
    _settle(engine, [*(each for each in unsure if not each.is_done), *settlements])
    engine.close_process(process)
