"""The supervisor: keeps a number of processes running until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from .._info import Health
from .process import Launch, Process
from .restarts import Restarts, has_stopped_well, manner
from .tie import Stop

logger = logging.getLogger(__name__)

NAME: Final = "supervisor"
"""What it is called among the nodes that ``roger health`` lists."""
_CLEAN_UP: Final = 18.0
"""Seconds that a process may take beyond ``shutdown_timeout``: the 16 that a node needs at most,
and a moment to end; with a moment of our own it is within the 20 that are promised."""
_HURRY: Final = 10.0
"""Seconds that it may take once it has been told to stop at once: a node needs 3."""


@attrs.define(eq=False)
class Child:
    """What the supervisor knows of one process; each restart is another process."""

    number: int
    process: Process | None = None
    was_ready: bool = False
    """Whether the process that runs, or ran last, has been ready."""
    trouble: str = "is not started yet"
    """What keeps it from being ready; empty if nothing does."""


class Supervisor:
    """Runs processes; those that die are started again.

    Args:
        count: How many.
        launch: Starts one.
        shutdown_timeout: Seconds that their jobs get when they are stopped.
    """

    def __init__(self, count: int, launch: Launch, *, shutdown_timeout: float) -> None:
        self._children = [Child(number) for number in range(1, count + 1)]
        self._launch = launch
        self._patience = shutdown_timeout + _CLEAN_UP
        self._restarts = Restarts()
        self._stop = Stop.NO
        self._stopping = trio.Event()
        self._hurrying = trio.Event()
        self._is_failed = False

    async def run(self) -> int:
        """Run until told to stop, and all processes have.

        Returns:
            The exit status: 0 if all stopped as they were told; 1 if one did not, or if none could
            start.

        Cancellation: the processes stop gracefully by themselves, and are not waited for.
        """
        async with trio.open_nursery() as nursery:
            for child in self._children:
                nursery.start_soon(self._keep, child, name=f"process {child.number}")
        return 1 if self._is_failed else 0

    def stop(self, stop: Stop) -> None:
        """Stop all processes; what they are told can only become more urgent."""
        if stop <= self._stop:
            return
        self._stop = stop
        self._stopping.set()
        if stop is Stop.AT_ONCE:
            self._hurrying.set()
        for child in self._children:
            if child.process is not None:
                child.process.tell(stop)

    def health(self) -> Health:
        """Tell whether all processes are there and have been ready; the rest they tell."""
        return judge(self._children, is_stopping=self._stop is not Stop.NO)

    # One process...

    async def _keep(self, child: Child) -> None:
        """Keep a process running."""
        while self._stop is Stop.NO:
            how = await self._run_once(child)
            if self._stop is Stop.NO:
                await self._wait_to_restart(child, how)

    async def _run_once(self, child: Child) -> str:
        """Start a process and wait for its end; return how it ended."""
        child.was_ready, child.trouble = False, "is being started"
        began = trio.current_time()
        try:
            process = await self._launch(child.number)
        except OSError as exc:
            logger.error("process %d cannot be started: %s", child.number, exc.strerror or exc)
            return "cannot be started"
        logger.info("process %d is started, pid %d", child.number, process.pid)
        child.process, child.trouble = process, "is starting"
        try:
            status = await self._see_through(child, process)
        finally:
            child.process = None
            process.close()
        self._tell_end(child, process.pid, status, trio.current_time() - began)
        return manner(status)

    async def _see_through(self, child: Child, process: Process) -> int:
        """Stay with a process until its end; return its status."""
        if self._stop is not Stop.NO:  # It came while the process was being started.
            process.tell(self._stop)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._greet, child, process)
            nursery.start_soon(self._see_to_its_end, child, process)
            status = await process.wait()
            nursery.cancel_scope.cancel()
        return status

    async def _greet(self, child: Child, process: Process) -> None:
        """Take note that a process is ready."""
        if not await process.wait_ready():
            return
        child.was_ready, child.trouble = True, ""
        self._restarts.note_ready(child.number)
        if self.health().ready:
            logger.info("all processes are ready: %d", len(self._children))

    async def _see_to_its_end(self, child: Child, process: Process) -> None:
        """Once a process is to stop, kill it if it takes too long."""
        await self._stopping.wait()
        with trio.move_on_after(self._patience):
            await self._hurrying.wait()
            await trio.sleep(_HURRY)
        logger.error(
            "process %d (pid %d) does not stop, so it is killed; its jobs start again elsewhere",
            child.number,
            process.pid,
        )
        self._is_failed = True
        process.kill()

    def _tell_end(self, child: Child, pid: int, status: int, seconds: float) -> None:
        end = (child.number, pid, manner(status), seconds)
        if self._stop is Stop.NO:
            logger.error("process %d (pid %d) %s after %.1f s, unasked", *end)
        elif has_stopped_well(status, was_ready=child.was_ready):
            logger.info("process %d (pid %d) has stopped", child.number, pid)
        else:
            self._is_failed = True
            logger.error("process %d (pid %d) was told to stop, and %s after %.1f s", *end)

    async def _wait_to_restart(self, child: Child, how: str) -> None:
        """Wait until it is time to start a process again, or give up."""
        number = child.number
        delay = self._restarts.note_death(number, trio.current_time(), was_ready=child.was_ready)
        failed = self._restarts.failed_starts(number)
        if delay is None:
            self._is_failed = True
            logger.critical(
                "giving up: process %d ended %d times before it was ready, and none ever was; "
                "see above for the reason",
                number,
                failed,
            )
            self.stop(Stop.GRACEFULLY)
            return
        child.trouble = f"{how}; it starts again within {delay:g} s"
        again = f", after {failed} starts in a row that failed" if failed > 1 else ""
        logger.warning("process %d starts again in %g s%s", number, delay, again)
        with trio.move_on_after(delay):
            await self._stopping.wait()


def judge(children: Iterable[Child], *, is_stopping: bool) -> Health:
    """Decide how the processes are as a whole: ready if each of them is there and has been ready.

    Alive it is in any case: what died is started again, which is no reason to end the others.
    """
    troubles = [f"process {each.number} {each.trouble}" for each in children if each.trouble]
    reasons = ("it is stopping",) if is_stopping else tuple(troubles)
    return Health(node=NAME, live=True, ready=not reasons, reasons=reasons)
