"""A TCP stream that takes fewer turns of Trio's loop.

`trio.SocketStream` tries to read before it waits, and yields after all that succeeds at once. Where
each message waits for the one before, such as ``await enqueue()`` in a loop, that is half of the
loop's turns and a failed system call for each of them. This one waits, then reads; and what the
kernel takes at once is sent without a turn.
"""

from __future__ import annotations

import socket
from typing import NoReturn

import trio


class QuickStream(trio.abc.Stream):
    """A TCP stream, for one task that reads and one that writes.

    Args:
        stream: What Trio opened; it is used up.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._raw = socket.socket(fileno=stream.socket.detach())
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._raw))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; return some; none at the end of the stream."""
        if max_bytes is None:
            return await self._stream.receive_some()
        while True:
            await self.wait_readable()
            try:
                return self._raw.recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as exc:
                _fail(exc)

    async def wait_readable(self) -> None:
        """Wait until there is something to read, or the stream has ended."""
        self._check_open()
        await trio.lowlevel.wait_readable(self._raw)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all; without a checkpoint if the kernel takes it at once."""
        self._check_open()
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            _fail(exc)
        if sent < len(data):
            await self._stream.send_all(memoryview(data)[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()

    def _check_open(self) -> None:
        if self._raw.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")


def _fail(exc: OSError) -> NoReturn:
    raise trio.BrokenResourceError(str(exc)) from exc
