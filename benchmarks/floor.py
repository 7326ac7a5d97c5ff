"""What RabbitMQ itself takes, with nothing before it but a socket: no job system can be quicker.

``python -m benchmarks.floor [--amqp URL] [--count N]`` publishes persistent messages to a quorum
queue, each confirmed before the next, and then measures how long one takes to a consumer that waits
for it. One thread, blocking sockets, frames made beforehand. Then how long one takes from one Trio
program to another, as between a client and a node: sockets and frames, and no more.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import trio
from pamqp import base, commands, frame, header

_BODY = b"x" * 200
_IDLE = 0.01
"""Seconds between messages whose latency is measured."""
_FRAME = struct.Struct(">BHI")
_STAMP = struct.Struct(">Q")


class Raw:
    """A connection with one channel, and nothing that costs time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 5672))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}"
        self._socket.sendall(header.ProtocolHeader().marshal())
        self.wait("Connection.Start")
        self.send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), channel=0)
        self.wait("Connection.Tune")
        self.send(commands.Connection.TuneOk(2047, 131_072, 0), channel=0)
        self.call(commands.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
        self.call(commands.Channel.Open())

    def send(self, method: base.Frame, *, channel: int = 1) -> None:
        """Send a method."""
        self._socket.sendall(frame.marshal(method, channel))

    def send_raw(self, data: bytes) -> None:
        """Send frames."""
        self._socket.sendall(data)

    def call(self, method: base.Frame, *, channel: int = 1) -> None:
        """Send a method and wait for its answer."""
        self.send(method, channel=channel)
        self.wait(f"{method.name}Ok")

    def wait(self, name: str) -> None:
        """Read until a method has come; forget the rest."""
        while True:
            size, _, got = frame.unmarshal(self._rest) if len(self._rest) > 7 else (0, 0, None)
            self._rest = self._rest[size:]
            if got is None:
                self.read()
            elif got.name == name:
                return

    def read(self) -> None:
        """Read what there is, or comes next."""
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("RabbitMQ hung up")
        self._rest += data

    def detach(self) -> trio.SocketStream:
        """Go on in Trio."""
        self._socket.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@contextmanager
def _queue(url: str) -> Generator[tuple[Raw, Raw, str]]:
    name = f"bench{secrets.token_hex(3)}-floor"
    one, other = Raw(url), Raw(url)
    arguments = {"x-queue-type": "quorum"}
    one.call(commands.Queue.Declare(queue=name, durable=True, arguments=dict(arguments)))
    try:
        yield one, other, name
    finally:
        one.call(commands.Queue.Delete(queue=name))
        one.close()
        other.close()


def _message(queue: str, text: bytes = _BODY) -> bytes:
    properties = commands.Basic.Properties(delivery_mode=2)
    content = header.ContentHeader(body_size=len(text), properties=properties)
    method = commands.Basic.Publish(routing_key=queue)
    body = _FRAME.pack(3, 1, len(text)) + text + b"\xce"
    return frame.marshal(method, 1) + frame.marshal(content, 1) + body


def one_by_one(url: str, count: int) -> tuple[float, float]:
    """Publish messages, each confirmed before the next.

    Returns:
        How many in a second, and microseconds of this process's CPU time for each.
    """
    with _queue(url) as (raw, _, queue):
        raw.call(commands.Confirm.Select())
        message = _message(queue)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            raw.send_raw(message)
            raw.wait("Basic.Ack")
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return count / seconds, cpu / count * 1e6


def latency(url: str, count: int) -> tuple[float, float]:
    """Publish messages one at a time to a consumer that waits; return median and p99 in ms."""
    found: list[float] = []
    with _queue(url) as (raw, other, queue):
        other.call(commands.Basic.Consume(queue=queue, no_ack=True))
        message = _message(queue)
        for _ in range(count):
            time.sleep(_IDLE)
            began = time.perf_counter()
            raw.send_raw(message)
            other.wait("Basic.Deliver")
            found.append((time.perf_counter() - began) * 1000)
    return _summary(found)


def _summary(found: list[float]) -> tuple[float, float]:
    return statistics.median(found), statistics.quantiles(found, n=100)[98]


def trio_latency(url: str, count: int) -> tuple[float, float]:
    """Publish messages one at a time to another program, both in Trio; return median and p99 in ms.

    The other program consumes, splits what comes into frames, and looks at the clock.
    """
    with _queue(url) as (_, raw, queue):
        command = [
            sys.executable,
            "-m",
            "benchmarks.floor",
            f"--count={count}",
            f"--receive={queue}",
        ]
        with subprocess.Popen(
            command, env={**os.environ, "ROGER_TEST_AMQP": url}, stdout=subprocess.PIPE, text=True
        ) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()  # It consumes.
            trio.run(_send_stamps, raw, queue, count)
            found = [int(each) / 1e6 for each in receiver.stdout.read().split()]
    return _summary(found)


async def _send_stamps(raw: Raw, queue: str, count: int) -> None:
    stream = raw.detach()
    filled = b"x" * (len(_BODY) - _STAMP.size)
    for _ in range(count):
        await trio.sleep(_IDLE)
        await stream.send_all(_message(queue, _STAMP.pack(time.monotonic_ns()) + filled))


async def _receive_stamps(url: str, queue: str, count: int) -> None:
    raw, found, rest = Raw(url), list[int](), b""
    raw.call(commands.Basic.Consume(queue=queue, no_ack=True))
    print("ready", flush=True)
    stream = raw.detach()
    while len(found) < count:
        rest += await stream.receive_some(65_536)
        while len(rest) >= _FRAME.size:
            kind, _, size = _FRAME.unpack_from(rest)
            if len(rest) < _FRAME.size + size + 1:
                break
            if kind == 3:
                found.append(time.monotonic_ns() - _STAMP.unpack_from(rest, _FRAME.size)[0])
            rest = rest[_FRAME.size + size + 1 :]
    print(*found)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor")
    url = os.environ.get("ROGER_TEST_AMQP", "amqp://guest:guest@localhost:5672/")
    parser.add_argument("--amqp", default=url, help="the RabbitMQ to use")
    parser.add_argument("--count", type=int, default=5000, help="messages (default: 5000)")
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        trio.run(_receive_stamps, options.amqp, options.receive, options.count)
        return
    for _ in range(3):
        rate, cpu = one_by_one(options.amqp, options.count)
        few = max(100, options.count // 10)
        median, p99 = latency(options.amqp, few)
        trio_median, trio_p99 = trio_latency(options.amqp, few)
        print(
            f"one by one: {rate:,.0f}/s, {cpu:.1f} µs of CPU each; "
            f"latency: {median:.2f} ms median, {p99:.2f} ms p99; "
            f"between Trio programs: {trio_median:.2f} ms, {trio_p99:.2f} ms"
        )


if __name__ == "__main__":
    main()
