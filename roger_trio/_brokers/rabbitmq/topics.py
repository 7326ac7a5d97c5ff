"""Fan-out on RabbitMQ: an exchange for each topic, a queue for each who listens.

The queue belongs to the connection and ends with it; after a reconnect there is another, and what
was said in between is missed, as the seam allows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from pamqp import commands as spec

from ..base import BrokerError, ConnectionLost, Delivery, QueueMissing
from ..listening import MAX_UNREAD, Listener
from . import topology
from .connection import Connection
from .link import Link
from .publishing import Confirmation

_PAUSE: Final = 0.05
"""Seconds before a lost connection is asked for again."""


class Topics:
    """Broadcasts and those who listen.

    Args:
        prefix: Put in front of the exchanges' names.
        publishing: The link to say something on.
        consuming: The link to listen on.
    """

    def __init__(self, prefix: str, publishing: Link, consuming: Link) -> None:
        self._prefix = prefix
        self._publishing = publishing
        self._consuming = consuming
        self._declared: dict[str, int] = {}
        """Exchange → the generation of the link it was declared on."""
        self.nursery: trio.Nursery | None = None
        """Where listening goes on; set while the broker runs."""

    async def broadcast(self, topic: str, body: bytes) -> None:
        """Say something to all who listen now; see `Broker`."""
        exchange = topology.topic_exchange(self._prefix, topic)
        while True:
            try:
                error = await self._say(exchange, body)
            except ConnectionLost as exc:
                error = exc
            match error:
                case None:
                    return
                case QueueMissing():  # Nobody listens; or the exchange was deleted, and all did.
                    self._declared.pop(exchange, None)
                    return
                case ConnectionLost():
                    await trio.sleep(_PAUSE)
                case _:
                    raise error

    async def _say(self, exchange: str, body: bytes) -> BrokerError | None:
        connection = await self._publishing.wait_up()
        generation = self._publishing.generation
        if self._declared.get(exchange) != generation:
            await _declare_exchange(connection, exchange)
            self._declared[exchange] = generation
        publisher = await connection.publisher()
        confirmation = Confirmation(1)
        await publisher.wait_room()
        publisher.publish(exchange, "", body, b"", None, confirmation=confirmation, position=0)
        await confirmation.wait()
        return confirmation.failures.get(0)

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is said from now on; see `Broker`."""
        await self._consuming.wait_up()
        if self.nursery is None:
            raise ConnectionLost("the broker is closed")
        listener, scope, done = Listener(topic), trio.CancelScope(), trio.Event()
        try:
            await self.nursery.start(self._keep_listening, topic, listener, scope, done)
            try:
                yield listener.receive
            finally:
                scope.cancel()
                with trio.CancelScope(shield=True):  # Closing a channel has a limit of its own.
                    await done.wait()
        finally:
            listener.close()

    async def _keep_listening(
        self,
        topic: str,
        listener: Listener,
        scope: trio.CancelScope,
        done: trio.Event,
        task_status: trio.TaskStatus[None],
    ) -> None:
        is_started = False

        def start() -> None:
            nonlocal is_started
            if not is_started:
                is_started = True
                task_status.started()

        try:
            with scope:
                while True:
                    try:
                        await self._listen_once(topic, listener, start)
                    except BrokerError as exc:
                        if not is_started and not isinstance(exc, ConnectionLost):
                            raise
                        await trio.sleep(_PAUSE)
        finally:
            done.set()

    async def _listen_once(
        self, topic: str, listener: Listener, on_listening: Callable[[], None]
    ) -> None:
        """Listen until the connection is lost."""

        def take(delivery: Delivery) -> None:
            delivery.ack()
            listener.put(delivery.body)

        connection = await self._consuming.wait_up()
        exchange = topology.topic_exchange(self._prefix, topic)
        await _declare_exchange(connection, exchange)
        async with connection.open_consumer() as channel:
            answer = await connection.control(
                spec.Queue.Declare(
                    queue="",
                    exclusive=True,
                    auto_delete=True,
                    arguments={"x-max-length": MAX_UNREAD},
                )
            )
            queue = str(answer.queue)
            await connection.control(spec.Queue.Bind(queue=queue, exchange=exchange))
            await channel.subscribe(queue, prefetch=MAX_UNREAD, on_delivery=take)
            on_listening()
            await channel.wait_interrupted()


async def _declare_exchange(connection: Connection, exchange: str) -> None:
    await connection.control(
        spec.Exchange.Declare(exchange=exchange, exchange_type="fanout", durable=True)
    )
