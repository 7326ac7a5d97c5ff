"""What one process hears from the others, and how it asks them.

Nodes hear what is said to all nodes, and their own inbox; clients hear their inbox alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from .._brokers.base import Broker, BrokerError
from .._jobs.mismatch import short_repr
from .._state.operations import Answer, Event
from .._topology import NODES_TOPIC
from . import wire
from .asking import JOIN_TIMEOUT, Asking
from .gathering import Asker
from .roster import Card, Identity, Unreadable, list_of, mapping_of

logger = logging.getLogger(__name__)

_PAUSE: Final = 1.0
"""Seconds before what the broker refused is tried again."""


class Bus(Asking):
    """Hears and asks the other processes of the cluster.

    Args:
        broker: The way to them.
        identity: Which node this is; None: a client.
    """

    def __init__(self, broker: Broker, identity: Identity | None = None) -> None:
        super().__init__(broker)
        self._identity = identity
        self.partitions: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        """Tells what a node hosts now: partition → queue → max workers."""
        self.on_event: Callable[[str, Event], None] | None = None
        """Called with each event and its partition."""
        self.on_question: Callable[[Mapping[str, Any], Asker], None] | None = None
        """Called with each question; `reply_soon` answers it."""
        self.on_answers: Callable[[str, int, Sequence[Answer | None]], None] | None = None
        """Called with a coordinator's answers: partition, number of the batch, answers."""
        self.on_again: Callable[[], None] | None = None
        """Called when what is said is heard again: answers may have been missed before."""
        self._alone = False
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
        # What is answered must not be heard before what is told to all nodes: a change told in
        # between would be missed.
        topics = (NODES_TOPIC, self.inbox) if self.is_node else (self.inbox,)
        while True:
            try:
                if self.is_node and not self._settled:  # Before we hear ourselves.
                    self._alone = not await self._broker.broadcast(NODES_TOPIC, self._hello())
                async with self._broker.listen(*topics, on_again=self._hear_again) as heard:
                    if self._listening.is_set():
                        self._hear_again()
                    else:
                        self._listening.set()
                        task_status.started()
                    async for body in heard:
                        self._hear(body)
            except BrokerError as exc:
                self.complain(f"cannot listen: {exc}")
                await trio.sleep(_PAUSE)

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

        For as long as it takes: a broker that is short of disk may take no word of it.

        Returns:
            The card of another live node that has this one's name, and had it first; or None.
        """
        while True:
            try:
                return await self._join()
            except BrokerError as exc:
                logger.warning("cluster: this node cannot introduce itself: %s", exc)
                await trio.sleep(_PAUSE)

    async def _join(self) -> Card | None:
        await self.wait_listening()
        if self._alone:  # Who comes at the same moment hears this, and introduces itself.
            self._settle()
            self.hello_soon()
            return None
        with self.expect() as gathering:
            question = {"ask": "hello", "card": self.card.as_json()}
            await self._gather_all(gathering, question, JOIN_TIMEOUT)
            for card in gathering.cards.values():
                if self._is_namesake(card) and (card.settled or card.inbox < self.inbox):
                    return card
        self._settle()
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

    def _hear_again(self) -> None:
        self._again_at = trio.current_time()
        if self.on_again is not None:
            self.on_again()

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
                self.roster.hear_from(inbox)
                self._take_question(question, inbox, request)
            case wire.Reply():
                self.roster.hear_from(message.inbox)
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
            case "wanted":
                self.reply_soon(asker, {"wanted": self._is_awaited(question.get("request"))})
            case "hello" if self.is_node:
                self._meet(Card.from_json(question.get("card")))
                self.reply_soon(asker, {})
            case "bye":
                self.roster.dismiss(inbox)
            case _:
                if self.on_question is not None:
                    self.on_question(question, asker)

    def _is_awaited(self, request: object) -> bool:
        gathering = self._gatherings.get(request) if type(request) is int else None
        return gathering is not None and gathering.hold_on()

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
                f"another node, process {who.pid} on host {short_repr(who.host)}, has this one's "
                f"name, {who.name!r}: what they answer cannot be told apart; give each its own "
                "node_name"
            )

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
