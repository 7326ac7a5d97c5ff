"""What connects a supervisor and one of its processes: a pair of sockets, and words of one byte.

Signals would not do: a terminal, or systemd, sends one to all processes of a group, and the
supervisor's own would be the second, which stops at once. And whoever has one end learns of the
other one's death, however that came, SIGKILL included, as the kernel closes what was open.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from enum import IntEnum
from typing import Final

import trio

READY: Final = b"r"
"""The process says so once its node is ready."""


class Stop(IntEnum):
    """How far a process has been told to stop."""

    NO = 0
    GRACEFULLY = 1
    AT_ONCE = 2

    @property
    def word(self) -> bytes:
        """What the supervisor says."""
        return bytes([self])


def after_signal(stop: Stop, *, is_orphan: bool) -> Stop:
    """Decide what a signal to one of the processes means.

    However many come, it stops gracefully: a group's signals reach the supervisor too, which tells
    the second from the first. One that has no supervisor any more has to do that by itself.

    Args:
        stop: What it has been told before.
        is_orphan: Whether its supervisor is gone.
    """
    if is_orphan and stop is not Stop.NO:
        return Stop.AT_ONCE
    return max(stop, Stop.GRACEFULLY)


class Tie:
    """One end of the pair; owns its socket."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    def say(self, word: bytes) -> None:
        """Say a word; nobody minds if the other side is gone."""
        with suppress(OSError):
            self._socket.send(word)

    async def hear(self) -> bytes:
        """Wait for a word and return it; empty once the other side is gone."""
        while True:
            try:
                return self._socket.recv(1)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError:
                return b""

    def close(self) -> None:
        """Let the other side know that this one is gone."""
        self._socket.close()
