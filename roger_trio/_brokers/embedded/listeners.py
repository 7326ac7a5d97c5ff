"""Who listens to which topic in this process, and what is handed to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from .engine import Broadcast

logger = logging.getLogger(__name__)

MAX_UNREAD: Final = 1000
"""Broadcasts a listener may leave unread before it misses the newest."""


class Listener:
    """One who listens: the channel that what was said goes to."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._send, self.receive = trio.open_memory_channel[bytes](MAX_UNREAD)
        self._misses = False

    def put(self, body: bytes) -> None:
        """Hand something over, or drop it if too much is unread; the first time, say so."""
        try:
            self._send.send_nowait(body)
        except trio.WouldBlock:
            if not self._misses:
                self._misses = True
                text = "a listener to %r is too slow: %d broadcasts are unread, newer ones are lost"
                logger.warning(text, self._topic, MAX_UNREAD)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It is about to leave.

    def end(self) -> None:
        """Hand nothing over any more; who listens sees the end after what is unread."""
        self._send.close()


class Listeners:
    """All who listen in this process, by topic."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def add(self, topic: str) -> Listener:
        """Add one."""
        listener = Listener(topic)
        self._listeners.setdefault(topic, []).append(listener)
        return listener

    def remove(self, topic: str, listener: Listener) -> bool:
        """Remove one; return whether it was the topic's last."""
        listener.end()
        listener.receive.close()
        rest = self._listeners[topic]
        rest.remove(listener)
        if not rest:
            del self._listeners[topic]
        return not rest

    def hand_out(self, broadcasts: Sequence[Broadcast]) -> None:
        """Give broadcasts to those who listen to their topics."""
        for each in broadcasts:
            for listener in self._listeners.get(each.topic, ()):
                listener.put(each.body)

    def close(self) -> None:
        """End all: they see the end of their channel."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()
