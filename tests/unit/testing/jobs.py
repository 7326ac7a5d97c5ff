"""Jobs for the tests of the test kit; they note in `log` what they do."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import trio

import roger_trio as roger

log: list[str] = []
"""What the jobs did; emptied before each test."""

colour: ContextVar[str] = ContextVar("colour", default="none")


@roger.job(name="kit:note")
async def note(text: str, number: int = 0) -> str:
    """Note a text."""
    log.append(text)
    return f"noted {text}"


@roger.job(name="kit:sleep")
async def sleep(seconds: float) -> None:
    """Sleep, and note how that ended."""
    log.append("starts")
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        log.append("cancelled")
        raise
    log.append("ends")


@roger.job(retryable=True, name="kit:fail")
async def fail() -> None:
    """Fail, and be retried."""
    log.append("fails")
    raise ValueError("no luck")


@roger.job(name="kit:fail_once")
async def fail_once() -> None:
    """Fail for good."""
    raise ValueError("no luck")


@roger.job(name="kit:chain")
async def chain(links: int, delay: float = 0.0) -> None:
    """Enqueue the next link."""
    log.append(f"link {links}")
    if links > 1:
        await chain.job(links - 1, delay).enqueue(roger.current_job().partition, delay=delay)


@roger.job(name="kit:in_thread")
def in_thread(text: str) -> str:
    """Note a text, in a thread."""
    log.append(text)
    return threading.current_thread().name


@roger.job(max_execution_time=5, name="kit:slow")
async def slow() -> None:
    """Take longer than allowed."""
    await trio.sleep_forever()


@roger.job(name="kit:raise_signal")
async def raise_signal(signal: str) -> None:
    """Change the context, then end as told."""
    colour.set("red")
    raise {
        "retry": roger.Retry(7),
        "snooze": roger.Snooze(9),
        "bury": roger.Bury("rotten"),
        "discard": roger.Discard("stale"),
    }[signal]


class Animal(roger.Job, queue="zoo", name="kit:Animal"):
    name: str

    async def perform(self) -> str:
        log.append(f"feeds {self.name}")
        return self.name


class Bird(Animal, name="kit:Bird", aliases=["kit:Fowl"]):
    wingspan: float = 0.5


class Unique(roger.Job, name="kit:Unique"):
    """A job with the keys it is given."""

    text: str
    key: str | None = None
    execution: str | None = None
    seconds: float = 0.0

    def queue_key(self) -> str | None:
        return self.key

    def execution_key(self) -> str | None:
        return self.execution

    async def perform(self) -> None:
        log.append(f"starts {self.text}")
        await trio.sleep(self.seconds)
        log.append(f"ends {self.text}")
