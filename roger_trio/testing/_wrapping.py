"""A broker around a broker, for subclasses that change some of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import trio

from .._brokers.base import Broker, Channel, Delivery, Message, QueueCount, QueueSpec


class WrappingBroker:
    """Passes everything on; see `Broker` in ``_brokers/base.py``.

    Args:
        inner: The broker that does the work.
    """

    def __init__(self, inner: Broker) -> None:
        self._inner = inner

    @property
    def is_connected(self) -> bool:
        """Whether it can be reached right now."""
        return self._inner.is_connected

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, in words; '' if nothing does."""
        return self._inner.trouble

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep the way to the broker open until cancelled."""
        await self._inner.run(task_status=task_status)

    async def wait_connected(self) -> None:
        """Wait until the broker can be reached."""
        await self._inner.wait_connected()

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        """Make sure that `queues` exist; return those that were made."""
        return await self._inner.declare(queues, afresh=afresh)

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish one message, by way of `publish_many`."""
        await self.publish_many(queue, (message,), delay=delay)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish and wait for the broker's word that all is kept."""
        await self._inner.publish_many(queue, messages, delay=delay)

    def open_channel(self, *, speaks: bool = False) -> AbstractAsyncContextManager[Channel]:
        """Open a channel to consume on."""
        return self._inner.open_channel(speaks=speaks)

    def browse(self, queue: str, limit: int) -> AbstractAsyncContextManager[Sequence[Delivery]]:
        """Take up to `limit` messages from the head."""
        return self._inner.browse(queue, limit)

    async def purge(self, queue: str) -> int:
        """Delete all that is ready in the queue."""
        return await self._inner.purge(queue)

    async def count(self, queue: str) -> QueueCount:
        """Count what the queue holds."""
        return await self._inner.count(queue)

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Hand `body` to everybody who listens to `topic` now; return whether anybody does."""
        return await self._inner.broadcast(topic, body)

    def listen(
        self, *topics: str, on_again: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is broadcast to any of `topics` from now on."""
        return self._inner.listen(*topics, on_again=on_again)
