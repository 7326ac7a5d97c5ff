"""One process, as its supervisor has it: started, told to stop, killed, waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import trio

from .tie import READY, Stop, Tie

PROCESS_VARIABLE: Final = "ROGER_PROCESS"
"""The environment variable by which a process learns its number and the descriptor of its tie; it
is not for users."""


class Process(Protocol):
    """What a supervisor needs of a process."""

    @property
    def pid(self) -> int: ...
    def tell(self, stop: Stop) -> None: ...
    def kill(self) -> None: ...
    async def wait_ready(self) -> bool: ...
    async def wait(self) -> int: ...
    def close(self) -> None: ...


Launch = Callable[[int], Awaitable[Process]]
"""Starts the process of a number. Raises `OSError` if it cannot."""


def own_command() -> list[str]:
    """Return the command line that started this very process, with Python's own options."""
    return [sys.executable, *sys.orig_argv[1:]]


def launching(command: Sequence[str]) -> Launch:
    """Return what starts a command as one of the processes.

    Args:
        command: What to run; it has to call `take_place` of the module ``child``.
    """

    async def launch(number: int) -> Process:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                place = f"{number}:{theirs.fileno()}"
                process = await trio.lowlevel.open_process(
                    command,
                    stdin=subprocess.DEVNULL,  # A terminal's input has one reader, or none.
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, PROCESS_VARIABLE: place},
                )
        except BaseException:
            ours.close()
            raise
        return _Process(process, Tie(ours))

    return launch


class _Process:
    """A real one."""

    def __init__(self, process: trio.Process, tie: Tie) -> None:
        self._process = process
        self._tie = tie

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, stop: Stop) -> None:
        """Tell it to stop: in words, and by a signal for one that does not listen to words yet."""
        self._tie.say(stop.word)
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._process.kill()

    async def wait_ready(self) -> bool:
        """Wait until it says that it is ready; return False once it cannot say so any more."""
        while (word := await self._tie.hear()) != READY:
            if not word:
                return False
        return True

    async def wait(self) -> int:
        """Wait for its end and return its status; negative for a signal."""
        return await self._process.wait()

    def close(self) -> None:
        """Let go of its tie; if it still runs, it stops gracefully."""
        self._tie.close()
