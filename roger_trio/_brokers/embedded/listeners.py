"""Who listens to which topic in this process, and what is handed to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ..listening import Listener
from .values import Broadcast


class Listeners:
    """All who listen in this process, by topic."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}
        self._on_again: dict[Listener, Callable[[], None]] = {}

    @property
    def topics(self) -> Sequence[str]:
        """All topics to which somebody listens."""
        return tuple(self._listeners)

    def add(self, topics: Collection[str], on_again: Callable[[], None] | None = None) -> Listener:
        """Add one; `on_again` is called each time that it may have missed something."""
        listener = Listener(*topics)
        if on_again is not None:
            self._on_again[listener] = on_again
        for topic in topics:
            self._listeners.setdefault(topic, []).append(listener)
        return listener

    def remove(self, topics: Collection[str], listener: Listener) -> list[str]:
        """Remove one; return the topics to which nobody listens any more."""
        listener.close()
        self._on_again.pop(listener, None)
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

    def hear_again(self) -> None:
        """Tell all that they may have missed something."""
        for on_again in list(self._on_again.values()):
            on_again()

    def close(self) -> None:
        """End all: they see the end of their channel."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()
