"""How one process asks others, and collects what they reply until a deadline."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, Final

import trio

from .._brokers.base import Broker, BrokerError
from .._topology import NODES_TOPIC, inbox_topic, is_topic
from . import wire
from .gathering import REPEATS, FromMembers, Gathered, Gathering, NobodyListens, NoReply
from .roster import Roster

logger = logging.getLogger(__name__)

JOIN_TIMEOUT: Final = 2.0
"""Seconds that a new node waits for the others to tell who they are."""
DEAD_AFTER: Final = 1.0
"""Seconds for which nobody must listen at a node's inbox: it may be about to reconnect."""
_ALL_ARE_BACK: Final = 5.0
"""Seconds in which nodes find a broker that has returned."""
_COMPLAINTS: Final = 100
"""Different reasons for ignoring something that are logged."""
_SAY_TIMEOUT: Final = 10.0
"""Seconds to wait for the broker before what was to be said is given up: who asks, asks again."""

_WANTED_TIMEOUT: Final = 1.0
"""Seconds for somebody to say that a request is still wanted; a coordinator waits for it."""


class Asking:
    """Asks other processes.

    Args:
        broker: The way to them.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.inbox: str = inbox_topic(token_hex(8))
        """The topic that this process alone hears."""
        self.roster: Roster = Roster(self.inbox)
        """The other nodes."""
        self._settled = False
        self._requests = itertools.count(1)
        self._gatherings: dict[int, Gathering] = {}
        self._complaints: set[str] = set()
        self._listening = trio.Event()
        self._knows = trio.Event()
        """Set once all other nodes are known."""
        self._again_at = -math.inf
        """When it was heard again what is said, after a lost connection."""

    def _settle(self) -> None:
        """Note that all other nodes are known; who waits to learn of them need not any more."""
        self._settled = True
        self._knows.set()
        for each in self._gatherings.values():
            each.look_again()

    async def wait_listening(self) -> None:
        """Wait until what is said to the inbox is heard."""
        await self._listening.wait()

    async def find_mates(self, partition: str) -> Sequence[str]:
        """Name the inboxes of the other nodes of a partition.

        With those at whose inboxes nobody listens, until `is_dead` gives them up.
        """
        with trio.move_on_after(JOIN_TIMEOUT):
            await self._knows.wait()
        return [each for each in sorted(self.roster.hosts_of(partition)) if not self.is_dead(each)]

    def is_dead(self, inbox: str) -> bool:
        """Tell whether a node at whose inbox nobody listens is given up, or was never known."""
        if self.roster.away_since(inbox) is None:
            return self.roster.get(inbox) is None
        return self.is_given_up(inbox)

    def note_silence(self, inbox: str, seconds: float) -> None:
        """Note that a node does not answer: so long, or until it is heard again."""
        self.roster.note_silence(inbox, seconds)

    def is_silent(self, inbox: str) -> bool:
        """Tell whether a node did not answer of late, and was not heard since."""
        return self.roster.is_silent(inbox)

    def is_given_up(self, inbox: str) -> bool:
        """Tell whether nobody has listened at a known node's inbox for so long that it is dead.

        Not for a moment, as it may be about to reconnect; and not as long as all are, as this one
        has just done itself.
        """
        since = self.roster.away_since(inbox)
        if since is None:
            return False
        return trio.current_time() >= max(since + DEAD_AFTER, self._again_at + _ALL_ARE_BACK)

    def complain(self, reason: str) -> None:
        """Log that something was ignored, once for each reason."""
        if len(self._complaints) < _COMPLAINTS and reason not in self._complaints:
            self._complaints.add(reason)
            logger.warning("cluster: %s", reason)

    async def _say(self, topic: str, body: bytes) -> bool:
        """Say something; return whether anybody listens, as far as is known."""
        if not is_topic(topic):
            return False
        try:
            with trio.move_on_after(_SAY_TIMEOUT):
                return await self._broker.broadcast(topic, body)
        except BrokerError as exc:
            self.complain(f"cannot broadcast: {exc}")
        return True

    @contextmanager
    def expect(self) -> Generator[Gathering]:
        """Have the replies to a new request, whose number it tells, collected in the block."""
        gathering = Gathering(next(self._requests))
        self._gatherings[gathering.request] = gathering
        try:
            yield gathering
        finally:
            del self._gatherings[gathering.request]

    async def is_heard(self, inbox: str) -> bool:
        """Find out whether anybody listens at an inbox."""
        return await self._say(inbox, wire.encode(wire.Question(self.inbox, 0, {"ask": "ping"})))

    async def is_wanted(self, inbox: str, request: int) -> bool:
        """Find out whether somebody still waits for what a request of theirs is to bring.

        Whoever says so goes on waiting for it.
        """
        question = {"ask": "wanted", "request": request}
        try:
            reply = await self.ask_inbox(inbox, question, timeout=_WANTED_TIMEOUT)
        except (NobodyListens, NoReply):
            return False
        return reply.get("wanted") is True

    async def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Mapping[str, Any]:
        """Ask one process; the question may reach it more than once.

        Raises:
            NobodyListens: It is dead.
            NoReply: It did not reply within ``timeout`` seconds.
        """
        with self.expect() as gathering:
            members = [("", inbox)]
            found = await self.gather_from(
                gathering, members, question, timeout=timeout, ask_first=True
            )
            if found.replies:
                return gathering.replies[inbox][1]
            if found.gone:
                raise NobodyListens(inbox)
            raise NoReply(inbox)

    async def gather_from(
        self,
        gathering: Gathering,
        members: Iterable[tuple[str, str]],
        question: Mapping[str, Any],
        *,
        timeout: float,
        until: Callable[[Mapping[str, Any]], bool] | None = None,
        ask_first: bool = False,
    ) -> FromMembers:
        """Collect the replies of named nodes.

        Args:
            gathering: What `expect` gave; the nodes may have been asked its request already.
            members: Name and inbox of each.
            question: What to ask those who do not reply: their reply, or the request, was lost.
            timeout: Seconds after which the others count as silent.
            until: Tells of a reply that no other one is needed any more.
            ask_first: Whether they have still to be asked.
        """
        names = {inbox: name for name, inbox in members}

        def missing() -> set[str]:
            return names.keys() - gathering.replies.keys() - gathering.gone

        def is_over() -> bool:
            if until and any(until(reply) for _, reply in gathering.replies.values()):
                return True
            return not missing()

        with trio.move_on_after(timeout):
            if ask_first:
                await self._ask_again(gathering, missing(), question)
            await self._collect(gathering, question, missing, is_over)
        answered = {
            inbox: gathering.replies[inbox][1] for inbox in names if inbox in gathering.replies
        }
        return FromMembers(
            {names[inbox]: reply for inbox, reply in answered.items()},
            {names[inbox]: inbox for inbox in gathering.gone if inbox in names},
            {names[inbox]: inbox for inbox in missing()},
        )

    async def ask_nodes(self, question: Mapping[str, Any], *, deadline: float = 2.0) -> Gathered:
        """Ask all other nodes of the cluster; the question may reach them more than once.

        Args:
            question: What to ask; idempotent.
            deadline: Seconds after which those that did not reply count as not answering.
        """
        await self.wait_listening()
        with self.expect() as gathering:
            await self._gather_all(gathering, question, deadline)
            silent = [each for each in self.roster.cards if each.inbox not in gathering.replies]
            return Gathered(
                dict(gathering.replies.values()),
                {each.identity.name: each for each in silent},
            )

    async def _gather_all(
        self, gathering: Gathering, question: Mapping[str, Any], timeout: float
    ) -> None:
        def missing() -> set[str]:
            return self.roster.inboxes - gathering.replies.keys()

        def is_over() -> bool:  # Who has just joined learns meanwhile who else is there.
            return (gathering.is_complete or self._settled) and not missing()

        question = {**question, "roster": True}
        message = wire.Question(self.inbox, gathering.request, question)
        with trio.move_on_after(timeout):
            if not await self._broker.broadcast(NODES_TOPIC, wire.encode(message)):
                self.roster.clear()
                return
            await self._collect(gathering, question, missing, is_over)

    async def _collect(
        self,
        gathering: Gathering,
        question: Mapping[str, Any],
        missing: Callable[[], set[str]],
        is_over: Callable[[], bool],
    ) -> None:
        """Wait until it is over, and now and then ask those again who are missing."""
        for pause in itertools.chain(REPEATS, itertools.repeat(REPEATS[-1])):
            with trio.move_on_after(pause):
                while not is_over():
                    await gathering.news()
            if is_over():
                return
            await self._ask_again(gathering, missing(), question)

    async def _ask_again(
        self, gathering: Gathering, inboxes: Iterable[str], question: Mapping[str, Any]
    ) -> None:
        message = wire.encode(wire.Question(self.inbox, gathering.request, question))

        async def ask(inbox: str) -> None:
            if not await self._say(inbox, message):
                self.roster.forget(inbox)
                gathering.give_up(inbox)

        async with trio.open_nursery() as nursery:
            for inbox in inboxes:
                nursery.start_soon(ask, inbox)
