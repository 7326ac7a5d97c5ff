"""The measured programs, written with Huey on SQLite, as its documentation says."""

from __future__ import annotations

import threading
from collections.abc import Callable

from huey import SqliteHuey  # type: ignore[import-untyped]

from .work import Meter, Metrics, Work, report

TEXT = "Dear Ada, your engine is ready."
WORKERS = 20
"""Threads of the consumer: with 10 or 100 it is a little slower, with 1 much slower."""


class App:
    """Huey on the file of an order, with one task that does nothing."""

    def __init__(self, work: Work, *, fsync: bool = True) -> None:
        path = work.url.removeprefix("sqlite:")
        # fsync: PRAGMA synchronous = FULL on a write-ahead log, what roger_trio has too.
        self.huey = SqliteHuey(work.partition, filename=path, fsync=fsync, results=False)
        self.on_noop: Callable[[], object] = bool
        self.noop = self.huey.task()(self._noop)

    def _noop(self, number: int, to: str, text: str) -> None:
        self.on_noop()

    def enqueue(self, count: int) -> None:
        """Enqueue one by one; Huey has no call for many."""
        for number in range(count):
            self.noop(number, "ada@example.com", TEXT)


def fill(work: Work) -> Metrics:
    """Fill the queue; nobody measures that, so it need not be durable."""
    App(work, fsync=False).enqueue(work.count)
    return {}


def enqueue(work: Work) -> Metrics:
    """Enqueue; each is in the file before the next."""
    meter = Meter(work)
    app = App(work)
    app.enqueue(work.warm_up)
    meter.start()
    app.enqueue(work.count)
    meter.stop()
    return meter.metrics()


def perform(work: Work) -> Metrics:
    """Perform tasks that do nothing, from a queue that is never empty."""
    meter = Meter(work)
    app = App(work)
    done = threading.Event()
    lock = threading.Lock()

    def on_noop() -> bool:
        with lock:
            is_last = meter.tick()
        if is_last:
            done.set()
        return is_last

    app.on_noop = on_noop
    consumer = app.huey.create_consumer(workers=WORKERS, worker_type="thread", periodic=False)
    consumer.start()
    done.wait()
    consumer.stop(graceful=True)
    return meter.metrics()


TASKS = {"fill": fill, "enqueue": enqueue, "enqueue_many": enqueue, "perform": perform}

if __name__ == "__main__":
    order = Work.read()
    report(TASKS[order.task](order))
