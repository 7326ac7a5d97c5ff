"""Who is in the cluster, as far as one process has heard."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import trio

_MAX_NODES: Final = 10_000
"""Far more than there ever are: whoever says that there are more does not fill our memory."""
_AWAY_FOR: Final = 60.0
"""Seconds for which it is remembered who has been there."""


class Unreadable(Exception):
    """What another process said is not what is said here; the text says why."""


@attrs.frozen(kw_only=True)
class Identity:
    """Which node one is."""

    name: str
    """Its name, which no other node should have."""
    host: str
    """The host it runs on."""
    pid: int
    """Its process id there."""
    version: str
    """Its version of roger_trio."""
    started_at: datetime
    """When it started; aware, UTC."""


@attrs.frozen(kw_only=True)
class Card:
    """What a node tells of itself."""

    identity: Identity
    """Which one it is."""
    inbox: str
    """The topic it alone hears; another one each time a node starts."""
    partitions: Mapping[str, Mapping[str, int]]
    """Its partitions: queue to max workers."""
    settled: bool
    """Whether it has learned who else is there."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        who = self.identity
        return {
            "name": who.name,
            "host": who.host,
            "pid": who.pid,
            "version": who.version,
            "started_at": who.started_at.isoformat(),
            "inbox": self.inbox,
            "partitions": {name: dict(queues) for name, queues in self.partitions.items()},
            "settled": self.settled,
        }

    @classmethod
    def from_json(cls, value: object) -> Card:
        """Read one.

        Raises:
            Unreadable: It is no card.
        """
        fields = mapping_of(value, "card")
        identity = Identity(
            name=text_of(fields, "name"),
            host=text_of(fields, "host"),
            pid=whole_of(fields, "pid"),
            version=text_of(fields, "version"),
            started_at=time_of(fields, "started_at"),
        )
        settled = fields.get("settled")
        if type(settled) is not bool:
            raise Unreadable(f"settled: expected true or false, got {type(settled).__name__}")
        return cls(
            identity=identity,
            inbox=text_of(fields, "inbox"),
            partitions={
                name: numbers_of(queues, "partitions")
                for name, queues in mapping_of(fields.get("partitions"), "partitions").items()
            },
            settled=settled,
        )


@attrs.frozen
class _Away:
    """One at whose inbox nobody listens."""

    card: Card
    since: float


class Roster:
    """The other nodes one knows of, by inbox."""

    def __init__(self, inbox: str) -> None:
        self._own = inbox
        self._cards: dict[str, Card] = {}
        self._away: dict[str, _Away] = {}
        self._silent: dict[str, float] = {}
        """Inbox → until when it is not waited for."""

    def hear(self, card: Card) -> None:
        """Note what a node has told of itself."""
        self._away.pop(card.inbox, None)
        self._note(card)

    def _note(self, card: Card) -> None:
        if card.inbox != self._own and (len(self._cards) < _MAX_NODES or card.inbox in self._cards):
            self._cards[card.inbox] = card

    def hear_of(self, cards: Iterable[Card]) -> None:
        """Note what a node has told of others: what those said themselves is newer."""
        for card in cards:
            if card.inbox not in self._cards:
                self._note(card)

    def dismiss(self, inbox: str) -> None:
        """Forget one that has said goodbye."""
        self._cards.pop(inbox, None)
        self._away.pop(inbox, None)

    def forget(self, inbox: str) -> None:
        """Forget one at whose inbox nobody listens; for a while it may be about to reconnect."""
        now = trio.current_time()
        for each in [each for each, it in self._away.items() if now - it.since > _AWAY_FOR]:
            del self._away[each]
        card = self._cards.pop(inbox, None)
        if card is not None:
            self._away.setdefault(inbox, _Away(card, now))

    # Those that do not answer...

    def note_silence(self, inbox: str, seconds: float) -> None:
        """Note that one does not answer: so long, or until it is heard again."""
        now = trio.current_time()
        for each in [each for each, until in self._silent.items() if until <= now]:
            del self._silent[each]
        self._silent[inbox] = now + seconds

    def hear_from(self, inbox: str) -> None:
        """Note that one lives: whatever it says, it can be asked."""
        self._silent.pop(inbox, None)

    def is_silent(self, inbox: str) -> bool:
        """Tell whether one did not answer of late, and was not heard since."""
        return trio.current_time() < self._silent.get(inbox, -math.inf)

    # All of them...

    def clear(self) -> None:
        """Forget all, as nobody listens."""
        for inbox in list(self._cards):
            self.forget(inbox)

    def away_since(self, inbox: str) -> float | None:
        """Tell since when nobody listens at an inbox that was a node's."""
        away = self._away.get(inbox)
        return away.since if away is not None else None

    def hosts_of(self, partition: str) -> set[str]:
        """Name the inboxes of those that run a partition, those that are away included."""
        cards = [*self._cards.values(), *(it.card for it in self._away.values())]
        return {each.inbox for each in cards if partition in each.partitions}

    def get(self, inbox: str) -> Card | None:
        """Return the card of the node with this inbox."""
        return self._cards.get(inbox)

    @property
    def inboxes(self) -> Collection[str]:
        """The inboxes of all."""
        return self._cards.keys()

    @property
    def cards(self) -> Collection[Card]:
        """The cards of all."""
        return self._cards.values()


# Strict readers of what came as JSON...


def mapping_of(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        Unreadable: It is none.
    """
    if type(value) is not dict:
        raise Unreadable(f"{what}: expected an object, got {type(value).__name__}")
    return value


def list_of(value: object, what: str) -> list[Any]:
    """Return a JSON list.

    Raises:
        Unreadable: It is none.
    """
    if type(value) is not list:
        raise Unreadable(f"{what}: expected a list, got {type(value).__name__}")
    return value


def text_of(fields: Mapping[str, Any], key: str) -> str:
    """Return a text.

    Raises:
        Unreadable: It is none.
    """
    value = fields.get(key)
    if type(value) is not str:
        raise Unreadable(f"{key}: expected text, got {type(value).__name__}")
    return value


def whole_of(fields: Mapping[str, Any], key: str) -> int:
    """Return a whole number from 0.

    Raises:
        Unreadable: It is none.
    """
    value = fields.get(key)
    if type(value) is not int or value < 0:
        raise Unreadable(f"{key}: expected a whole number from 0, got {type(value).__name__}")
    return value


def numbers_of(value: object, what: str) -> dict[str, int]:
    """Return an object of whole numbers from 0.

    Raises:
        Unreadable: It is none.
    """
    fields = mapping_of(value, what)
    return {key: whole_of(fields, key) for key in fields}


def time_of(fields: Mapping[str, Any], key: str) -> datetime:
    """Return an aware time.

    Raises:
        Unreadable: It is none.
    """
    try:
        time = datetime.fromisoformat(text_of(fields, key))
    except ValueError:
        raise Unreadable(f"{key}: expected a date and time (RFC 3339)") from None
    if time.utcoffset() is None:
        raise Unreadable(f"{key}: expected a time with an offset (RFC 3339)")
    return time.astimezone(UTC)
