"""Celery. Its settings for throughput; where its documentation says so stands beside each.

The queue is a quorum queue, messages are persistent, publishes confirmed, tasks acknowledged late.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from celery import Celery

from . import client, order

ORDER = order.Order.read()
SENDERS = 10
"""Threads that enqueue at a time, each with a connection of the pool."""
# DOCS: https://docs.celeryq.dev/en/stable

app = Celery("benchmark", broker=ORDER.url)
app.conf.update(
    task_default_queue=ORDER.queue,
    # DOCS/getting-started/backends-and-brokers/rabbitmq.html, "Using Quorum Queues"
    task_default_queue_type="quorum",
    # Queues for delays, which Celery adds to quorum queues; nothing goes through them here.
    broker_native_delayed_delivery_queue_type="classic",
    # DOCS/projects/kombu: kombu.transport.pyamqp, "Publisher confirms". Off is the default, which
    # is faster and may lose what was enqueued; off here only to fill a queue that is not measured.
    broker_transport_options={"confirm_publish": ORDER.is_confirmed},
    # DOCS/userguide/optimizing.html, "Broker Connection Pools": as many as threads use them.
    # (What it says first, librabbitmq, is not to be had for Python 3.11.)
    broker_pool_limit=SENDERS,
    # DOCS/userguide/tasks.html, "Tips and Best Practices": "Ignore results you don't want".
    task_ignore_result=True,
    # DOCS/userguide/configuration.html, task_acks_late: once it ran, as everybody does here.
    task_acks_late=True,
    # DOCS/userguide/optimizing.html, "Prefetch Limits": for many short tasks "values like 50 or
    # 150", "say 64, or 128". It is multiplied by the number of threads; with 100 of them one worker
    # took all that there was from the other, and the default was as fast in a short trial.
    worker_prefetch_multiplier=64 if ORDER.concurrency <= 10 else 4,
)


@app.task(name="noop")
def noop(number: int, to: str, text: str) -> None:
    order.tick()


@app.task(name="nap")
def nap(number: int, to: str, text: str) -> None:
    time.sleep(order.NAP)  # it is a thread
    order.tick()


@app.task(name="stamp")
def stamp(number: int, to: str, text: str) -> None:
    order.stamp(number)


TASKS = {"noop": noop, "nap": nap, "stamp": stamp}


def send(kind: str, number: int) -> None:
    TASKS[kind].delay(number, order.TO, order.TEXT)


async def one(kind: str, number: int) -> None:
    send(kind, number)


async def many(kind: str, numbers: Sequence[int]) -> None:
    # A publish waits for its confirm, in a `group` too, so threads publish side by side.
    for _ in senders.map(lambda number: send(kind, number), numbers):
        pass


def worker() -> list[str]:
    """Make the command of a worker; two of them are two processes.

    DOCS/userguide/concurrency: `threads` for tasks that wait, `solo` for one at a time. In short
    trials `prefork`, the default, performed less with more processor time, and `gevent` next to
    nothing with acknowledgements that are late.
    """
    pool = "solo" if ORDER.concurrency == 1 else "threads"
    return [
        "celery", "--app", "benchmarks.peers.with_celery", "worker",
        "--hostname", f"{os.getpid()}@%h", "--loglevel", "WARNING",
        "--pool", pool, "--concurrency", str(ORDER.concurrency),
    ]  # fmt: skip


if __name__ == "__main__":
    if ORDER.task == "worker":
        os.execv(sys.executable, [sys.executable, "-m", *worker()])
    with ThreadPoolExecutor(SENDERS) as senders:
        asyncio.run(client.run(ORDER, one, many, asyncio.sleep))
