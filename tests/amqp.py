"""A blocking AMQP session that shares no code with roger_trio, so that it can testify about it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pamqp import base, commands, common, frame, header

F = TypeVar("F", bound=base.Frame)


class NoRabbitMQ(Exception):
    """No RabbitMQ answers at an address, or none could be had at all; says why."""


class AmqpSession:
    """A blocking AMQP connection with one channel: enough to ask who is there, and to tidy up.

    Args:
        url: Where to connect; ``amqps`` trusts the ``cacertfile`` of the query, if it names one.
        timeout: Seconds for every single answer.

    Raises:
        NoRabbitMQ: Nothing listens, what listens is not RabbitMQ, or it refuses us.
    """

    def __init__(self, url: str, *, timeout: float = 10) -> None:
        self._buffer = b""
        try:
            self._socket = _connect(url, timeout)
        except OSError as exc:
            raise NoRabbitMQ(f"cannot connect: {exc}") from exc
        try:
            self._shake_hands(url)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, url: str) -> None:
        parts = urlsplit(url)
        name, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        self._send(header.ProtocolHeader().marshal())
        start = self._receive(commands.Connection.Start)
        product = (start.server_properties or {}).get("product")
        if product != "RabbitMQ":
            raise NoRabbitMQ(f"the server is {product!r}, not RabbitMQ")
        # So that a wrong password is said, not answered by hanging up.
        able: common.FieldTable = {"capabilities": {"authentication_failure_close": True}}
        answer = commands.Connection.StartOk(able, "PLAIN", f"\0{name}\0{password}", "en_US")
        tune = self.call(answer, commands.Connection.Tune, channel=0)
        limits = (tune.channel_max, tune.frame_max, 0)
        self._send(frame.marshal(commands.Connection.TuneOk(*limits), 0))
        opening = commands.Connection.Open(unquote(parts.path[1:]) or "/")
        self.call(opening, commands.Connection.OpenOk, channel=0)
        self.call(commands.Channel.Open(), commands.Channel.OpenOk)

    def call(self, request: base.Frame, answer: type[F], *, channel: int = 1) -> F:
        """Send one method and return its answer; anything else is `NoRabbitMQ`."""
        self._send(frame.marshal(request, channel))
        return self._receive(answer)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as exc:
            raise NoRabbitMQ(f"the connection broke: {exc}") from exc

    def _receive(self, wanted: type[F]) -> F:
        try:
            while True:
                if self._buffer[:4] == b"AMQP":
                    raise NoRabbitMQ("the server speaks another version of AMQP")
                size, _, got = frame.unmarshal(self._buffer) if self._buffer else (0, 0, None)
                self._buffer = self._buffer[size:]
                if isinstance(got, wanted):
                    return got
                if got is not None:
                    reason = getattr(got, "reply_text", "") or getattr(got, "name", got)
                    raise NoRabbitMQ(f"expected {wanted.name}, got {reason}")
                self._read_more()
        except OSError as exc:
            raise NoRabbitMQ(f"no AMQP answer: {exc}") from exc

    def _read_more(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise NoRabbitMQ("the server hung up (not AMQP, or a wrong name or password)")
        self._buffer += data
        if not self._buffer.startswith((b"\x01", b"AMQP")):
            raise NoRabbitMQ("what listens there does not speak AMQP")

    def delete_queue(self, name: str) -> None:
        """Delete a queue with all it holds; one that is not there is fine."""
        self.call(commands.Queue.Delete(queue=name), commands.Queue.DeleteOk)

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange; one that is not there is fine."""
        self.call(commands.Exchange.Delete(exchange=name), commands.Exchange.DeleteOk)

    def close(self) -> None:
        """Say goodbye and close the socket."""
        with contextlib.suppress(NoRabbitMQ):
            goodbye = commands.Connection.Close(200, "", 0, 0)
            self.call(goodbye, commands.Connection.CloseOk, channel=0)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _connect(url: str, timeout: float) -> socket.socket:
    parts = urlsplit(url)
    host, secure = parts.hostname or "localhost", parts.scheme == "amqps"
    plain = socket.create_connection((host, parts.port or (5671 if secure else 5672)), timeout)
    if not secure:
        return plain
    [authority] = parse_qs(parts.query).get("cacertfile", [None])
    try:
        context = ssl.create_default_context(cafile=authority)
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
