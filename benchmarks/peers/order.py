"""What a program of a peer is asked to do, and how its jobs tell that they ran.

Only the standard library is imported: every peer has an environment of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

VARIABLE: Final = "ROGER_BENCHMARK_ORDER"
"""The environment variable that hands an order over: a worker passes it on to its processes, and
nobody else can read it, as everybody could a command line."""
NAP: Final = 0.01
"""Seconds that the job which sleeps does so."""
TO: Final = "ada@example.com"
TEXT: Final = "Dear Ada, your engine is ready."
PATIENCE: Final = 30.0
"""Seconds that the first job of a process waits for those of the other processes."""
_NUMBER: Final = struct.Struct("=Q")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """One order to a program of a peer."""

    task: str
    """``worker``, ``enqueue``, ``enqueue_many`` or ``stamps``."""
    url: str
    queue: str
    """The queue of this run; other queues and exchanges that a peer needs begin with it too."""
    folder: str
    """Where jobs tell that they ran, and where a peer may keep what it needs."""
    kind: str = "noop"
    """``noop``, ``nap``, ``stamp`` or ``keyed``."""
    concurrency: int = 10
    """Jobs that run at a time in one process."""
    processes: int = 1
    warm_up: int = 0
    """Operations of a client before it measures."""
    count: int = 0
    """Operations that a client measures at most."""
    seconds: float = 0.0
    """Time that a client measures at most."""
    variant: str = ""
    """Which of the ways that a peer can be set up, if there are several."""
    is_confirmed: bool = True
    """Whether each publish waits for its confirm; not where a queue is filled unmeasured."""

    @classmethod
    def read(cls) -> Order:
        """Read the order that this process was started with."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """Make the environment of a process that shall carry it out."""
        return {**os.environ, VARIABLE: json.dumps(dataclasses.asdict(self))}


# Jobs tell that they ran...


class _Count:
    """Jobs performed by this process, in a file that others may look at without disturbing it."""

    def __init__(self, folder: Path) -> None:
        with (folder / f"performed-{os.getpid()}").open("w+b") as file:
            file.truncate(_NUMBER.size)
            self._memory = mmap.mmap(file.fileno(), _NUMBER.size)
        self._numbers = itertools.count(1)

    def __call__(self) -> None:
        _NUMBER.pack_into(self._memory, 0, next(self._numbers))


def _first_tick() -> None:
    global tick  # noqa: PLW0603  # what comes after it has no condition to check
    with _lock:
        if tick is _first_tick:
            order = Order.read()
            count = _Count(Path(order.folder))
            _wait_for_the_others(order)
            tick = count  # Not sooner: until now the other threads wait for the lock.
    tick()


def _wait_for_the_others(order: Order) -> None:
    """Hold the first job of a process back until each has one.

    Else the process that starts first may perform all there is, and who measures them together
    waits for the others in vain.
    """
    end = time.monotonic() + PATIENCE
    while len(performed(Path(order.folder))) < order.processes and time.monotonic() < end:
        time.sleep(0.001)


def _after_fork() -> None:
    global tick, _lock
    tick, _lock = _first_tick, threading.Lock()


_lock = threading.Lock()
tick: Callable[[], None] = _first_tick
"""Count a job that this process performed. Call it as ``order.tick()``: it is replaced."""
os.register_at_fork(after_in_child=_after_fork)


def stamp(sent: int) -> None:
    """Write down how long ago a job was sent, a time of `time.monotonic_ns`."""
    elapsed = time.monotonic_ns() - sent
    with (Path(Order.read().folder) / "latencies").open("a") as file:
        file.write(f"{elapsed}\n")


def performed(folder: Path) -> list[int]:
    """Tell how many jobs each process has performed so far."""
    files = sorted(folder.glob("performed-*"))
    contents = [each.read_bytes() for each in files]
    return [_NUMBER.unpack(each)[0] for each in contents if len(each) == _NUMBER.size]


def stamps(folder: Path) -> list[int]:
    """Read what `stamp` has written: nanoseconds."""
    file = folder / "latencies"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []
