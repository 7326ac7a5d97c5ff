"""Opening the embedded broker: on a file, or in memory."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable

import trio

from .broker import EmbeddedBroker
from .clock import SharedClock
from .database import open_file, open_memory
from .looking import MemoryEngine
from .presence import FilePresence, RunPresence
from .runner import InlineRunner, ThreadRunner


class Memory:
    """The database in memory of one `trio.run`, and who uses it."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection = open_memory()
        # Not by a ``__del__`` of ours: in a cycle the connection's own may come first, and warn.
        weakref.finalize(self, self._connection.close)
        self.engine: MemoryEngine = MemoryEngine(self._connection)
        self.present: dict[str, Callable[[], None]] = {}
        self.changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        """Whoever waits here wakes after each transaction."""

    def _tell(self) -> None:
        self.changed.unpark_all()

    def open_broker(self, prefix: str = "") -> EmbeddedBroker:
        """Make a broker on it."""
        # By a method of ours, so that the database is there for as long as the broker is.
        runner = InlineRunner(self.engine, self._tell)
        return EmbeddedBroker(
            runner, RunPresence(self.present), trio.current_time, "memory:", prefix
        )


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
        memory = Memory()
        _memory.set(memory)
    return memory


def open_memory_broker(prefix: str = "") -> EmbeddedBroker:
    """Make a broker in memory: without file or thread, on Trio's clock.

    All of one `trio.run` share their jobs, so that a client finds a node; the jobs end with it.

    Args:
        prefix: The cluster's prefix.
    """
    return memory_of_this_run().open_broker(prefix)


def open_sqlite_broker(path: str, prefix: str = "") -> EmbeddedBroker:
    """Make a broker on a file, shared by any number of processes of one machine.

    It is durable: what was confirmed is in the file, synced, and survives ``kill -9`` and power
    loss. The file and those beside it can be read by their owner alone (mode 0600).

    Args:
        path: The file; made if it is not there. Its folder must be there, and writable.
        prefix: The cluster's prefix.
    """
    where = f"sqlite:{path}"
    clock = SharedClock()
    runner = ThreadRunner(lambda: open_file(path, clock), where)
    return EmbeddedBroker(runner, FilePresence(path), clock.now, where, prefix)
