"""Processes of their own that tests start, stop and kill.

They are forked from a server that has imported everything, so that hundreds cost seconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.context import ForkServerProcess
from typing import Any

import trio

from roger_trio._brokers.base import Broker, Delivery, Message, PublishRefused, QueueSpec
from roger_trio._brokers.embedded.open import open_sqlite_broker
from tests.conformance.kit import Inbox, settles_at

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.embedded.children"])


class Child:
    """A process that writes lines, of which each arrives whole or not at all."""

    def __init__(self, process: ForkServerProcess, reading: int) -> None:
        self.process = process
        self._reading = reading
        self._rest = b""

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    def read(self, size: int) -> bytes:
        """Block until it has written so many bytes; return all it has written, b'' at its end."""
        data = b""
        while len(data) < size:
            chunk = os.read(self._reading, 65536)
            if not chunk:
                break
            data += chunk
        return data

    def read_line(self) -> str:
        """Block until it has written another line; return it, '' at its end."""
        while b"\n" not in self._rest:
            chunk = os.read(self._reading, 65536)
            if not chunk:
                return ""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> bytes:
        """Kill it, with signal 9; return what it wrote and nobody has read."""
        self.process.kill()
        self.process.join()
        return self._rest + self.read(1 << 30)

    def close(self) -> None:
        """End all."""
        self.process.kill()
        self.process.join()
        self.process.close()
        os.close(self._reading)


@contextmanager
def child(main: Callable[..., Any], *args: object) -> Iterator[Child]:
    """Run ``main(report, *args)``, an async function of this package, in a process."""
    reading, writing = multiprocessing.Pipe(duplex=False)
    process = context.Process(target=_run, args=(writing, main, args), daemon=True)
    process.start()
    writing.close()
    started = Child(process, os.dup(reading.fileno()))
    reading.close()
    try:
        yield started
    finally:
        started.close()


def _run(writing: Any, main: Callable[..., Any], args: tuple[object, ...]) -> None:
    def report(line: str) -> None:
        os.write(writing.fileno(), f"{line}\n".encode())

    trio.run(main, report, *args)


@asynccontextmanager
async def running(path: str, *queues: str) -> AsyncGenerator[Broker]:
    """Run a broker on a file."""
    broker: Broker = open_sqlite_broker(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        await broker.declare([QueueSpec(name=each, takes_delayed=True) for each in queues])
        yield broker
        nursery.cancel_scope.cancel()


Report = Callable[[str], None]


async def consume_and_keep(report: Report, path: str, queue: str, count: int) -> None:
    """Borrow messages and settle none; report each."""
    async with running(path, queue) as broker, broker.open_channel() as channel:
        await channel.subscribe(
            queue, prefetch=count, on_delivery=lambda each: report(each.body.decode())
        )
        report("ready")
        await trio.sleep_forever()


async def idle(report: Report, path: str, queues: int) -> None:
    """Consume queues in which nothing happens."""
    names = [f"q{each}" for each in range(queues)]
    async with running(path, *names) as broker, broker.open_channel() as channel:
        for name in names:
            await channel.subscribe(name, prefetch=10, on_delivery=lambda _: None)
        report("ready")
        await trio.sleep_forever()


async def echo(report: Report, path: str, queue: str) -> None:
    """Acknowledge messages as they come, and report when that was."""

    def answer(delivery: Delivery) -> None:
        report(f"{time.monotonic()!r}")
        delivery.ack()

    async with running(path, queue) as broker, broker.open_channel() as channel:
        await channel.subscribe(queue, prefetch=10, on_delivery=answer)
        report("ready")
        await trio.sleep_forever()


async def be_single(report: Report, path: str, queue: str) -> None:
    """Be a consumer of a queue that has one at a time."""
    async with running(path) as broker:
        await broker.declare([QueueSpec(name=queue, single_active=True)])

        def answer(delivery: Delivery) -> None:
            report(delivery.body.decode())
            delivery.ack()

        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=answer)
            report("ready")
            await trio.sleep_forever()


async def hold_single(report: Report, path: str, queue: str) -> None:
    """Consume a queue that has one consumer at a time; report each message and settle none."""
    async with running(path) as broker, broker.open_channel() as channel:
        await broker.declare([QueueSpec(name=queue, single_active=True)])
        await channel.subscribe(
            queue, prefetch=65_535, on_delivery=lambda each: report(each.body.decode())
        )
        report("ready")
        await trio.sleep_forever()


async def hear(report: Report, path: str, topic: str) -> None:
    """Report what is broadcast."""
    async with running(path) as broker, broker.listen(topic) as heard:
        report("ready")
        async for body in heard:
            report(body.decode())


async def work_hard(report: Report, path: str, seed: int) -> None:
    """Publish, delay, consume, settle, look and purge at once, and report each thing done.

    A line is written before what it allows is begun, and after what it promises is confirmed::

        published BODY...   confirmed: these must be found, unless taken
        taken BODY          about to be settled: may be gone from now on
        acked BODY...       confirmed: these must not come back
    """
    dice = random.Random(seed)
    async with running(path, "q", "r") as broker, trio.open_nursery() as nursery:
        for each in range(3):
            nursery.start_soon(_publish, report, broker, dice, f"{seed}.{each}")
        nursery.start_soon(_consume, report, broker, dice)
        nursery.start_soon(_look, broker, dice)
        nursery.start_soon(_purge, broker)


async def _publish(report: Report, broker: Broker, dice: random.Random, name: str) -> None:
    number = 0
    while True:
        bodies = [f"{name}.{number + each}" for each in range(dice.randint(1, 4))]
        number += len(bodies)
        delay = dice.choice((0.0, 0.0, 0.001, 0.05))
        await broker.publish_many("q", [Message(each.encode()) for each in bodies], delay=delay)
        report(f"published {' '.join(bodies)}")


async def _consume(report: Report, broker: Broker, dice: random.Random) -> None:
    while True:
        send, receive = trio.open_memory_channel[Delivery](10)
        acked: list[str] = []
        async with broker.open_channel() as channel:
            await channel.subscribe("q", prefetch=10, on_delivery=send.send_nowait)
            for _ in range(dice.randint(1, 40)):
                delivery = await receive.receive()
                report(f"taken {delivery.body.decode()}")
                if dice.random() < 0.7:
                    delivery.ack()
                    acked.append(delivery.body.decode())
                else:
                    delivery.give_back()
                if dice.random() < 0.2:
                    await channel.flush()
                    report(f"acked {' '.join(acked)}")
                    acked.clear()


async def _look(broker: Broker, dice: random.Random) -> None:
    while True:
        async with broker.browse("q", dice.randint(1, 5)):
            await broker.count("q")


async def _purge(broker: Broker) -> None:
    while True:
        await broker.publish("r", Message(b"to be purged"))
        await broker.purge("r")


async def publish_and_die(_report: Report, path: str) -> None:
    """Commit a message, and die before anybody is told."""
    broker = open_sqlite_broker(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        wake = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
        broker._pump.stir_queues = lambda queues: wake() if queues else None  # type: ignore[method-assign]
        await broker.publish("q", Message(b"orphan"))


async def fill(report: Report, path: str) -> None:
    """Publish until no more fits, settle one, and publish again once there is room."""
    inbox = Inbox()
    async with running(path, "q") as broker, broker.open_channel() as channel:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        number = 0
        try:
            while True:
                await broker.publish("q", Message(b"x" * 20_000))
                number += 1
                report(f"confirmed {number}")
        except PublishRefused as exc:
            report(f"refused: {exc}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await channel.subscribe("q", prefetch=1, on_delivery=inbox.put)
        [first, *_] = await inbox.wait(1)
        first.ack()
        await channel.unsubscribe()
        await channel.flush()
        report("acked")
        await broker.publish("q", Message(b"again"))
        report("confirmed again")


async def settle_without_room(report: Report, path: str) -> None:
    """Settle while nothing can be written, and go on when it can."""
    inbox = Inbox()
    async with running(path, "q") as broker, broker.open_channel() as channel:
        await channel.subscribe("q", prefetch=3, on_delivery=inbox.put)
        await inbox.wait(3)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        for each in inbox.deliveries:
            each.ack()
        await settles_at(True, lambda: bool(broker.trouble))
        report(broker.trouble)
        try:
            await broker.publish("q", Message(b"x"))
        except PublishRefused:
            report("refused")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await channel.flush()
        report(f"settled, trouble: {broker.trouble!r}")
