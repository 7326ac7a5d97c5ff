"""Dramatiq. Its settings for throughput; where its documentation says so stands beside each.

Messages are persistent, publishes confirmed, and messages acknowledged once their actor is done. It
has no option for the type of its queues: they are durable classic ones, not replicated ones. The
variant has quorum queues, like everybody else here; that takes a subclass which replaces a private
method.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from . import client, order

ORDER = order.Order.read()
SENDERS = 10
"""Threads that enqueue at a time; the broker has a connection for each."""


class QuorumBroker(RabbitmqBroker):
    """Declare quorum queues."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, object]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


Broker = QuorumBroker if ORDER.variant else RabbitmqBroker
# https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker, confirm_delivery. Off
# is the default, which is faster and may lose what was enqueued; off here only to fill a queue that
# is not measured. The middleware is the default one.
broker = Broker(url=ORDER.url, confirm_delivery=ORDER.is_confirmed)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=ORDER.queue)
def noop(number: int, to: str, text: str) -> None:
    order.tick()


@dramatiq.actor(queue_name=ORDER.queue)
def nap(number: int, to: str, text: str) -> None:
    time.sleep(order.NAP)  # it is a thread
    order.tick()


@dramatiq.actor(queue_name=ORDER.queue)
def stamp(number: int, to: str, text: str) -> None:
    order.stamp(number)


ACTORS = {"noop": noop, "nap": nap, "stamp": stamp}


def send(kind: str, number: int) -> None:
    ACTORS[kind].send(number, order.TO, order.TEXT)


async def one(kind: str, number: int) -> None:
    send(kind, number)


async def many(kind: str, numbers: Sequence[int]) -> None:
    # A publish waits for its confirm, in a `group` too, so threads publish side by side.
    for _ in senders.map(lambda number: send(kind, number), numbers):
        pass


def worker() -> list[str]:
    """Make the command of the worker.

    https://dramatiq.io/guide.html#workers: processes, and threads in each. Its prefetch count is
    twice the threads (https://dramatiq.io/reference.html, "Environment Variables"); more was not
    faster in a short trial, nor was dramatiq-gevent (https://dramatiq.io/advanced.html).
    """
    processes, threads = str(ORDER.processes), str(ORDER.concurrency)
    module = "benchmarks.peers.with_dramatiq"
    return ["dramatiq", module, "--processes", processes, "--threads", threads]


if __name__ == "__main__":
    if ORDER.task == "worker":
        os.execv(sys.executable, [sys.executable, "-m", *worker()])
    with ThreadPoolExecutor(SENDERS) as senders:
        asyncio.run(client.run(ORDER, one, many, asyncio.sleep))
