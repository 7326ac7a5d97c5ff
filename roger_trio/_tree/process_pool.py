"""The worker processes of a node: started when jobs need them, ended with the node."""

from __future__ import annotations

import atexit
import importlib
import logging
import math
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import outcome
import trio

from .._errors import ConfigError, JobCrashed, RogerError
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.registry import module_name, registry

logger = logging.getLogger(__name__)

_GRACE: Final = 1.0
"""Seconds that idle worker processes get to end before they are killed."""


class CannotStart(RogerError):
    """A job cannot be started in a process, here and now; it has not begun."""


class ProcessPool:
    """Runs jobs with ``process=True``, of all queues of a node, each alone in a worker process.

    The processes are started as they are needed, used again, and end when they were idle for ten
    minutes, with the pool, or with this process, however that ends.

    Args:
        limit: How many jobs run at once; None: as many as there are CPUs for this process.
        set_up: Called in each new worker process, before its first job; to be pickled.
    """

    def __init__(self, limit: int | None, set_up: Callable[[], None] | None = None) -> None:
        self._limiter = trio.CapacityLimiter(usable_cpus() if limit is None else limit)
        # trio-parallel wants one, too, which counts after ours.
        self._no_limit = trio.CapacityLimiter(math.inf)
        self._set_up = set_up
        self._stack = AsyncExitStack()
        self._workers: Any = None

    async def perform(self, job: Job, envelope: Envelope, on_start: Callable[[], None]) -> Any:
        """Perform a job in a worker process, once one is free.

        Args:
            job: The job.
            envelope: The same as the process gets it.
            on_start: Called when it begins: when the process is free, and has been started.

        Returns:
            What ``perform`` returned.

        Raises:
            BaseException: What ``perform`` raised, with its traceback.
            JobCrashed: The process ended before the job did.
            CannotStart: There is no process to run it in.
            RogerError: What it returned or raised cannot be pickled.

        Cancellation: the process is killed.
        """
        module = _importable(type(job).__module__)
        async with self._limiter:
            in_process = await self._open(envelope)
            if not self._workers.statistics().idle_workers:
                await self._call(in_process.prepare, module)
            on_start()
            reply: bytes = await self._call(in_process.perform_here, module, envelope)
        return _read(envelope, reply).unwrap()

    async def _open(self, envelope: Envelope) -> Any:
        """Have trio-parallel ready, which few programs need; return what the processes run."""
        try:
            trio_parallel, in_process = _import_late(envelope.name)
        except ConfigError as exc:
            raise CannotStart(str(exc)) from exc
        if self._workers is None:
            context = trio_parallel.open_worker_context(
                init=partial(in_process.begin, self._set_up), grace_period=_GRACE
            )
            self._workers = await self._stack.enter_async_context(context)
            atexit.register(_kill_what_is_left)
        return in_process

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a worker process, which is killed on cancellation."""
        try:
            return await self._workers.run_sync(
                function, *args, kill_on_cancel=True, limiter=self._no_limit
            )
        except OSError as exc:
            raise CannotStart(f"no worker process can be started: {exc}") from exc
        except RuntimeError as exc:
            if type(exc).__name__ != "BrokenWorkerProcessError":
                raise
            raise JobCrashed(exc.args[-1].exitcode) from None

    async def aclose(self) -> None:
        """End the worker processes, within a second. All jobs must have ended, or been cancelled.

        Cancellation: it waits all the same.
        """
        try:
            await self._stack.aclose()
        except RuntimeError as exc:  # One that was killed from outside while it was idle, mostly.
            logger.debug("not all worker processes ended by themselves: %s", exc)


def usable_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover -- not on Linux


def check_node(jobs: Iterable[type[Job]] = registry) -> None:
    """See that a node may start in this process, and has what its jobs need.

    Raises:
        ConfigError: A job has ``process=True``, and trio-parallel is not installed; or this is a
            worker process, which just imports the program of its node.
    """
    # The flag by which multiprocessing finds out the same of a program that starts processes.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "this program starts a node when it is imported, and worker processes import it: "
            "start it under `if __name__ == '__main__':`"
        )
    name = next((each.options.name for each in jobs if each.options.process), None)
    if name is not None:
        _import_late(name)


def _import_late(job: str) -> tuple[Any, Any]:
    """Import trio-parallel, and what needs the same extra, late: few programs do."""
    try:
        trio_parallel = importlib.import_module("trio_parallel")
        in_process = importlib.import_module("roger_trio._jobs.in_process")
    except ImportError as exc:
        raise ConfigError(
            f"job {job}: process: expected what worker processes need, got {exc}; "
            "pip install roger_trio[process]"
        ) from exc
    return trio_parallel, in_process


def _importable(module: str) -> str:
    """Name a module as a worker process can import it.

    It has the program as ``__main__``, too, but not one that ``python -m package`` started.
    """
    name = module_name(module)
    return name if name.endswith(".__main__") else module


def _read(envelope: Envelope, reply: bytes) -> outcome.Outcome[Any]:
    try:
        ended: outcome.Outcome[Any] = pickle.loads(reply)  # noqa: S301 -- from our own process
    except Exception as exc:
        text = f"job {envelope.name}: what its worker process gave back cannot be unpickled: {exc}"
        raise RogerError(text) from exc
    return ended


def _kill_what_is_left() -> None:
    """Kill the worker processes of a program that ends without having closed its pool.

    multiprocessing would send SIGTERM, which they leave to their node, and wait for them.
    """
    for each in multiprocessing.active_children():
        if each.name.startswith("trio-parallel"):
            each.kill()
