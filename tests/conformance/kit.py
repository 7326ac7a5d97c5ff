"""What the conformance suite asks of a kind of broker beyond the `Broker` protocol.

To put another broker through the suite, write a `Kit` for it and add it in ``conftest.py``; the
tests stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

import trio

from roger_trio._brokers.base import Broker, Delivery, Message

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that anything may take on a busy machine."""


class Kit(Protocol):
    """A running broker, and the means to be unkind to it."""

    @property
    def broker(self) -> Broker:
        """The broker under test, which both consumes and publishes."""
        ...

    def new_name(self) -> str:
        """Return a queue name that is used nowhere; what becomes of it is cleaned up."""
        ...

    def new_topic(self) -> str:
        """Return a topic that is used nowhere; what becomes of it is cleaned up."""
        ...

    def other_broker(self) -> AbstractAsyncContextManager[Broker]:
        """Run another `Broker` over the same queues, as another process would."""
        ...

    async def delete_queue(self, name: str) -> None:
        """Delete a queue behind the back of the broker under test."""
        ...

    async def lose_connection(self) -> None:
        """Cut the way to the broker once; return when that has been noticed."""
        ...


class Inbox:
    """Takes deliveries and lets a test wait for them."""

    def __init__(self, *, ack: bool = False) -> None:
        self._ack = ack
        self._arrived = trio.Event()
        self.deliveries: list[Delivery] = []

    def put(self, delivery: Delivery) -> None:
        """Take a delivery: give it as `on_delivery`."""
        self.deliveries.append(delivery)
        if self._ack:
            delivery.ack()
        self._arrived.set()

    async def wait(self, count: int, *, within: float = PATIENCE) -> list[Delivery]:
        """Wait until there are at least so many; return all."""
        with trio.fail_after(within):
            while len(self.deliveries) < count:
                self._arrived = trio.Event()
                await self._arrived.wait()
        return self.deliveries

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, in the order of arrival."""
        return [each.body for each in self.deliveries]


async def settles_at(
    expected: T, measure: Callable[[], T] | Callable[[], object], *, within: float = PATIENCE
) -> None:
    """Wait until what is measured is as expected; fail with the last value where it never is."""
    value: object = None
    with trio.move_on_after(within):
        while True:
            value = measure()
            if hasattr(value, "__await__"):
                value = await value
            if value == expected:
                return
            await trio.sleep(0.02)
    assert value == expected, f"after {within:g} s: {value!r}"


def messages(count: int, size: int = 0) -> list[Message]:
    """Make messages that can be told apart: body and id are the number."""
    return [Message(b"%d" % n + b"x" * size, f"id{n}") for n in range(count)]


def bodies(some: list[Message]) -> list[bytes]:
    """Return the bodies of messages."""
    return [each.body for each in some]
