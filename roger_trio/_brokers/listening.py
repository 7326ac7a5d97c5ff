"""One who listens to topics: what all brokers hand broadcasts to."""

from __future__ import annotations

import logging
from typing import Final

import trio

logger = logging.getLogger(__name__)

MAX_UNREAD: Final = 1000
"""Broadcasts a listener may leave unread before it misses the newest."""


class Listener:
    """One who listens: the channel that what was said goes to.

    Args:
        topics: What it listens to, for a WARNING.
    """

    def __init__(self, *topics: str) -> None:
        self._topics = topics
        self._send, self.receive = trio.open_memory_channel[bytes](MAX_UNREAD)
        self._misses = False

    def put(self, body: bytes) -> None:
        """Hand something over, or drop it if too much is unread; the first time, say so."""
        try:
            self._send.send_nowait(body)
        except trio.WouldBlock:
            if not self._misses:
                self._misses = True
                text = "a listener to %s is too slow: %d broadcasts are unread, newer ones are lost"
                logger.warning(text, ", ".join(map(repr, self._topics)), MAX_UNREAD)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It is about to leave.

    def end(self) -> None:
        """Hand nothing over any more; who listens sees the end after what is unread."""
        self._send.close()

    def close(self) -> None:
        """End it at both ends."""
        self._send.close()
        self.receive.close()
