"""The jobs of the campaign. Each writes down when it starts and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Generator
from typing import Any

import trio

import roger_trio as roger

from .journal import Journal
from .load import LEVELS, Order

_journal: list[Journal] = []
_runs = itertools.count()


def write_to(journal: Journal) -> None:
    """Say where the jobs of this process write."""
    _journal[:] = [journal]


class PlannedFailure(Exception):
    """Raised by an attempt that is to fail."""


@contextlib.contextmanager
def _written_down(seconds: float) -> Generator[roger.Envelope]:
    """Write down the start and the end of an attempt."""
    envelope, run, [journal] = roger.current_job(), next(_runs), _journal
    journal.note(
        "start", envelope.id, run=run, attempt=envelope.retry_count, partition=envelope.partition,
        queue=envelope.queue, deaths=envelope.deaths, redelivered=envelope.redelivered,
        seconds=seconds,
    )  # fmt: skip
    how = "cancelled"
    try:
        yield envelope
        how = "done"
    except PlannedFailure:
        how = "failed"
        raise
    finally:
        journal.note("end", envelope.id, run=run, how=how)


class Work(roger.Job, name="chaos:work", retryable=True, retry_levels=LEVELS):
    """Works for a while, with the keys it is given; the first attempts may be to fail."""

    seconds: float = 0.0
    fails: int = 0
    unique: str | None = None
    serial: str | None = None

    def queue_key(self) -> str | None:
        return self.unique

    def execution_key(self) -> str | None:
        return self.serial

    async def perform(self) -> None:
        with _written_down(self.seconds) as envelope:
            await trio.sleep(self.seconds)
            if envelope.retry_count < self.fails:
                raise PlannedFailure(f"attempt {envelope.retry_count} of {self.fails}")


class WorkOnce(roger.Job, name="chaos:once"):
    """Works for a while, and is not retried."""

    seconds: float = 0.0
    fails: int = 0

    async def perform(self) -> None:
        with _written_down(self.seconds):
            await trio.sleep(self.seconds)
            if self.fails:
                raise PlannedFailure("the only attempt")


@roger.job(name="chaos:thread", retryable=True, retry_levels=LEVELS)
def work_in_thread(seconds: float) -> None:
    """Work for a while in a thread, which nothing can stop."""
    with _written_down(seconds):
        threading.Event().wait(seconds)


def make_job(order: Order) -> roger.Job:
    """Make the job of an order."""
    if order.in_thread:
        return work_in_thread.job(order.seconds)
    if not order.is_retryable:
        return WorkOnce(seconds=order.seconds, fails=order.fails)
    return Work(seconds=order.seconds, fails=order.fails, unique=order.unique, serial=order.serial)


class Telling(roger.Callbacks):
    """Writes down what is called for a job."""

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        _journal[0].note("after_run", job.id)

    async def on_error(self, partition: str, job: roger.Envelope, error: Any, state: Any) -> None:
        _journal[0].note("on_error", job.id, error=repr(error), attempt=job.retry_count)

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None:
        _journal[0].note("on_cancel", job.id)

    async def on_buried(self, partition: str, job: roger.Envelope, error: Any, state: Any) -> None:
        _journal[0].note("on_buried", job.id, error=repr(error))
