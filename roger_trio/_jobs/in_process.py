"""What a worker process does: performs the jobs that its node hands over, and dies with the node.

The job crosses as its envelope, arguments in their JSON form, and is made anew here; what becomes
of it goes back by pickle. Nothing here knows Trio's loop: a worker process has none.
"""

from __future__ import annotations

import contextvars
import fcntl
import importlib
import multiprocessing
import os
import pickle
import select
import signal
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import outcome
from tblib import pickling_support

from .._errors import RogerError, UnknownJob
from .context import current_envelope
from .envelope import Envelope
from .job import Job
from .registry import registry

_HAS_SIGNAL: Final = hasattr(fcntl, "F_SETSIG")  # on Linux


def begin(set_up: Callable[[], None] | None) -> None:
    """Prepare a worker process, before its first job.

    Args:
        set_up: What the node's program wants done in each, such as setting up the log.
    """
    # Service managers send it to all processes of a service: the node stops, and sees to the jobs.
    # Not SIG_IGN, which programs started from here would inherit.
    signal.signal(signal.SIGTERM, _leave_it_to_the_node)
    parent = multiprocessing.parent_process()
    if parent is not None:
        (_die_by_signal if _HAS_SIGNAL else _die_by_thread)(int(parent.sentinel))
    if set_up is not None:
        set_up()


def _leave_it_to_the_node(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _die_by_signal(pipe: int) -> None:
    """Be killed by the kernel when a pipe's other end closes, whatever this process is doing then.

    A thread would have to wait for code that keeps Python's lock, as `re` and `sum` do.
    """
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it closed before
        os.kill(os.getpid(), signal.SIGKILL)


def _die_by_thread(pipe: int) -> None:
    """Be killed when a pipe's other end closes, as soon as Python runs."""

    def wait() -> None:
        select.select([pipe], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="roger-node-watch", daemon=True).start()


def prepare(module: str) -> None:
    """Import a module ahead, where no job's time is counted; a failure shows again with the job."""
    outcome.capture(importlib.import_module, module)


def perform_here(module: str, envelope: Envelope) -> bytes:
    """Perform a job in this process.

    Args:
        module: Where the job is defined, as the node knows it; never from the wire.
        envelope: The job.

    Returns:
        What became of it, an `outcome.Outcome`, pickled.
    """
    # In a context of its own: what a job sets there does not reach the next one.
    return contextvars.copy_context().run(_perform, module, envelope)


def _perform(module: str, envelope: Envelope) -> bytes:
    current_envelope.set(envelope)
    ended: outcome.Outcome[Any] = outcome.capture(_call, module, envelope)
    if isinstance(ended, outcome.Error):
        return _dump_error(envelope.name, ended.error)
    try:
        return pickle.dumps(ended, pickle.HIGHEST_PROTOCOL)
    except Exception as exc:  # noqa: BLE001 -- a value's own code may raise anything
        text = f"job {envelope.name}: expected a result that can be pickled, got {exc}"
        return _dump_error(envelope.name, RogerError(text))


def _call(module: str, envelope: Envelope) -> Any:
    return _find(module, envelope).perform()


def _find(module: str, envelope: Envelope) -> Job:
    importlib.import_module(module)
    try:
        registry.get(envelope.name)
    except UnknownJob:
        raise RogerError(
            f"job {envelope.name}: expected a job that importing {module!r} defines, got none in a "
            "worker process; define it at the top level of a module, outside of "
            "`if __name__ == '__main__'`"
        ) from None
    return envelope.load()


def _dump_error(name: str, error: BaseException) -> bytes:
    """Pickle an exception with its traceback; one that cannot be pickled is told in words."""
    if _interrupts(error):
        return _tell_error(name, error, "it would interrupt the node")
    try:
        pickling_support.install(error)
        form = pickle.dumps(outcome.Error(error), pickle.HIGHEST_PROTOCOL)
        pickle.loads(form)  # noqa: S301 -- our own; many a class is pickled and cannot be loaded
    except Exception as trouble:  # noqa: BLE001 -- an exception's own code may raise anything
        return _tell_error(name, error, trouble)
    return form


def _tell_error(name: str, error: BaseException, trouble: object) -> bytes:
    told = RogerError(
        f"job {name}: raised {type(error).__qualname__}, which cannot leave its worker process "
        f"({trouble})"
    )
    told.add_note("".join(traceback.format_exception(error)).rstrip())
    return pickle.dumps(outcome.Error(told), pickle.HIGHEST_PROTOCOL)


def _interrupts(error: BaseException) -> bool:
    """Tell whether the node would take an exception for Ctrl-C."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)
