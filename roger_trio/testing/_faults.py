"""Faults on purpose, at the seam between a node and its broker in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

import trio

from .._brokers.base import Channel, Delivery, Message
from .._brokers.embedded.broker import EmbeddedBroker
from ._wrapping import WrappingBroker


class FaultyBroker(WrappingBroker):
    """One node's way to the broker in memory, with the faults that a test asked for.

    Args:
        inner: The node's broker.
    """

    def __init__(self, inner: EmbeddedBroker) -> None:
        super().__init__(inner)
        self._embedded = inner
        self._acks_to_lose = 0
        self._refusals = 0
        self._accepting = trio.Event()
        self._accepting.set()
        self._delays: list[float] = []

    # What a test asks for...

    async def drop_connections(self) -> None:
        """Lose every channel; what is on loan goes back into its queue."""
        await self._embedded.drop_connections("the test dropped the connection")

    def lose_acks(self, count: int) -> None:
        """Lose the next acknowledgements of first deliveries."""
        self._acks_to_lose += count

    @contextmanager
    def refuse_publishes(self) -> Generator[None]:
        """Let publishes wait until the block ends, and longer if another block goes on."""
        if not self._refusals:
            self._accepting = trio.Event()
        self._refusals += 1
        try:
            yield
        finally:
            self._refusals -= 1
            if not self._refusals:
                self._accepting.set()

    @contextmanager
    def delay_publishes(self, seconds: float) -> Generator[None]:
        """Let confirmations arrive later; blocks within blocks add up."""
        self._delays.append(seconds)
        try:
            yield
        finally:
            self._delays.remove(seconds)

    # What that does to the broker...

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, in words; '' if nothing does."""
        if self._refusals:
            return "the test refuses publishes"
        if self._delays:
            return f"the test delays confirmations by {sum(self._delays):g} s"
        return super().trouble

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish, when and as late as the test allows it."""
        while self._refusals:
            await self._accepting.wait()
        confirmed = trio.current_time() + sum(self._delays)
        await super().publish_many(queue, messages, delay=delay)
        await trio.sleep_until(confirmed)

    @asynccontextmanager
    async def open_channel(self, *, speaks: bool = False) -> AsyncGenerator[Channel]:
        """Open a channel whose acknowledgements can get lost."""
        async with super().open_channel(speaks=speaks) as channel:
            yield _FaultyChannel(channel, self._loses_ack)

    def _loses_ack(self) -> bool:
        if not self._acks_to_lose:
            return False
        self._acks_to_lose -= 1
        return True


class _FaultyChannel:
    def __init__(self, inner: Channel, loses_ack: Callable[[], bool]) -> None:
        self._inner = inner
        self._loses_ack = loses_ack

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries handed over whose acknowledgements can get lost."""

        def hand_over(delivery: Delivery) -> None:
            on_delivery(_FaultyDelivery(delivery, self._loses_ack))

        await self._inner.subscribe(queue, prefetch=prefetch, on_delivery=hand_over)

    async def unsubscribe(self) -> Sequence[Delivery]:
        """End all subscriptions."""
        return await self._inner.unsubscribe()

    async def wait_settled(self) -> Sequence[Delivery]:
        """Wait until every settlement so far is done."""
        return await self._inner.wait_settled()

    async def wait_interrupted(self) -> NoReturn:
        """Wait until a subscription ends by itself, or the channel does."""
        await self._inner.wait_interrupted()

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone."""
        await self._inner.wait_lost()

    def say(self, topic: str, body: bytes) -> None:
        """Broadcast on this channel."""
        self._inner.say(topic, body)

    async def flush(self) -> None:
        """Wait until every settlement so far is done."""
        await self._inner.flush()


class _FaultyDelivery:
    __slots__ = ("_inner", "_loses_ack")

    def __init__(self, inner: Delivery, loses_ack: Callable[[], bool]) -> None:
        self._inner = inner
        self._loses_ack = loses_ack

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self._inner.queue

    @property
    def body(self) -> bytes:
        """The message's body."""
        return self._inner.body

    @property
    def message_id(self) -> str:
        """The publisher's id for it, or ''."""
        return self._inner.message_id

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher put beside the body."""
        return self._inner.headers

    @property
    def redelivered(self) -> bool:
        """Whether the broker has handed it out before."""
        return self._inner.redelivered

    def ack(self) -> None:
        """Settle; if the acknowledgement is to get lost, the message is delivered again."""
        # A worker performs first deliveries only, and moves what comes back to a queue of its
        # own, where it is a first delivery again. So these are the acknowledgements of jobs, in
        # queues that are a partition's queues; those behind a partition begin with a dot.
        is_of_jobs = not self.queue.rpartition("-")[2].startswith(".")
        if is_of_jobs and not self.redelivered and self._loses_ack():
            self._inner.give_back()
        else:
            self._inner.ack()

    def give_back(self) -> None:
        """Settle: the broker puts the message back where it was."""
        self._inner.give_back()

    def forward(self) -> None:
        """Settle: the broker moves the message to the queue its publisher named."""
        self._inner.forward()

    def drop_body(self) -> None:
        """Let go of the body."""
        self._inner.drop_body()
