"""Opening the embedded broker: on a file, or in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import trio

from .broker import EmbeddedBroker
from .database import open_file, open_memory
from .presence import FilePresence, RunPresence
from .runner import InlineRunner, ThreadRunner


@attrs.define(eq=False)
class Memory:
    """The database in memory of one `trio.run`, and who uses it."""

    runner: InlineRunner
    present: dict[str, Callable[[], None]] = attrs.Factory(dict)


_memory: trio.lowlevel.RunVar[Memory] = trio.lowlevel.RunVar("roger_trio_memory")


def find_memory() -> Memory | None:
    """Return what all brokers in memory of this `trio.run` share; None while there was none."""
    try:
        return _memory.get()
    except LookupError:
        return None


def memory_of_this_run() -> Memory:
    """Return what all brokers in memory of this `trio.run` share; make it if need be."""
    memory = find_memory()
    if memory is None:
        memory = Memory(InlineRunner(open_memory))
        _memory.set(memory)
    return memory


def open_memory_broker() -> EmbeddedBroker:
    """Make a broker in memory: without file or thread, on Trio's clock.

    All of one `trio.run` share their jobs, so that a client finds a node; the jobs end with it.
    """
    memory = memory_of_this_run()
    presence = RunPresence(memory.present)
    return EmbeddedBroker(memory.runner, presence, trio.current_time, "memory:")


def open_sqlite_broker(path: str) -> EmbeddedBroker:
    """Make a broker on a file, shared by any number of processes of one machine.

    Args:
        path: The file; made if it is not there.
    """
    runner = ThreadRunner(lambda: open_file(path))
    return EmbeddedBroker(runner, FilePresence(path), time.time, f"sqlite:{path}")
