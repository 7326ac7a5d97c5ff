"""FastStream with RabbitMQ. Its settings for throughput, and where its documentation says so.

The queue is a quorum queue, messages are persistent, publishes confirmed, which is its default, and
messages acknowledged once they are handled.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import uvloop
from fast_depends.msgspec import MsgSpecSerializer
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from . import client, order

ORDER = order.Order.read()
# DOCS: https://faststream.ag2.ai/latest

broker = RabbitBroker(
    ORDER.url,
    # DOCS/getting-started/logging, "Disable logging": no line for each message.
    logger=None,
    # DOCS/rabbit/prefetch: unacknowledged messages. Version 0.7 has no `max_workers` for RabbitMQ;
    # a handler starts for each message that is there, so this is the concurrency.
    default_channel=Channel(prefetch_count=ORDER.concurrency),
    # DOCS/getting-started/subscription/msgspec: the fast one.
    serializer=MsgSpecSerializer(),
)
# DOCS/rabbit/queue_arguments
queue = RabbitQueue(ORDER.queue, queue_type=QueueType.QUORUM)
app = FastStream(broker)


async def noop(number: int, to: str, text: str) -> None:
    order.tick()


async def nap(number: int, to: str, text: str) -> None:
    await asyncio.sleep(order.NAP)
    order.tick()


async def stamp(number: int, to: str, text: str) -> None:
    order.stamp(number)


HANDLERS = {"noop": noop, "nap": nap, "stamp": stamp}
if ORDER.task == "worker":  # a queue has one handler
    broker.subscriber(queue)(HANDLERS[ORDER.kind])


async def one(kind: str, number: int) -> None:
    job = {"number": number, "to": order.TO, "text": order.TEXT}
    await broker.publish(job, queue=queue, persist=True)  # DOCS/rabbit/publishing


async def many(kind: str, numbers: Sequence[int]) -> None:
    await asyncio.gather(*(one(kind, number) for number in numbers))


async def main() -> None:
    async with broker:
        await broker.declare_queue(queue)
        await client.run(ORDER, one, many, asyncio.sleep)


def worker() -> list[str]:
    """Make the command of the worker; it takes uvloop, which is installed.

    DOCS/getting-started/cli, "Multiprocessing scaling".
    """
    command = ["faststream", "run", "benchmarks.peers.with_faststream:app"]
    if ORDER.processes > 1:
        command += ["--workers", str(ORDER.processes)]
    return [*command, "--log-level", "warning"]


if __name__ == "__main__":
    if ORDER.task == "worker":
        os.execv(sys.executable, [sys.executable, "-m", *worker()])
    uvloop.run(main())
