"""The same programs, written with plain aiormq on asyncio, as its documentation does.

Where aiormq offers two ways, the faster one is taken. The queues are of the same kind, the
messages have the same size and properties, and both sides use the same JSON library.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import orjson
from aiormq.abc import DeliveredMessage

from .work import Growth, Meter, Metrics, Work, latencies, report, resident_mib, say_ready

GAP = 0.02
WINDOW = 1000
"""Publishes on their way at a time; with fewer or more it is slower."""
TEXT = "Dear Ada, your engine is ready."

Handler = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def channel(work: Work) -> AsyncGenerator[aiormq.Channel]:
    """Open a channel with publisher confirms, and declare the queues."""
    async with aiormq.connect(work.url) as connection:
        opened = await connection.channel(publisher_confirms=True)
        for name, arguments in work.queues:
            await opened.queue_declare(name, durable=True, arguments=arguments)
        assert isinstance(opened, aiormq.Channel)
        yield opened


# Publishing...


async def publish(opened: aiormq.Channel, queue: str, number: int) -> None:
    """Publish one job; return once it is confirmed, which `wait` is not about."""
    id = f"{number:032x}"
    job = {
        "roger": 1,
        "id": id,
        "name": "benchmarks:noop",
        "args": {"number": number, "to": "ada@example.com", "text": TEXT},
        "queued_at": "2024-12-31T23:59:59.123456+00:00",
    }
    await opened.basic_publish(
        orjson.dumps(job),
        routing_key=queue,
        mandatory=True,
        wait=False,
        properties=aiormq.spec.Basic.Properties(
            content_type="application/json", delivery_mode=2, message_id=id
        ),
    )


async def publish_many(opened: aiormq.Channel, queue: str, count: int) -> None:
    """Publish a window at a time."""
    for start in range(0, count, WINDOW):
        window = range(start, min(start + WINDOW, count))
        await asyncio.gather(*(publish(opened, queue, number) for number in window))


async def enqueue(work: Work) -> Metrics:
    """Publish one by one, each confirmed before the next."""
    meter = Meter(work)
    async with channel(work) as opened:
        for number in range(work.warm_up):
            await publish(opened, work.queue, number)
        meter.start()
        for number in range(work.count):
            await publish(opened, work.queue, number)
        meter.stop()
    return meter.metrics()


async def enqueue_many(work: Work) -> Metrics:
    """Publish pipelined; all are confirmed at the end."""
    meter = Meter(work)
    async with channel(work) as opened:
        await publish_many(opened, work.queue, work.warm_up)
        meter.start()
        await publish_many(opened, work.queue, work.count)
        meter.stop()
    return meter.metrics()


# Consuming...


async def consume(opened: aiormq.Channel, work: Work, handler: Handler) -> None:
    """Consume: read the job, call an async function with it, acknowledge."""

    async def on_message(message: DeliveredMessage) -> None:
        job = orjson.loads(message.body)
        await handler(job["args"])
        tag = message.delivery_tag or 0
        await message.channel.basic_ack(tag, wait=False)  # `wait=True` costs more

    await opened.basic_qos(prefetch_count=work.concurrency)
    await opened.basic_consume(work.queue, on_message)


async def perform(work: Work) -> Metrics:
    """Perform jobs that do nothing, from a queue that is never empty."""
    meter = Meter(work)
    await _pass(work, meter.tick)
    return meter.metrics()


async def memory_passing(work: Work) -> Metrics:
    """Watch the memory of a consumer while jobs pass."""
    growth = Growth(work)
    await _pass(work, growth.tick)
    return growth.metrics()


async def _pass(work: Work, tick: Callable[[], bool]) -> None:
    done = asyncio.Event()

    async def noop(_args: Any) -> None:
        if tick():
            done.set()

    async with channel(work) as opened:
        await consume(opened, work, noop)
        await done.wait()


# Latency...


async def latency(work: Work) -> Metrics:
    """Publish in the idle consumer itself."""
    async with channel(work) as opened, channel(work) as publishing:
        return await _collect(opened, work, lambda: _send_stamps(publishing, work))


async def latency_node(work: Work) -> Metrics:
    """Run the idle consumer; `latency_client` publishes."""
    async with channel(work) as opened:
        return await _collect(opened, work, _say_ready)


async def latency_client(work: Work) -> Metrics:
    """Publish from another process."""
    async with channel(work) as opened:
        await _send_stamps(opened, work)
    return {}


async def _say_ready() -> None:
    say_ready()


async def _send_stamps(opened: aiormq.Channel, work: Work) -> None:
    for _ in range(work.warm_up + work.count):
        await asyncio.sleep(GAP)
        await publish(opened, work.queue, time.monotonic_ns())


async def _collect(
    opened: aiormq.Channel, work: Work, send: Callable[[], Awaitable[None]]
) -> Metrics:
    seen: list[int] = []
    done = asyncio.Event()

    async def stamp(args: Any) -> None:
        seen.append(time.monotonic_ns() - args["number"])
        if len(seen) == work.warm_up + work.count:
            done.set()

    await consume(opened, work, stamp)
    await send()
    await done.wait()
    return latencies(seen[work.warm_up :])


# Memory...


async def memory_idle(work: Work) -> Metrics:
    """Look at a consumer with nothing to do; it has two connections, as a node has."""
    async with channel(work) as opened, channel(work):
        await consume(opened, work, _ignore)
        await asyncio.sleep(1)
        return {"resident_mib": resident_mib()}


async def _ignore(_args: Any) -> None:
    pass


async def memory_waiting(work: Work) -> Metrics:
    """Look at a consumer that is busy while a long queue waits."""
    started = 0
    all_busy = asyncio.Event()

    async def block(_args: Any) -> None:
        nonlocal started
        started += 1
        if started == work.concurrency:
            all_busy.set()
        await asyncio.Event().wait()

    async with channel(work) as opened, channel(work):
        await asyncio.sleep(1)
        before = resident_mib()
        await consume(opened, work, block)
        await all_busy.wait()
        await asyncio.sleep(1)
        after = resident_mib()
        return {"resident_mib": after, "growth_mib": after - before}


TASKS = {
    each.__name__: each
    for each in (
        enqueue, enqueue_many, perform, latency, latency_node, latency_client,
        memory_idle, memory_waiting, memory_passing,
    )
}  # fmt: skip

if __name__ == "__main__":
    order = Work.read()
    report(asyncio.run(TASKS[order.task](order)))
