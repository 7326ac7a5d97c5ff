"""roger_trio, as its documentation sets it up: nothing but the concurrency is configured.

The queue is a quorum queue, messages are persistent, publishes confirmed, jobs acknowledged once
they ran; that is how it always is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

import roger_trio as roger

from . import client, order

ORDER = order.Order.read()
PARTITION = "run"
config = roger.Config(
    broker=ORDER.url,
    partitions={PARTITION: {"default": ORDER.concurrency}},
    prefix=f"{ORDER.queue}-",
    persister=roger.FilePersister(Path(ORDER.folder) / "state"),
)


@roger.job(name="noop")
async def noop(number: int, to: str, text: str) -> None:
    order.tick()


@roger.job(name="nap")
async def nap(number: int, to: str, text: str) -> None:
    await trio.sleep(order.NAP)
    order.tick()


@roger.job(name="stamp")
async def stamp(number: int, to: str, text: str) -> None:
    order.stamp(number)


class Keyed(roger.Job, name="keyed"):
    """Do nothing, holding a queue key and an execution key that nobody else wants."""

    number: int
    to: str
    text: str

    async def perform(self) -> None:
        order.tick()

    def queue_key(self) -> str:
        return f"queue-{self.number}"

    def execution_key(self) -> str:
        return f"execution-{self.number}"


MAKERS = {"noop": noop.job, "nap": nap.job, "stamp": stamp.job, "keyed": Keyed}


def make(kind: str, number: int) -> roger.Job:
    return MAKERS[kind](number, order.TO, order.TEXT)


async def main() -> None:
    async with roger.connect(config) as connected:

        async def one(kind: str, number: int) -> None:
            await connected.enqueue(make(kind, number), PARTITION)

        async def many(kind: str, numbers: Sequence[int]) -> None:
            await connected.enqueue_many((make(kind, each) for each in numbers), PARTITION)

        await client.run(ORDER, one, many, trio.sleep)


def worker() -> list[str]:
    """Make the command of a node, or of several under one supervisor: docs/operations.md."""
    command = ["roger_trio", "serve", "benchmarks.peers.with_roger:config"]
    if ORDER.processes > 1:
        command += ["--processes", str(ORDER.processes)]
    return [*command, "--log-level", "warning"]


if __name__ == "__main__":
    if ORDER.task == "worker":
        os.execv(sys.executable, [sys.executable, "-m", *worker()])
    trio.run(main)
