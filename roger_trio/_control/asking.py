"""How one process asks others, and collects what they reply until a deadline."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, Final

import trio

from .._brokers.base import Broker, BrokerError
from .._topology import NODES_TOPIC, inbox_topic
from . import wire
from .gathering import REPEATS, FromMembers, Gathered, Gathering, NobodyListens, NoReply
from .roster import Roster

logger = logging.getLogger(__name__)

_COMPLAINTS: Final = 100
"""Different reasons for ignoring something that are logged."""
_SAY_TIMEOUT: Final = 10.0
"""Seconds to wait for the broker before what was to be said is given up: who asks, asks again."""


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

    def _settle(self) -> None:
        """Note that all other nodes are known; who waits to learn of them need not any more."""
        self._settled = True
        for each in self._gatherings.values():
            each.look_again()

    async def wait_listening(self) -> None:
        """Wait until what is said to the inbox is heard."""
        await self._listening.wait()

    def complain(self, reason: str) -> None:
        """Log that something was ignored, once for each reason."""
        if len(self._complaints) < _COMPLAINTS and reason not in self._complaints:
            self._complaints.add(reason)
            logger.warning("cluster: %s", reason)

    async def _say(self, topic: str, body: bytes) -> bool:
        """Say something; return whether anybody listens, as far as is known."""
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
