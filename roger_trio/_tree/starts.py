"""Starting many partitions a few at a time."""

from __future__ import annotations

from typing import Final

import trio

from .partition import Partition

_AT_ONCE: Final = 32
"""Partitions that are being started at a time. A thousand at once would only wait for each other,
ask again and again meanwhile, and flood the node with answers when they come."""


class Starts:
    """Places for partitions that are being started; who comes first is first."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._places = trio.Semaphore(at_once)

    async def wait_place(self, partition: Partition) -> bool:
        """Wait for a place; return whether it has one, rather than been asked to stop."""
        has_place = False

        async def give_up() -> None:
            await partition.stopping.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await self._places.acquire()
            has_place = True
            nursery.cancel_scope.cancel()
        return has_place

    async def see_start(self, partition: Partition) -> None:
        """Keep its place until it has started, or has been refused, or ends."""
        async with trio.open_nursery() as nursery:

            async def see_end() -> None:
                await partition.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(see_end)
            await partition.wait_tried()
            nursery.cancel_scope.cancel()
        self._places.release()
