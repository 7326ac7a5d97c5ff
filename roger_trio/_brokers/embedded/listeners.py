"""Who listens to which topic in this process, and what is handed to them."""

from __future__ import annotations

from collections.abc import Sequence

from ..listening import Listener
from .values import Broadcast


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
        listener.close()
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
