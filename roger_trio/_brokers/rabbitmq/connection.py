"""One live connection: control by aiormq, data around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

import aiormq
import aiormq.exceptions
import trio
import trio_asyncio
from pamqp import commands as spec
from pamqp.base import Frame

from ..base import (
    BrokerError,
    ConnectionLost,
    Delivery,
    QueueMissing,
    QueueRefused,
)
from . import frames
from .consuming import ConsumeChannel
from .getting import PAGE, GetChannel
from .publishing import PublishChannel
from .transport import Transport
from .versions import Server

P = ParamSpec("P")
T = TypeVar("T")

_RPC_TIMEOUT: Final = 30.0
"""Seconds the broker has to answer a control call before the connection counts as lost."""
_CLOSE_TIMEOUT: Final = 3.0
_SETTLED_AT_ONCE: Final = 32
"""Settlements that a channel sends to quorum queues without waiting for them to be applied."""
_PROOF: Final = 3
"""Answers of a queue after which all settlements before have reached it."""
_MAX_CHANNELS: Final = 2**16 - 1
_MAX_PREFETCH: Final = 2**16 - 1
_DEFAULT_FRAME_MAX: Final = 128 * 1024


class Connection:
    """One live connection to the broker."""

    def __init__(
        self,
        amqp: aiormq.Connection,
        transport: Transport,
        loop: trio_asyncio.BaseTrioEventLoop,
    ) -> None:
        self._amqp = amqp
        self._loop = loop
        self.transport = transport
        self._patience = _RPC_TIMEOUT
        self._last_number = 0
        self._opening: set[int] = set()
        self._getting = 0
        self._control: aiormq.Channel | None = None
        self._control_lock = trio.Lock()
        self._publisher: PublishChannel | None = None
        self._publisher_lock = trio.Lock()

    @property
    def frame_max(self) -> int:
        """The largest frame that may be sent, in bytes."""
        return self._amqp.connection_tune.frame_max or _DEFAULT_FRAME_MAX

    @property
    def server(self) -> Server:
        """What the broker told of itself."""
        return Server.of(self._amqp.server_properties)

    @property
    def tuning(self) -> spec.Connection.Tune:
        """The limits that were agreed upon."""
        return self._amqp.connection_tune

    @property
    def timeout(self) -> float:
        """How many seconds the broker has for an answer."""
        # A blocked connection is not read: waiting long for an answer is in vain.
        return _CLOSE_TIMEOUT if self.transport.blocked is not None else self._patience

    # Control, by aiormq...

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one aiormq call to its end: cancelling one in the middle closes its channel.

        Raises:
            ConnectionLost: The connection went, or the broker did not answer in time.
            QueueMissing: The broker knows no such queue or exchange.
            QueueRefused: The broker refused; its words are the message.
        """
        if self.transport.lost is not None:
            raise self.transport.lost
        timeout = self.timeout
        with trio.move_on_after(timeout, shield=True) as scope:
            self.transport.calls.add(scope)
            try:
                answer = await self._loop.run_aio_coroutine(_run(fn, *args, **kwargs))
                return cast("T", answer)
            except BaseException as exc:
                error = self._translate(exc)
                if error is None:
                    raise
                raise error from exc
            finally:
                self.transport.calls.discard(scope)
        if self.transport.lost is not None:
            raise self.transport.lost
        silent = f"the broker did not answer within {timeout:g} s"
        self.transport.abort(silent)
        raise ConnectionLost(silent)

    def _translate(self, exc: BaseException) -> BrokerError | None:
        lost = self.transport.lost
        match exc:
            case aiormq.exceptions.ChannelNotFoundEntity():
                return QueueMissing(str(exc))
            case (
                aiormq.exceptions.ChannelPreconditionFailed()
                | aiormq.exceptions.ChannelAccessRefused()
                | aiormq.exceptions.ChannelLockedResource()
            ):
                return QueueRefused(str(exc))
            case asyncio.CancelledError() | asyncio.TimeoutError():
                return lost or ConnectionLost("the channel was closed")
            case aiormq.exceptions.AMQPError() | OSError() | RuntimeError():
                return lost or ConnectionLost(str(exc) or type(exc).__name__)
            case Exception() if type(exc) is Exception:
                return lost or ConnectionLost("the channel was closed")  # aiormq gave up on it.
            case _:
                return None

    async def control(self, frame: Frame) -> Any:
        """Make one control call on a channel of its own, as an error closes the channel."""
        await self.transport.wait_unblocked()
        async with self._control_lock:
            if self._control is None or self._control.is_closed:
                self._control = await self._open_channel()
            try:
                return await self.call(self._control.rpc, frame)
            except BrokerError:
                self._control = None
                raise

    async def _open_channel(self) -> aiormq.Channel:
        await self.transport.wait_unblocked()
        number = self._next_number()
        self._opening.add(number)
        try:
            channel = await self.call(self._amqp.channel, number, publisher_confirms=False)
        finally:
            self._opening.discard(number)
        return cast("aiormq.Channel", channel)

    @property
    def _channel_max(self) -> int:
        return self._amqp.connection_tune.channel_max or _MAX_CHANNELS

    @property
    def room_to_get(self) -> int:
        """How many messages a look may ask for now: half the channels are for others."""
        return PAGE * max(1, self._channel_max // 2 - self._getting)

    @property
    def may_get_more(self) -> bool:
        """Whether a look may take a page that nobody asked it for."""
        return self._getting < self._channel_max * 3 // 4

    def _next_number(self) -> int:
        """Choose a channel number: aiormq's own choice climbs past the limit agreed upon.

        A number is used again as late as can be, as the broker ignores what reaches it on one
        whose closing handshake is not over.
        """
        limit = self._channel_max
        for step in range(limit):
            number = (self._last_number + step) % limit + 1
            if number not in self._amqp.channels and number not in self._opening:
                self._last_number = number
                return number
        raise QueueRefused(f"all {limit} channels that the broker allows (channel_max) are in use")

    # Data, around aiormq...

    async def publisher(self) -> PublishChannel:
        """Return the channel to publish on, opened anew where the broker closed the last one."""
        publisher = self._publisher
        if publisher is not None and publisher.closed is None:
            return publisher  # The lock would cost each publish a turn of Trio's loop.
        async with self._publisher_lock:
            if self._publisher is None or self._publisher.closed is not None:
                channel = await self._open_channel()
                number = channel.number
                publisher = PublishChannel(self.transport, number, self.frame_max)
                await self.call(channel.rpc, spec.Confirm.Select())
                self.transport.attach(number, publisher)
                self._publisher = publisher
            return self._publisher

    @asynccontextmanager
    async def open_consumer(
        self, topics: str | None = None, *, can_get: Callable[[str], bool] = lambda _queue: False
    ) -> AsyncGenerator[RabbitChannel]:
        """Open a channel to consume on; at exit its unsettled deliveries go back.

        Args:
            topics: The exchange for what is said on it, if anything is; it must exist.
            can_get: Whether a queue allows ``basic.get``.
        """
        control = await self._open_channel()
        data = ConsumeChannel(self.transport, control.number)
        self.transport.attach(control.number, data)
        try:
            yield RabbitChannel(self, control, data, can_get, topics)
        finally:
            await self._close_channel(data)

    @asynccontextmanager
    async def open_getter(self) -> AsyncGenerator[GetChannel]:
        """Open a channel to take single messages on; at exit its unsettled ones go back."""
        self._getting += 1
        try:
            control = await self._open_channel()
            data = GetChannel(self.transport, control.number)
            self.transport.attach(control.number, data)
            try:
                yield data
            finally:
                await self._close_channel(data)
        finally:
            self._getting -= 1

    async def _close_channel(self, data: ConsumeChannel | GetChannel) -> None:
        timeout = self.timeout
        with (
            trio.move_on_after(timeout, shield=True) as scope,
            suppress(BrokerError),  # Then it is closed, which is what was wanted.
        ):
            await data.end_in_order()
        if scope.cancelled_caught:
            self.transport.abort(f"the broker did not close a channel within {timeout:g} s")
        data.end(ConnectionLost("closed by us"))

    async def close(self) -> None:
        """Say goodbye to the broker, within a few seconds."""
        self._patience = _CLOSE_TIMEOUT
        try:
            with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await self.transport.flush()
            with suppress(BrokerError):  # Then it is closed, which is what was wanted.
                await self.call(self._amqp.close)
        finally:
            self.transport.abort("closed by us")


async def _run(fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    return await fn(*args, **kwargs)


class RabbitChannel:
    """A queue consumer's lane; see `Channel` in ``base.py``."""

    def __init__(
        self,
        connection: Connection,
        control: aiormq.Channel,
        data: ConsumeChannel,
        can_get: Callable[[str], bool],
        topics: str | None,
    ) -> None:
        self._connection = connection
        self._control = control
        self._data = data
        self._can_get = can_get
        self._topics = topics
        self._consumers = 0
        self._queues: set[str] = set()
        self._proving = trio.Lock()
        self._settled_by_proof = 0

    @property
    def data(self) -> ConsumeChannel:
        """What receives its deliveries."""
        return self._data

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries of `queue` handed to `on_delivery`, at most `prefetch` unsettled."""
        self._queues.add(queue)
        self._consumers += 1
        # Not a mere number: a get is to a quorum queue a consumer with its delivery tag for a name.
        tag = f"c{self._consumers}"
        count = min(prefetch, _MAX_PREFETCH)
        self._data.add(tag, queue, count, on_delivery)
        await self._connection.call(self._control.basic_qos, prefetch_count=count)
        await self._connection.call(
            self._control.basic_consume, queue, _never_called, consumer_tag=tag
        )

    async def unsubscribe(self) -> Sequence[Delivery]:
        """End all subscriptions; see `Channel`."""
        tags = self._data.tags
        for tag in tags:
            await self._connection.call(self._control.basic_cancel, tag)
        # The broker answers before the queue hears of it. What comes until then is handed on, as
        # only its taker knows how to give it back without counting a death.
        taken = await self._prove_quiet()
        for tag in tags:
            self._data.forget(tag)
        return taken

    async def wait_settled(self) -> Sequence[Delivery]:
        """Wait until every settlement so far has reached its queue; see `Channel`."""
        # A get hands a waiting job out, which then looks like one that may have run before.
        has_kept_some = self._data.settled - self._settled_by_proof > _SETTLED_AT_ONCE
        return await self._prove_quiet() if has_kept_some else ()

    async def _prove_quiet(self) -> Sequence[Delivery]:
        """Wait until nothing is on its way between the broker's channel and its queues.

        A channel has 32 settlements on their way to a quorum queue. It keeps the others until the
        queue says that it applied those, and drops them if it is closed before. The queue answers
        a ``basic.get`` in the same order as it applies what came before, so:

        1. The answer to a first one proves that the queue applied what was on its way.
        2. The queue may say so after that answer, but before the answer to a second one.
        3. So the channel has heard it, and has sent all that it kept, before it sends a third.
        """
        queues = [] if self._data.is_interrupted else sorted(filter(self._can_get, self._queues))
        taken: list[Delivery] = []
        timeout = self._connection.timeout
        with trio.move_on_after(timeout, shield=True) as scope:
            async with self._proving:
                settled = self._data.settled
                for _ in range(_PROOF if queues else 0):
                    taken += await self._data.get_each(queues)
                self._settled_by_proof = settled
        if scope.cancelled_caught:
            silent = f"the broker did not answer within {timeout:g} s"
            self._connection.transport.abort(silent)
            raise ConnectionLost(silent)
        return taken

    async def wait_interrupted(self) -> NoReturn:
        """Wait until a subscription ends by itself, or the channel does; raise why."""
        await self._data.wait_interrupted()

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone."""
        await self._data.wait_lost()

    def say(self, topic: str, body: bytes) -> None:
        """Broadcast on this channel, without the broker's word on it; see `Channel`."""
        if self._topics is None:
            raise RuntimeError("the channel was not opened to speak: open_channel(speaks=True)")
        number = self._data.number
        method = frames.publish_method(number, self._topics, topic, mandatory=False)
        content = frames.content(number, body, b"", None, self._connection.frame_max)
        self._data.write(method + content)

    async def flush(self) -> None:
        """Wait until every settlement so far has been handed to the operating system."""
        await self._connection.transport.flush()


async def _never_called(_message: object) -> None:
    """Stand in for a callback: deliveries never reach aiormq."""
