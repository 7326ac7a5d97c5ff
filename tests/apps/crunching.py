"""Jobs for worker processes: what runs there is imported there, so it stands in a module.

``python -m tests.apps.crunching '{"broker": ..., "partitions": ...}'`` serves them.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import trio

import roger_trio as roger
from tests.apps.node import broker_of, tell

seen: ContextVar[str] = ContextVar("seen", default="nothing")
calls = 0


class Locked(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)
        self.lock = threading.Lock()


class Demanding(Exception):
    """An exception whose class asks for more than its text, as many do."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code


class Unwelcome(Exception):
    """An exception that is pickled, and cannot be loaded."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


class Shy:
    """A value that is pickled, and cannot be loaded."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


def begin(fifo: str) -> None:
    """Tell the test, which reads a named pipe, that this process has begun."""
    Path(fifo).write_text(str(os.getpid()))


@roger.job(name="crunching:add", process=True)
def add(a: int, b: int = 0) -> tuple[int, int]:
    """Add, and tell where."""
    return a + b, os.getpid()


class Count(roger.Job, name="crunching:count", process=True):
    """The same as a class."""

    numbers: list[int]

    def perform(self) -> int:
        return sum(self.numbers)


@roger.job(name="crunching:look_around", process=True)
def look_around() -> dict[str, Any]:
    """Tell what there is, and leave something behind."""
    global calls  # noqa: PLW0603 -- that is what is to be seen
    calls += 1
    job = roger.current_job()
    before = seen.get()
    seen.set("something")
    return {"id": job.id, "retry_count": job.retry_count, "seen": before, "calls": calls}


@roger.job(name="crunching:burn", process=True, retryable=True, retry_levels=(0.1,))
def burn(tag: str, hub: str = "", limit: float = 0) -> NoReturn:
    """Keep a CPU busy for ever; `tag` is the named pipe."""
    begin(tag)
    while True:
        pass


class BurnFor(roger.Job, name="crunching:burn_for", process=True, max_execution_time=0.3):
    """Keep a CPU busy for longer than it may."""

    tag: str
    hub: str = ""

    def perform(self) -> NoReturn:
        begin(self.tag)
        while True:
            pass


@roger.job(name="crunching:hold_the_lock", process=True)
def hold_the_lock(tag: str) -> int:
    """Keep Python's lock for longer than any test takes, and let no other thread run."""
    begin(tag)
    return sum(range(10**13))


@roger.job(name="crunching:wait", process=True, queue="other")
def wait(tag: str, gate: str, hub: str = "") -> str:
    """Run until the test opens a second named pipe."""
    begin(tag)
    return Path(gate).read_text()


@roger.job(name="crunching:crash", process=True, retryable=True, retry_levels=(0.05, 0.05))
def crash(how: str, hub: str = "", tag: str = "") -> None:
    """End the process."""
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case _:
            sys.exit(4)


@roger.job(name="crunching:fail", process=True)
def fail(kind: str) -> None:
    """Raise."""
    errors: dict[str, BaseException] = {
        "plain": ValueError("no", 5),
        "demanding": Demanding(7, where="home"),
        "locked": Locked(why="locked"),
        "unwelcome": Unwelcome("in"),
        "local": type("Local", (Exception,), {"__module__": __name__})("from nowhere"),
        "interrupt": KeyboardInterrupt("from the job"),
        "interrupts": BaseExceptionGroup("two", [ValueError("a"), KeyboardInterrupt("b")]),
        "exit": SystemExit(4),
        "retry": roger.Retry(5),
        "snooze": roger.Snooze(6),
        "bury": roger.Bury("enough"),
        "discard": roger.Discard("old"),
        "group": ExceptionGroup("two", [ValueError("a"), Demanding(8, where="b")]),
        "roger": roger.DuplicateJob("key", "j1"),
    }
    try:
        {}["first"]
    except KeyError as cause:
        raise errors[kind] from cause


@roger.job(name="crunching:give", process=True)
def give(kind: str) -> Any:
    """Return what is no good."""
    return {"lock": threading.Lock(), "shy": Shy()}[kind]


@roger.job(name="crunching:enqueue", process=True)
def enqueue() -> None:
    """Enqueue, which needs a client."""
    add.job(1).enqueue("myapp").send(None)


@roger.job(name="crunching:log", process=True)
def log() -> None:
    """Log."""
    logging.getLogger("crunching").info("in a worker process")


def main() -> None:
    """Serve until a signal."""
    options = json.loads(sys.argv[1])
    broker = broker_of(options.pop("broker"), 0)
    trio.run(roger.serve, roger.Config(broker=broker, **options))
    tell("end")


if __name__ == "__main__":
    main()
