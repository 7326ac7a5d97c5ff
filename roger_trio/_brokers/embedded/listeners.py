"""Who listens to which topic in this process, and what is handed to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..listening import Listener
from .values import Broadcast


class Listeners:
    """All who listen in this process, by topic."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def add(self, topics: Collection[str]) -> Listener:
        """Add one."""
        listener = Listener(*topics)
        for topic in topics:
            self._listeners.setdefault(topic, []).append(listener)
        return listener

    def remove(self, topics: Collection[str], listener: Listener) -> list[str]:
        """Remove one; return the topics to which nobody listens any more."""
        listener.close()
        for topic in topics:
            self._listeners[topic].remove(listener)
        left = [topic for topic in topics if not self._listeners[topic]]
        for topic in left:
            del self._listeners[topic]
        return left

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
