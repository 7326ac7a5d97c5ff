"""One live connection: opened by aiormq over our transport; control by aiormq, data around it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

import aiormq
import aiormq.exceptions
import trio
import trio_asyncio
from pamqp import commands as spec
from pamqp.base import Frame
from yarl import URL

from ..._config import AmqpConfig
from ..._errors import ConfigError
from ..base import (
    BrokerError,
    ConnectionLost,
    ConnectionRefused,
    Delivery,
    QueueMissing,
    QueueRefused,
)
from .channels import ConsumeChannel, GetChannel, PublishChannel
from .transport import Limits, NotAmqp, ReadyTransport, Transport

P = ParamSpec("P")
T = TypeVar("T")

_RPC_TIMEOUT: Final = 30.0
"""Seconds the broker has to answer a control call before the connection counts as lost."""
_CLOSE_TIMEOUT: Final = 3.0
_MAX_CHANNELS: Final = 2**16 - 1
_MAX_PREFETCH: Final = 2**16 - 1
_MAX_HEARTBEAT: Final = 2**16 - 2  # aiormq takes one more for none.
_DEFAULT_FRAME_MAX: Final = 128 * 1024
_MISSED_HEARTBEATS: Final = 2
_REFUSALS: Final = frozenset((403, 530))
"""Close codes that will not change by themselves: access refused, not allowed (virtual host)."""


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
        self._control: aiormq.Channel | None = None
        self._control_lock = trio.Lock()
        self._publisher: PublishChannel | None = None
        self._publisher_lock = trio.Lock()

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
        # A blocked connection is not read: waiting long for an answer is in vain.
        timeout = _CLOSE_TIMEOUT if self.transport.blocked is not None else self._patience
        with trio.move_on_after(timeout, shield=True):
            try:
                answer = await self._loop.run_aio_coroutine(_run(fn, *args, **kwargs))
                return cast("T", answer)
            except BaseException as exc:
                error = self._translate(exc)
                if error is None:
                    raise
                raise error from exc
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

    def _next_number(self) -> int:
        """Choose a channel number: aiormq's own choice climbs past the limit agreed upon.

        A number is used again as late as can be, as the broker ignores what reaches it on one
        whose closing handshake is not over.
        """
        limit = self._amqp.connection_tune.channel_max or _MAX_CHANNELS
        for step in range(limit):
            number = (self._last_number + step) % limit + 1
            if number not in self._amqp.channels and number not in self._opening:
                self._last_number = number
                return number
        raise QueueRefused(f"all {limit} channels that the broker allows (channel_max) are in use")

    # Data, around aiormq...

    async def publisher(self) -> PublishChannel:
        """Return the channel to publish on, opened anew where the broker closed the last one."""
        async with self._publisher_lock:
            if self._publisher is None or self._publisher.closed is not None:
                channel = await self._open_channel()
                number = channel.number
                frame_max = self._amqp.connection_tune.frame_max or _DEFAULT_FRAME_MAX
                publisher = PublishChannel(self.transport, number, frame_max)
                await self.call(channel.rpc, spec.Confirm.Select())
                self.transport.attach(number, publisher)
                self._publisher = publisher
            return self._publisher

    @asynccontextmanager
    async def open_consumer(self) -> AsyncGenerator[RabbitChannel]:
        """Open a channel to consume on; at exit its unsettled deliveries go back."""
        control = await self._open_channel()
        data = ConsumeChannel(self.transport, control.number)
        self.transport.attach(control.number, data)
        try:
            yield RabbitChannel(self, control, data)
        finally:
            await self._close_channel(control, data)

    @asynccontextmanager
    async def open_getter(self) -> AsyncGenerator[GetChannel]:
        """Open a channel to take single messages on; at exit its unsettled ones go back."""
        control = await self._open_channel()
        data = GetChannel(self.transport, control.number)
        self.transport.attach(control.number, data)
        try:
            yield data
        finally:
            await self._close_channel(control, data)

    async def _close_channel(
        self, control: aiormq.Channel, data: ConsumeChannel | GetChannel
    ) -> None:
        data.close(ConnectionLost("closed by us"))
        if not data.ended:
            with suppress(BrokerError):  # Then it is closed, which is what was wanted.
                await self.call(control.close)
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
    ) -> None:
        self._connection = connection
        self._control = control
        self._data = data
        self._consumers = 0

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries of `queue` handed to `on_delivery`, at most `prefetch` unsettled."""
        self._consumers += 1
        tag = str(self._consumers)
        self._data.add(tag, queue, on_delivery)
        count = min(prefetch, _MAX_PREFETCH)
        await self._connection.call(self._control.basic_qos, prefetch_count=count)
        await self._connection.call(
            self._control.basic_consume, queue, _never_called, consumer_tag=tag
        )

    async def unsubscribe(self) -> None:
        """End all subscriptions. What was delivered stays on loan and can be settled."""
        for tag in self._data.tags:
            await self._connection.call(self._control.basic_cancel, tag)
            self._data.forget(tag)

    async def wait_interrupted(self) -> NoReturn:
        """Wait until a subscription ends by itself, or the channel does; raise why."""
        await self._data.wait_interrupted()

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone."""
        await self._data.wait_lost()

    async def flush(self) -> None:
        """Wait until every settlement so far has been handed to the operating system."""
        await self._connection.transport.flush()


async def _never_called(_message: object) -> None:
    """Stand in for a callback: deliveries never reach aiormq."""


async def connect(
    config: AmqpConfig,
    loop: trio_asyncio.BaseTrioEventLoop,
    nursery: trio.Nursery,
    name: str,
) -> Connection:
    """Open a connection; its bytes are moved by a task in `nursery`.

    Args:
        config: Where to and as whom.
        loop: The event loop aiormq lives in.
        nursery: Where the transport runs; it never raises there.
        name: What the broker's management page shows.

    Raises:
        ConnectionRefused: The broker will not have us; trying again alone does not help.
        ConnectionLost: It could not be reached, in time or at all.
    """
    timeout = config.connection_timeout
    with trio.move_on_after(float("inf") if timeout is None else timeout):
        stream = await _open_stream(config)
        return await _handshake(config, stream, loop, nursery, name)
    raise ConnectionLost(f"{config.display}: no connection within {timeout:g} s")


async def _open_stream(config: AmqpConfig) -> trio.abc.Stream:
    try:
        context = config.ssl_context()
        stream = await trio.open_tcp_stream(config.host, config.port)
    except OSError as exc:
        raise ConnectionLost(f"{config.display}: {_reason(exc)}") from exc
    except (ConfigError, UnicodeError) as exc:  # A certificate file; a host no name can be.
        raise ConnectionRefused(f"{config.display}: {exc}") from exc
    if context is None:
        return stream
    secure = trio.SSLStream(
        stream, context, server_hostname=config.server_hostname, https_compatible=True
    )
    try:
        await secure.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as exc:
        await trio.aclose_forcefully(stream)
        cause = exc.__cause__ or exc
        message = f"{config.display}: TLS: {_reason(cause)}"
        raise (ConnectionRefused if _is_refusal(exc) else ConnectionLost)(message) from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


async def _handshake(
    config: AmqpConfig,
    stream: trio.abc.Stream,
    loop: trio_asyncio.BaseTrioEventLoop,
    nursery: trio.Nursery,
    name: str,
) -> Connection:
    silence = config.heartbeat * _MISSED_HEARTBEATS or None
    limits = Limits(channel_max=config.channel_max, frame_max=config.frame_max)
    transport = Transport(stream, loop, limits=limits, silence_limit=silence)
    properties = {"connection_name": name, "product": "roger_trio", **config.properties_table()}
    amqp = aiormq.Connection(
        _url(config),
        loop=loop,
        transport_factory=ReadyTransport(transport),
        client_properties=properties,
    )
    amqp.vhost = config.virtual_host
    connection = Connection(amqp, transport, loop)
    nursery.start_soon(transport.run, name=f"transport of {name}")
    try:
        await loop.run_aio_coroutine(amqp.connect())
    except (Exception, asyncio.CancelledError) as exc:  # Anything may have answered.
        error = _handshake_error(config, transport, exc)
        transport.abort("the handshake failed")
        raise error from exc
    except BaseException:
        transport.abort("the handshake was cancelled")
        raise
    return connection


def _handshake_error(config: AmqpConfig, transport: Transport, exc: BaseException) -> BrokerError:
    """Decide what a failed handshake means: refused for good, or worth another try."""
    reason = transport.close_reason
    if isinstance(exc, aiormq.exceptions.ProbableAuthenticationError) or (
        reason is not None and reason.code in _REFUSALS
    ):
        text = reason.text if reason is not None else str(exc)
        return ConnectionRefused(
            f"{config.display}: the broker refused user {config.username!r} "
            f"on virtual host {config.virtual_host!r}: {text}"
        )
    lost = transport.lost
    if isinstance(lost, NotAmqp):
        return ConnectionRefused(f"{config.display}: {lost}")
    if lost is not None and _is_refusal(lost):
        return ConnectionRefused(f"{config.display}: TLS: {lost}")
    if isinstance(exc, aiormq.exceptions.AuthenticationError):
        return ConnectionRefused(f"{config.display}: {exc!r}")
    return ConnectionLost(f"{config.display}: {reason or lost or _reason(exc)}")


def _url(config: AmqpConfig) -> URL:
    """Build what aiormq reads its credentials and heartbeat from."""
    return URL.build(
        scheme="amqp",
        user=config.username,
        password=config.password,
        host=config.host,
        port=config.port,
        path="/",
        query={"heartbeat": str(min(config.heartbeat, _MAX_HEARTBEAT))},
    )


def _is_refusal(exc: BaseException) -> bool:
    """Tell whether TLS failed because one side would not have the other, not by a broken line."""
    broken = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return isinstance(exc, ssl.SSLError) and not isinstance(exc, broken)


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
