"""Finding out over AMQP what a broker is like, without leaving anything behind.

Nothing is created but two exclusive queues, which go with the connection. A queue or exchange that
is there is declared again as it is, which changes nothing; what is missing is declared with an
argument that cannot be, which the broker refuses only after it has looked at our permissions.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

import aiormq.exceptions
import trio
from pamqp import commands as spec

from ..._config import AmqpConfig
from ..base import (
    BrokerError,
    ConnectionLost,
    ConnectionRefused,
    Message,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from . import topology
from .connecting import connect
from .connection import Connection
from .facts import Declared, RabbitFacts, Refusal, Unreachable
from .loop import open_loop
from .publishing import Confirmation, write_all

_CONFIRM_TIMEOUT: Final = 5.0
"""Seconds that the broker has to confirm a message, or to say that it takes none."""
_EXPIRY_TIMEOUT: Final = 3.0
"""Seconds that a message has to come through its dead-letter queue."""
_ACCESS_REFUSED: Final = "ACCESS_REFUSED"
_REFUSED: Final = re.compile(r"(?:(configure|write|read) )?access to (?:queue|exchange) '([^']*)'")
_SERVER_NAMED: Final = "amq.gen"
"""What the names begin with that the broker chooses."""
_KEY: Final = "roger-doctor"
"""A routing key that nothing is bound by: what is published with it comes back."""
_WRONG_ARGUMENT: Final = {"x-message-ttl": "none"}
_WRONG_PRIORITY: Final = {"x-priority": "none"}
_WRONG_ALTERNATE: Final = {"alternate-exchange": 0}


async def probe(
    config: AmqpConfig, prefix: str, queues: Sequence[QueueSpec]
) -> RabbitFacts | Unreachable:
    """Find out about a broker; takes a few milliseconds for each queue.

    Args:
        config: Where it is and as whom we come.
        prefix: The cluster's prefix.
        queues: The queues that are needed, as they must be declared.
    """
    try:
        async with _connected(config) as connection:
            return await _Probe(config, prefix, connection).run(queues)
    except ConnectionRefused as exc:
        return Unreachable(str(exc), is_refusal=True)
    except ConnectionLost as exc:
        return Unreachable(str(exc), is_refusal=False)


@asynccontextmanager
async def _connected(config: AmqpConfig) -> AsyncGenerator[Connection]:
    error: BrokerError | None = None
    async with open_loop() as loop, trio.open_nursery() as nursery:
        try:
            connection = await connect(config, loop, nursery, "roger doctor")
            try:
                yield connection
            finally:
                await connection.close()
        except BrokerError as exc:
            error = exc  # Out of the nursery, which would wrap it.
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


class _Probe:
    """One look at a broker."""

    def __init__(self, config: AmqpConfig, prefix: str, connection: Connection) -> None:
        self._config = config
        self._prefix = prefix
        self._connection = connection
        self._refusals: dict[tuple[str, str], Refusal] = {}

    async def run(self, needed: Sequence[QueueSpec]) -> RabbitFacts:
        arguments = {each.name: topology.queue_arguments(each) for each in needed}
        arguments |= self._delay_queues()
        queues = [await self._queue(name, its) for name, its in arguments.items()]
        exchanges = [await self._exchange(*each) for each in self._exchanges(needed)]
        await self._try_binding(needed)
        # Last: a broker with an alarm reads nothing more once something was published.
        blocked, unconfirmed, ahead = await self._try_message()
        if not (blocked or unconfirmed):
            for name in (topology.topics_exchange(self._prefix), *self._levels()):
                await self._try_writing(name)
        tune = self._connection.tuning
        return RabbitFacts(
            server=self._connection.server,
            channel_max=int(tune.channel_max or 0),
            frame_max=self._connection.frame_max,
            heartbeat=int(tune.heartbeat or 0),
            queues=tuple(queues),
            exchanges=tuple(exchanges),
            refusals=tuple(self._refusals.values()),
            blocked=blocked,
            unconfirmed=unconfirmed,
            clock_ahead=ahead,
        )

    # What we need besides the queues of the partitions...

    def _levels(self) -> list[str]:
        return [topology.level_name(self._prefix, level) for level in range(topology.LEVELS)]

    def _delay_queues(self) -> dict[str, topology.Arguments]:
        last = topology.unroutable(self._prefix)
        levels = {
            name: topology.level_arguments(self._prefix, level)
            for level, name in enumerate(self._levels())
        }
        return {last: topology.queue_arguments(QueueSpec(name=last)), **levels}

    def _exchanges(self, needed: Iterable[QueueSpec]) -> list[tuple[str, str, topology.Arguments]]:
        """Return name, type and arguments of each exchange."""
        prefix = self._prefix
        return [
            (topology.topics_exchange(prefix), "direct", {}),
            (topology.unroutable(prefix), "fanout", {}),
            (topology.last_exchange(prefix), "topic", topology.last_arguments(prefix)),
            *((name, "topic", {}) for name in self._levels()),
            (topology.marker_exchange(prefix), "direct", {}),
            *((each.name, "fanout", {}) for each in needed if each.forwards),
        ]

    # Asking...

    async def _ask(self, permission: str, name: str, frame: Any) -> str | None:
        """Make a call; return why the broker refused it, if it did and not for a permission.

        Raises:
            QueueMissing: There is no such queue or exchange.
            ConnectionLost: The connection was lost.
        """
        try:
            await self._connection.control(frame)
        except QueueRefused as exc:
            if not isinstance(exc.__cause__, aiormq.exceptions.ChannelAccessRefused):
                return str(exc)
            self._note(permission, name, str(exc))
        return None

    def _note(self, permission: str, name: str, words: str) -> None:
        """Note a refusal of something that takes `permission` on `name`, unless it says of what.

        To declare a queue that dead-letters takes writing to its dead-letter exchange, too.
        """
        told = _REFUSED.search(words)
        if told is not None:
            of = _SERVER_NAMED if told[2].startswith(_SERVER_NAMED) else told[2]
            permission, name = told[1] or (permission if of == name else "write"), of
        self._refusals.setdefault((permission, name), Refusal(permission, name, words))

    async def _queue(self, name: str, arguments: topology.Arguments) -> Declared:
        try:
            answer = await self._connection.control(spec.Queue.Declare(queue=name, passive=True))
        except QueueMissing:
            wrong = spec.Queue.Declare(queue=name, durable=True, arguments=dict(_WRONG_ARGUMENT))
            await self._ask("configure", name, wrong)
            await self._try_reading(name)
            return Declared(name=name, exists=False)
        except QueueRefused as exc:  # Another connection has it to itself.
            return Declared(name=name, exists=True, difference=str(exc))
        again = spec.Queue.Declare(queue=name, durable=True, arguments=dict(arguments))
        difference = await self._ask("configure", name, again)
        if difference is None:
            await self._try_reading(name)
        messages = int(answer.message_count or 0)
        return Declared(name=name, exists=True, messages=messages, difference=difference or "")

    async def _try_reading(self, name: str) -> None:
        """Try to consume a queue in a way that is refused: for a permission first, if at all."""
        frame = spec.Basic.Consume(queue=name, arguments=dict(_WRONG_PRIORITY))
        with suppress(QueueMissing):
            await self._ask("read", name, frame)

    async def _exchange(self, name: str, kind: str, arguments: topology.Arguments) -> Declared:
        try:
            await self._connection.control(spec.Exchange.Declare(exchange=name, passive=True))
        except QueueMissing:
            wrong = spec.Exchange.Declare(
                exchange=name, exchange_type=kind, arguments=dict(_WRONG_ALTERNATE)
            )
            await self._ask("configure", name, wrong)
            return Declared(name=name, exists=False)
        again = spec.Exchange.Declare(
            exchange=name, exchange_type=kind, durable=True, arguments=dict(arguments)
        )
        difference = await self._ask("configure", name, again)
        return Declared(name=name, exists=True, difference=difference or "")

    async def _try_binding(self, needed: Iterable[QueueSpec]) -> None:
        """Remove bindings that nobody has: that takes what adding one takes."""
        last = topology.last_exchange(self._prefix)
        pairs = [(each.name, last) for each in needed if each.takes_delayed]
        pairs += [(each.name, each.name) for each in needed if each.forwards]
        pairs += [(name, name) for name in self._levels()]
        for queue, exchange in pairs:
            frame = spec.Queue.Unbind(queue=queue, exchange=exchange, routing_key=_KEY)
            try:
                await self._connection.control(frame)
            except QueueMissing:
                pass
            except QueueRefused as exc:
                if not isinstance(exc.__cause__, aiormq.exceptions.ChannelAccessRefused):
                    continue
                if "access to queue" in str(exc):
                    self._note("write", queue, str(exc))
                else:
                    self._note("read", exchange, str(exc))

    async def _try_writing(self, exchange: str) -> None:
        """Publish something that no queue gets, and that comes back."""
        error = await self._publish(exchange, _KEY)
        if error is not None and _ACCESS_REFUSED in str(error):
            self._note("write", exchange, str(error))

    async def _publish(self, exchange: str, key: str) -> BrokerError | None:
        """Publish a message; return why it was not kept."""
        try:
            publisher = await self._connection.publisher()
        except QueueRefused as exc:  # There may be no second channel.
            return exc
        confirmation = Confirmation(1)
        await write_all(publisher, exchange, key, [Message(b"")], confirmation)
        with trio.move_on_after(_CONFIRM_TIMEOUT):
            await confirmation.wait()
            return confirmation.failures.get(0)
        return ConnectionLost(f"no confirm within {_CONFIRM_TIMEOUT:g} s")

    # A message's way...

    async def _try_message(self) -> tuple[str, str, float | None]:
        """Send a message through a queue of our own, in which it expires, to a second one.

        The broker writes the time of its death on it, in whole seconds.

        Returns:
            Why the broker takes no messages, why this one was not confirmed otherwise, and how
            many seconds the broker's clock is ahead of ours.
        """
        end = await self._exclusive({})
        start = end and await self._exclusive(
            {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": end}
        )
        if not end or not start:
            return "", "", None
        before = time.time()
        error = await self._publish("", start)
        if self._connection.transport.blocked is not None:
            return self._connection.transport.blocked or "blocked", "", None
        if error is not None:
            if _ACCESS_REFUSED in str(error):
                self._note("write", "amq.default", str(error))
                return "", "", None
            return "", str(error), None
        died = await self._time_of_death(end)
        return "", "", None if died is None else ahead(before, died, time.time())

    async def _exclusive(self, arguments: dict[str, Any]) -> str | None:
        """Declare a queue that goes with the connection; return its name, if we may."""
        frame = spec.Queue.Declare(queue="", exclusive=True, arguments=arguments)
        try:
            answer = await self._connection.control(frame)
        except QueueRefused as exc:
            self._note("configure", _SERVER_NAMED, str(exc))
            return None
        return str(answer.queue)

    async def _time_of_death(self, queue: str) -> float | None:
        with trio.move_on_after(_EXPIRY_TIMEOUT):
            while True:
                try:
                    async with self._connection.open_getter() as getter:
                        taken = await getter.take(queue, 1)
                except BrokerError as exc:
                    if _ACCESS_REFUSED in str(exc):
                        self._note("read", _SERVER_NAMED, str(exc))
                    return None
                if taken:
                    return time_of_death(taken[0].headers)
                await trio.sleep(0.02)
        return None


def time_of_death(headers: Any) -> float | None:
    """Read when a message was dead-lettered, in seconds since 1970; None: it does not say."""
    deaths = headers.get("x-death")
    when = deaths[0].get("time") if isinstance(deaths, list) and deaths else None
    return when.timestamp() if isinstance(when, datetime) else None


def ahead(before: float, then: float, after: float) -> float:
    """Decide how far a clock is ahead, given a time in whole seconds that it told in between.

    Args:
        before: Our time before it told.
        then: What it told, cut to whole seconds.
        after: Our time afterwards.

    Returns:
        Seconds; 0 if they agree as far as can be told, and less than 0 if it is behind.
    """
    if then > after:
        return then - after
    return min(0.0, then + 1 - before)
