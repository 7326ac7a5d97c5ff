"""Processes of a run: started anew when they have ended, ended by their numbers alone."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from .journal import Journal

ROOT: Final = Path(__file__).parents[2]
_STOPS_WITHIN: Final = 25.0
"""Seconds in which a program must have ended after SIGTERM: more than is documented."""


class Slot:
    """A place for one process at a time of one program.

    Each has a name of its own, such as ``node0.3``: the fourth one in the place ``node0``.

    Args:
        name: The name of the place.
        program: What it runs, a module.
        options: Makes what the program is told, anew each time.
        journal: Where it is written down what was done to it.
        folder: Where the logs go.
    """

    def __init__(
        self,
        name: str,
        program: str,
        options: Callable[[], dict[str, Any]],
        journal: Journal,
        folder: Path,
    ) -> None:
        self.name = name
        self.is_busy = False
        """Whether a fault has it in its hands, or is to start it again."""
        self.is_frozen = False
        self._program = program
        self._options = options
        self._journal = journal
        self._folder = folder
        self._count = 0
        self._process: trio.Process | None = None
        self._ended = trio.Event()
        self._is_to_end = False

    @property
    def who(self) -> str:
        """The name of the process that is, or was last, here."""
        return f"{self.name}.{self._count - 1}"

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it runs, frozen or not."""
        return self._process is not None and self._process.returncode is None

    async def start(self, nursery: trio.Nursery) -> None:
        """Start a process."""
        assert not self.is_running
        self._count += 1
        self._ended, self._is_to_end, self.is_frozen = trio.Event(), False, False
        options = {"who": self.who, **self._options()}
        command = [sys.executable, "-m", self._program, json.dumps(options)]
        with (self._folder / f"{self.who}.log").open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=str(ROOT),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._journal.note("spawn", target=self.who, pid=self.pid)
        nursery.start_soon(self._watch, self._process, self._ended, self.who)

    async def _watch(self, process: trio.Process, ended: trio.Event, who: str) -> None:
        with trio.CancelScope(shield=True):
            status = await process.wait()
        self._journal.note("gone", target=who, status=status, wanted=self._is_to_end)
        ended.set()

    async def wait_ended(self) -> None:
        """Wait until it is gone."""
        await self._ended.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, written down before it is sent."""
        if not self.is_running:
            return
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self._is_to_end = True
        self._journal.note("signal", target=self.who, signal=number.name)
        assert self._process is not None
        self._process.send_signal(number)
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            self.is_frozen = number == signal.SIGSTOP

    async def kill(self) -> None:
        """Kill it as a crash would (SIGKILL), and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            await self._ended.wait()

    async def stop(self) -> bool:
        """Stop it in good order (SIGTERM); one that dawdles is killed. Tell which it was."""
        self.send(signal.SIGTERM)
        with trio.move_on_after(_STOPS_WITHIN):
            await self._ended.wait()
            return True
        self._journal.note("dawdles", target=self.who)
        await self.kill()
        return False

    def limit_files(self, size: int | None) -> None:
        """Let none of its files grow beyond a size; None: let them grow again."""
        if self.is_running:
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            soft = hard if size is None else size
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))
