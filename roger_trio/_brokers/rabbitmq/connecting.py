"""Opening a connection: TCP, TLS, and the handshake by aiormq; what may go wrong with each."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import aiormq
import aiormq.exceptions
import trio
import trio_asyncio
from yarl import URL

from ..._config import AmqpConfig
from ..._errors import ConfigError
from ..base import BrokerError, ConnectionLost, ConnectionRefused
from .connection import Connection
from .quick import QuickStream
from .refusals import advice
from .transport import Limits, NotAmqp, ReadyTransport, Transport

_MISSED_HEARTBEATS: Final = 2
_MAX_HEARTBEAT: Final = 2**16 - 2  # aiormq takes one more for none.
_REFUSALS: Final = frozenset((403, 530))
"""Close codes that will not change by themselves: access refused, not allowed (virtual host)."""


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
        raise ConnectionLost(f"{config.display}: {_reason(_root(exc))}") from exc
    except (ConfigError, UnicodeError) as exc:  # A certificate file; a host no name can be.
        raise ConnectionRefused(f"{config.display}: {exc}") from exc
    if context is None:
        return QuickStream(stream)
    secure = trio.SSLStream(
        stream, context, server_hostname=config.server_hostname, https_compatible=True
    )
    try:
        await secure.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as exc:
        await trio.aclose_forcefully(stream)
        cause = exc.__cause__ or exc
        message = f"{config.display}: TLS: {_with_advice(cause)}"
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
        return ConnectionRefused(f"{config.display}: TLS: {_with_advice(_root(lost), str(lost))}")
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


def _root(exc: BaseException) -> BaseException:
    """Return the first cause of an error; of several, the last attempt's."""
    if isinstance(exc, BaseExceptionGroup):
        return _root(exc.exceptions[-1])
    return exc if exc.__cause__ is None else _root(exc.__cause__)


def _is_refusal(exc: BaseException) -> bool:
    """Tell whether TLS failed because one side would not have the other, not by a broken line."""
    broken = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    cause = _root(exc)
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, broken)


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__


def _with_advice(exc: BaseException, text: str = "") -> str:
    """Say why TLS failed, and what to do."""
    return "; ".join(filter(None, (text or _reason(exc), advice(exc))))
