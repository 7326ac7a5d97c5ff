"""Taskiq with taskiq-aio-pika. Its settings for throughput, and where its documentation says so.

The queue is a quorum queue, its default; messages are persistent and publishes confirmed, which it
always does; tasks are acknowledged once they ran.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import uvloop
from taskiq.serializers import ORJSONSerializer
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from . import client, order

ORDER = order.Order.read()

broker = AioPikaBroker(
    ORDER.url,
    # https://pypi.org/project/taskiq-aio-pika, `qos`: messages that a worker prefetches; fewer than
    # it may run would leave it idle. Twice as many were not faster in a short trial.
    qos=ORDER.concurrency,
    # https://pypi.org/project/taskiq-aio-pika, "Custom Queue and Exchange arguments"
    exchange=Exchange(name=ORDER.queue),
    task_queues=[Queue(name=ORDER.queue, type=QueueType.QUORUM)],
    dead_letter_queue=Queue(name=f"{ORDER.queue}.dead", type=QueueType.QUORUM),
    # https://taskiq-python.github.io/guide/message-format.html, on serializers
).with_serializer(ORJSONSerializer())


@broker.task(task_name="noop")
async def noop(number: int, to: str, text: str) -> None:
    order.tick()


@broker.task(task_name="nap")
async def nap(number: int, to: str, text: str) -> None:
    await asyncio.sleep(order.NAP)
    order.tick()


@broker.task(task_name="stamp")
async def stamp(number: int, to: str, text: str) -> None:
    order.stamp(number)


TASKS = {"noop": noop, "nap": nap, "stamp": stamp}


async def one(kind: str, number: int) -> None:
    await TASKS[kind].kiq(number, order.TO, order.TEXT)


async def many(kind: str, numbers: Sequence[int]) -> None:
    await asyncio.gather(*(one(kind, number) for number in numbers))


async def main() -> None:
    await broker.startup()
    await client.run(ORDER, one, many, asyncio.sleep)
    await broker.shutdown()


def worker() -> list[str]:
    """Make the command of the worker; it takes uvloop, which is installed.

    https://taskiq-python.github.io/guide/cli.html, "Other parameters" and "Acknowledgements".
    """
    return [
        "taskiq", "worker", "benchmarks.peers.with_taskiq:broker",
        "--workers", str(ORDER.processes), "--max-async-tasks", str(ORDER.concurrency),
        "--ack-type", "when_executed", "--log-level", "WARNING",
    ]  # fmt: skip


if __name__ == "__main__":
    if ORDER.task == "worker":
        os.execv(sys.executable, [sys.executable, "-m", *worker()])
    uvloop.run(main())
