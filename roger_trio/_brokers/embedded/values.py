"""What the engine tells: values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import attrs


class Row(NamedTuple):
    """A message on loan."""

    id: int
    body: bytes
    message_id: str
    headers: str | None
    deliveries: int


class Broadcast(NamedTuple):
    """What was said to a process that listens."""

    topic: str
    body: bytes


class Audience(NamedTuple):
    """The processes that listen to a topic."""

    listening: Sequence[str]
    """All of them, dead ones that nobody has found yet among them."""
    overdue: Sequence[str]
    """Those that do not get the broadcast, because too much waits for them already."""


class Stuck(NamedTuple):
    """A message that could not be sent on."""

    id: int
    onward: str
    """The queue that is not there."""


@attrs.frozen
class News:
    """What a transaction changed that others wait for."""

    queues: frozenset[int] = frozenset()
    """Queues that got messages, or whose messages are for another consumer now."""
    processes: frozenset[str] = frozenset()
    """Those who consume them, and those who have broadcasts to collect."""
