"""Replies to one request, as they come in from several nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from .roster import Card

REPEATS: Final = (0.25, 0.75, 1.0)
"""Seconds after which a request is repeated to those who did not reply; then each last one."""


class NobodyListens(Exception):
    """Nobody listens at an inbox any more: that process is dead."""


class NoReply(Exception):
    """Somebody listens, and did not reply in time."""


@attrs.frozen
class Asker:
    """Who waits for a reply."""

    inbox: str
    request: int
    wants_roster: bool = False
    """Whether the reply shall tell who else is in the cluster."""


@attrs.frozen
class Gathered:
    """What the other nodes of the cluster replied."""

    replies: Mapping[str, Mapping[str, Any]]
    """Node name → reply."""
    not_answering: Mapping[str, Card]
    """Name → card of those that listen, and did not reply in time."""


@attrs.frozen
class FromMembers:
    """What the members of a partition replied."""

    replies: Mapping[str, Mapping[str, Any]]
    """Node name → reply."""
    gone: Mapping[str, str]
    """Name → inbox of those that are dead."""
    silent: Mapping[str, str]
    """Name → inbox of those that listen, and did not reply in time."""


class Gathering:
    """The replies to one request."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.replies: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """Inbox → name of the node and what it replied."""
        self.cards: dict[str, Card] = {}
        """Inbox → the card of those that replied with one."""
        self.gone: set[str] = set()
        """Inboxes nobody listens at."""
        self.is_complete = False
        """Whether one has replied that knows who is in the cluster."""
        self.patience: trio.CancelScope = trio.CancelScope()
        """What the asker waits in, where it may give up before it knows what became of it."""
        self._news = trio.lowlevel.ParkingLot()

    def hear(self, inbox: str, node: str, reply: Mapping[str, Any]) -> None:
        """Take a reply; the first of each node counts."""
        self.replies.setdefault(inbox, (node, reply))
        self.gone.discard(inbox)
        self._news.unpark_all()

    def give_up(self, inbox: str) -> None:
        """Note that nobody listens there."""
        if inbox not in self.replies:
            self.gone.add(inbox)
            self._news.unpark_all()

    def hold_on(self) -> bool:
        """Have the asker wait as long as it takes; return whether it has not given up yet."""
        if self.patience.cancel_called:
            return False
        self.patience.deadline = math.inf
        return True

    def look_again(self) -> None:
        """Have who waits look whether it still has to."""
        self._news.unpark_all()

    async def news(self) -> None:
        """Wait for the next reply, or for one that will not come, or to `look_again`."""
        await self._news.park()
