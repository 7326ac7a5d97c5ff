"""Fan-out on RabbitMQ: one exchange, topics as its routing keys, a queue for each who listens.

Topics come and go without a trace: a durable exchange for each would stay for ever. The queue of
one who listens is bound with all its topics before it is consumed. It belongs to the connection
and ends with it; after a reconnect there is another, and what was said in between is missed, as
the seam allows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
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
        prefix: Put in front of the exchange's name.
        publishing: The link to say something on.
        consuming: The link to listen on.
    """

    def __init__(self, prefix: str, publishing: Link, consuming: Link) -> None:
        self.exchange = topology.topics_exchange(prefix)
        """The exchange that all is said through; `prepare` makes sure of it."""
        self._publishing = publishing
        self._consuming = consuming
        self._declared: dict[Link, int] = {}
        """Link → its generation on which the exchange was declared."""
        self.nursery: trio.Nursery | None = None
        """Where listening goes on; set while the broker runs."""

    async def prepare(self, link: Link) -> Connection:
        """Return a link's connection once the exchange is known to be there.

        Raises:
            ConnectionLost: The connection was lost on the way.
        """
        connection = await link.wait_up()
        generation = link.generation
        if self._declared.get(link) != generation:
            await connection.control(
                spec.Exchange.Declare(exchange=self.exchange, exchange_type="direct", durable=True)
            )
            self._declared[link] = generation
        return connection

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Say something to all who listen now; return whether anybody does."""
        while True:
            try:
                error = await self._say(topic, body)
            except ConnectionLost as exc:
                error = exc
            match error:
                case None:
                    return True
                case QueueMissing():  # Nobody listens; or the exchange was deleted, and all did.
                    return False
                case ConnectionLost():
                    await trio.sleep(_PAUSE)
                case _:
                    raise error

    async def _say(self, topic: str, body: bytes) -> BrokerError | None:
        connection = await self.prepare(self._publishing)
        publisher = await connection.publisher()
        confirmation = Confirmation(1)
        await publisher.wait_room()
        publisher.publish(
            self.exchange, topic, body, b"", None, confirmation=confirmation, position=0
        )
        await confirmation.wait()
        return confirmation.failures.get(0)

    @asynccontextmanager
    async def listen(
        self, *topics: str, on_again: Callable[[], None] | None = None
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is said from now on; see `Broker`."""
        await self._consuming.wait_up()
        if self.nursery is None:
            raise ConnectionLost("the broker is closed")
        name = ", ".join(topics)
        listener, scope, done = Listener(name), trio.CancelScope(), trio.Event()
        keep_listening = partial(self._keep_listening, on_again=on_again)
        try:
            await self.nursery.start(keep_listening, topics, listener, scope, done)
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
        topics: Sequence[str],
        listener: Listener,
        scope: trio.CancelScope,
        done: trio.Event,
        *,
        on_again: Callable[[], None] | None,
        task_status: trio.TaskStatus[None],
    ) -> None:
        is_started = False

        def start() -> None:
            nonlocal is_started
            if not is_started:
                is_started = True
                task_status.started()
            elif on_again is not None:
                on_again()

        try:
            with scope:
                while True:
                    try:
                        await self._listen_once(topics, listener, start)
                    except BrokerError as exc:
                        if not is_started and not isinstance(exc, ConnectionLost):
                            raise
                        await trio.sleep(_PAUSE)
        finally:
            done.set()

    async def _listen_once(
        self, topics: Sequence[str], listener: Listener, on_listening: Callable[[], None]
    ) -> None:
        """Listen until the connection is lost."""

        def take(delivery: Delivery) -> None:
            delivery.ack()
            listener.put(delivery.body)

        connection = await self.prepare(self._consuming)
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
            for topic in topics:  # In this order: whoever hears the last hears all of them.
                await connection.control(
                    spec.Queue.Bind(queue=queue, exchange=self.exchange, routing_key=topic)
                )
            await channel.subscribe(queue, prefetch=MAX_UNREAD, on_delivery=take)
            on_listening()
            await channel.wait_interrupted()
