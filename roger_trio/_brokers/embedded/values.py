"""What the engine tells: values."""

from __future__ import annotations

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


@attrs.frozen
class News:
    """What a transaction changed that others wait for."""

    queues: frozenset[int] = frozenset()
    """Queues that got messages, or whose messages are for another consumer now."""
    processes: frozenset[str] = frozenset()
    """Those who consume them, and those who have broadcasts to collect."""
