"""A TCP proxy that can cut, stall, slow and refuse connections: the network on a bad day."""

from __future__ import annotations

import contextlib
from typing import NoReturn

import trio


class Proxy:
    """Passes bytes between clients and one address, as long as it likes to.

    Start `run` in a nursery; `port` on 127.0.0.1 is then its own.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._scopes: set[trio.CancelScope] = set()
        self._flows = trio.Event()
        self._flows.set()
        self.refusing = False
        """Whether new connections are closed at once."""
        self.pace = 0.0
        """Seconds that each chunk of bytes is held up."""
        self.port = 0
        self.accepted = 0
        """How many connections there have been."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve until cancelled."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.refusing:
            return
        self.accepted += 1
        with trio.CancelScope() as scope, contextlib.suppress(OSError, trio.BrokenResourceError):
            self._scopes.add(scope)
            try:
                async with (
                    await trio.open_tcp_stream(*self._target) as server,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._pump, client, server, scope)
                    nursery.start_soon(self._pump, server, client, scope)
            finally:
                self._scopes.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in source:
                await self._flows.wait()
                await trio.sleep(self.pace)
                await sink.send_all(chunk)
        scope.cancel()

    def cut(self) -> None:
        """Cut all connections there are."""
        for scope in list(self._scopes):
            scope.cancel()

    def stall(self) -> None:
        """Forward nothing more, with all connections open."""
        self._flows = trio.Event()

    def flow(self) -> None:
        """Forward again."""
        self._flows.set()
