"""What one process hears from the others, and how it asks them.

Nodes hear what is said to all nodes, and their own inbox; clients hear their inbox alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, Final

import trio

from .._brokers.base import Broker, BrokerError
from .._state.operations import Answer, Event
from .._topology import NODES_TOPIC, inbox_topic
from . import wire
from .gathering import (
    REPEATS,
    Asker,
    FromMembers,
    Gathered,
    Gathering,
    NobodyListens,
    NoReply,
)
from .roster import Card, Identity, Roster, Unreadable, list_of, mapping_of

logger = logging.getLogger(__name__)

_COMPLAINTS: Final = 100
"""Different reasons for ignoring something that are logged."""
_REPLY_TIMEOUT: Final = 10.0
"""Seconds to wait for the broker before a reply is given up: who asks, asks again."""
_PAUSE: Final = 1.0
"""Seconds before listening is tried again after the broker refused."""
JOIN_TIMEOUT: Final = 2.0
"""Seconds that a new node waits for the others to tell who they are."""


class Bus:
    """Hears and asks the other processes of the cluster.

    Args:
        broker: The way to them.
        identity: Which node this is; None: a client.
    """

    def __init__(self, broker: Broker, identity: Identity | None = None) -> None:
        self._broker = broker
        self._identity = identity
        self.inbox = inbox_topic(token_hex(8))
        self.roster = Roster(self.inbox)
        self.partitions: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        """Tells what a node hosts now: partition → queue → max workers."""
        self.on_event: Callable[[str, Event], None] | None = None
        """Called with each event and its partition."""
        self.on_question: Callable[[Mapping[str, Any], Asker], None] | None = None
        """Called with each question; `reply_soon` answers it."""
        self.on_answers: Callable[[str, int, Sequence[Answer]], None] | None = None
        """Called with a coordinator's answers: partition, number of the batch, answers."""
        self._settled = False
        self._alone = False
        self._requests = itertools.count(1)
        self._gatherings: dict[int, Gathering] = {}
        self._complaints: set[str] = set()
        self._listening = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def is_node(self) -> bool:
        """Whether this is a node's, and not a client's."""
        return self._identity is not None

    # Running...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started once it does, or at once while the broker is away."""
        try:
            async with trio.open_nursery() as self._nursery:
                if not self._broker.is_connected:
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                await self._listen(task_status)
        finally:
            self._nursery = None

    async def _listen(self, task_status: trio.TaskStatus[None]) -> None:
        topics = (self.inbox, NODES_TOPIC) if self.is_node else (self.inbox,)
        while True:
            try:
                if self.is_node and not self._settled:  # Before we hear ourselves.
                    self._alone = not await self._broker.broadcast(NODES_TOPIC, self._hello())
                async with self._broker.listen(*topics) as heard:
                    if not self._listening.is_set():
                        self._listening.set()
                        task_status.started()
                    async for body in heard:
                        self._hear(body)
            except BrokerError as exc:
                self.complain(f"cannot listen: {exc}")
                await trio.sleep(_PAUSE)

    async def wait_listening(self) -> None:
        """Wait until what is said to the inbox is heard."""
        await self._listening.wait()

    # Coming and going...

    @property
    def card(self) -> Card:
        """What this node tells of itself."""
        if self._identity is None:
            raise RuntimeError("a client has no card")
        return Card(
            identity=self._identity,
            inbox=self.inbox,
            partitions=self.partitions(),
            settled=self._settled,
        )

    def _hello(self, request: int = 0) -> bytes:
        question = {"ask": "hello", "card": self.card.as_json(), "roster": True}
        return wire.encode(wire.Question(self.inbox, request, question))

    async def join(self) -> Card | None:
        """Tell the other nodes that this one is there, and learn who they are.

        Returns:
            The card of another live node that has this one's name, and had it first; or None.
        """
        await self.wait_listening()
        if self._alone:  # Who comes at the same moment hears this, and introduces itself.
            self._settled = True
            self.hello_soon()
            return None
        with self.expect() as gathering:
            question = {"ask": "hello", "card": self.card.as_json()}
            await self._gather_all(gathering, question, JOIN_TIMEOUT)
            for card in gathering.cards.values():
                if self._is_namesake(card) and (card.settled or card.inbox < self.inbox):
                    return card
        self._settled = True
        return None

    def hello_soon(self) -> None:
        """Tell the other nodes that this one is there: others may have missed it."""
        self._say_soon(NODES_TOPIC, self._hello())

    async def say_bye(self) -> None:
        """Tell the other nodes that this one goes."""
        await self._broker.broadcast(
            NODES_TOPIC, wire.encode(wire.Question(self.inbox, 0, {"ask": "bye"}))
        )

    def _is_namesake(self, card: Card) -> bool:
        name = self._identity.name if self._identity else None
        return card.identity.name == name and card.inbox != self.inbox

    # Hearing...

    def _hear(self, body: bytes) -> None:
        """Take what came; whatever it is, the next one is heard."""
        try:
            self._take(wire.decode(body))
        except (wire.Foreign, Unreadable) as exc:
            self.complain(str(exc))
        except Exception:  # A bug must not make this process deaf.
            logger.exception("a control message could not be handled")

    def _take(self, message: wire.Message) -> None:
        match message:
            case wire.Answers(partition, batch, answers):
                if self.on_answers is not None:
                    self.on_answers(partition, batch, answers)
            case wire.EventMessage(partition, event):
                if self.on_event is not None:
                    self.on_event(partition, event)
            case wire.Question(inbox, request, question):
                self._take_question(question, inbox, request)
            case wire.Reply():
                self._take_reply(message)
            case _:
                raise wire.Foreign("commands are not for a bus")

    def _take_question(self, question: Mapping[str, Any], inbox: str, request: int) -> None:
        asker = Asker(inbox, request, question.get("roster") is True)
        if asker.wants_roster and inbox == self.inbox:
            return  # We hear what we ask all nodes.
        match question.get("ask"):
            case "ping":
                self.reply_soon(asker, {})
            case "hello" if self.is_node:
                self._meet(Card.from_json(question.get("card")))
                self.reply_soon(asker, {})
            case "bye":
                self.roster.forget(inbox)
            case _:
                if self.on_question is not None:
                    self.on_question(question, asker)

    def _take_reply(self, message: wire.Reply) -> None:
        answer = mapping_of(message.reply.get("answer"), "answer")
        gathering = self._gatherings.get(message.request)
        if "card" in message.reply:
            card = Card.from_json(message.reply["card"])
            known = list_of(message.reply.get("known"), "known")
            others = [Card.from_json(each) for each in known]
            self._meet(card)
            if gathering is not None:
                others = [each for each in others if each.inbox not in gathering.gone]
                gathering.cards[card.inbox] = card
                gathering.is_complete |= card.settled
            self.roster.hear_of(others)
        if gathering is not None:
            gathering.hear(message.inbox, message.node, answer)

    def _meet(self, card: Card) -> None:
        self.roster.hear(card)
        if self._settled and card.settled and self._is_namesake(card):
            who = card.identity
            self.complain(
                f"another node, process {who.pid} on host {who.host!r}, has this one's name, "
                f"{who.name!r}: what they answer cannot be told apart; give each its own node_name"
            )

    def complain(self, reason: str) -> None:
        """Log that something was ignored, once for each reason."""
        if len(self._complaints) < _COMPLAINTS and reason not in self._complaints:
            self._complaints.add(reason)
            logger.warning("cluster: %s", reason)

    # Replying...

    def reply_soon(self, asker: Asker, reply: Mapping[str, Any]) -> None:
        """Reply in the background. What does not get through is asked again."""
        content: dict[str, Any] = {"answer": reply}
        if asker.wants_roster and self.is_node:
            content["card"] = self.card.as_json()
            known = self.roster.cards if self._settled else ()
            content["known"] = [each.as_json() for each in known]
        node = self._identity.name if self._identity else ""
        message = wire.Reply(node, self.inbox, asker.request, content)
        self._say_soon(asker.inbox, wire.encode(message))

    def _say_soon(self, topic: str, body: bytes) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._say, topic, body)

    async def _say(self, topic: str, body: bytes) -> bool:
        """Say something; return whether anybody listens, as far as is known."""
        try:
            with trio.move_on_after(_REPLY_TIMEOUT):
                return await self._broker.broadcast(topic, body)
        except BrokerError as exc:
            self.complain(f"cannot broadcast: {exc}")
        return True

    # Asking...

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
        gathering.is_complete = self._settled

        def missing() -> set[str]:
            return self.roster.inboxes - gathering.replies.keys()

        def is_over() -> bool:
            return gathering.is_complete and not missing()

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
