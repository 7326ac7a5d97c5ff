"""Noticing at once that the reader of a pipe is gone, at no cost while it is there."""

from __future__ import annotations

import select
from contextlib import suppress

import trio


class Deathwatch:
    """Watches pipes that we can write to. Where the system has no epoll it notices nothing."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None

    def add(self, pipe: int) -> None:
        """Watch a pipe."""
        if self._epoll is not None:
            self._epoll.register(pipe, 0)  # For nothing but errors, which are always told.

    def remove(self, pipe: int) -> None:
        """Watch it no more; to be called before it is closed."""
        if self._epoll is not None:
            with suppress(FileNotFoundError):
                self._epoll.unregister(pipe)

    async def wait(self) -> list[int]:
        """Wait until pipes have no reader; return those. They are to be removed."""
        if self._epoll is None:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        return [pipe for pipe, _ in self._epoll.poll(0)]

    def close(self) -> None:
        """End it."""
        if self._epoll is not None:
            self._epoll.close()
