"""The measured programs, written with roger_trio. One order in, one line of figures out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import attrs
import trio

import roger_trio as roger

from .jobs import TEXT, block, hooks, make_noop, stamp
from .work import Growth, Meter, Metrics, Work, latencies, report, resident_mib, say_ready

GAP = 0.02
"""Seconds an idle node stays idle before the next job."""
FILL_BATCH = 5000


def config(work: Work) -> roger.Config:
    """Configure a client or node; a new queue of RabbitMQ need not be crash-safe here."""
    broker: roger.AmqpConfig | str = work.url
    if work.url.startswith("amqp"):
        broker = attrs.evolve(roger.AmqpConfig.from_url(work.url), queue_settle_time=0)
    # An embedded broker keeps the state itself, beside its jobs.
    state = roger.FilePersister(work.state or None)
    return roger.Config(broker=broker, prefix=work.prefix, persister=state, shutdown_timeout=0.0)


@asynccontextmanager
async def node(work: Work) -> AsyncGenerator[roger.Node]:
    """Run a node without partitions."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(roger.serve, config(work))
        nursery.cancel_scope.cancel()


def queues(work: Work) -> dict[str, int]:
    """Queue to max workers."""
    return {"default": work.concurrency}


# Enqueueing...


async def prepare(work: Work) -> Metrics:
    """Make the queues for delays, which a node would otherwise make while it is measured."""
    async with roger.connect(config(work)) as client:
        await client.enqueue(make_noop(0), work.partition, delay=0.1)
    return {}


async def fill(work: Work) -> Metrics:
    """Fill the queue, for both sides."""
    numbers = range(work.count)
    jobs = [
        block.job(number, "ada@example.com", TEXT) if number < work.blocked else make_noop(number)
        for number in numbers
    ]
    async with roger.connect(config(work)) as client:
        for start in range(0, work.count, FILL_BATCH):
            await client.enqueue_many(jobs[start : start + FILL_BATCH], work.partition)
    return {}


async def enqueue(work: Work) -> Metrics:
    """Enqueue one by one, each confirmed before the next."""
    meter = Meter(work)
    async with roger.connect(config(work)) as client:
        for number in range(work.warm_up):
            await client.enqueue(make_noop(number), work.partition)
        meter.start()
        for number in range(work.count):
            await client.enqueue(make_noop(number), work.partition)
        meter.stop()
    return meter.metrics()


async def enqueue_many(work: Work) -> Metrics:
    """Enqueue pipelined; all are confirmed at the end."""
    meter = Meter(work)
    async with roger.connect(config(work)) as client:
        await client.enqueue_many(make_noops(work.warm_up), work.partition)
        meter.start()
        await client.enqueue_many(make_noops(work.count), work.partition)
        meter.stop()
    return meter.metrics()


def make_noops(count: int) -> Iterator[roger.Job]:
    """Make jobs as they are asked for."""
    return (make_noop(number) for number in range(count))


# Performing...


async def perform(work: Work) -> Metrics:
    """Perform jobs that do nothing, from a queue that is never empty."""
    meter = Meter(work)
    await _pass(work, meter.tick)
    return meter.metrics()


async def perform_and_look(work: Work) -> Metrics:
    """Perform as before; then look at the memory of the node."""
    metrics = await perform(work)
    return {**metrics, "resident_mib": resident_mib()}


async def memory_passing(work: Work) -> Metrics:
    """Watch the memory of a node while jobs pass."""
    growth = Growth(work)
    await _pass(work, growth.tick)
    return growth.metrics()


async def _pass(work: Work, tick: Callable[[], bool]) -> None:
    done = trio.Event()

    def on_noop() -> None:
        if tick():
            done.set()

    hooks.on_noop = on_noop
    async with node(work) as running:
        await running.enqueue_many(make_noops(work.own_jobs), work.partition)
        await running.start_partition(work.partition, queues(work))
        await done.wait()


# Latency...


async def latency(work: Work) -> Metrics:
    """Enqueue in the idle node itself."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        return await _collect(work, lambda: _send_stamps(running, work))


async def latency_node(work: Work) -> Metrics:
    """Run the idle node; `latency_client` enqueues."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        return await _collect(work, _say_ready)


async def latency_client(work: Work) -> Metrics:
    """Enqueue from another process."""
    async with roger.connect(config(work)) as client:
        await _send_stamps(client, work)
    return {}


async def _say_ready() -> None:
    say_ready()


async def _send_stamps(client: roger.Client, work: Work) -> None:
    for _ in range(work.warm_up + work.count):
        await trio.sleep(GAP)
        called = time.monotonic_ns()
        await client.enqueue(stamp.job(called, "ada@example.com", TEXT), work.partition)


async def _collect(work: Work, send: Callable[[], Awaitable[None]]) -> Metrics:
    seen: list[int] = []
    done = trio.Event()

    def on_stamp(called: int) -> None:
        seen.append(time.monotonic_ns() - called)
        if len(seen) == work.warm_up + work.count:
            done.set()

    hooks.on_stamp = on_stamp
    await send()
    await done.wait()
    return latencies(seen[work.warm_up :])


# Memory...


async def memory_idle(work: Work) -> Metrics:
    """Look at a node with a partition and nothing to do."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        await trio.sleep(1)
        return {"resident_mib": resident_mib()}


async def memory_waiting(work: Work) -> Metrics:
    """Look at a node whose workers are all busy while a long queue waits."""
    started = 0
    all_busy = trio.Event()

    def on_noop() -> None:
        nonlocal started
        started += 1
        if started == work.concurrency:
            all_busy.set()

    hooks.on_noop = on_noop
    async with node(work) as running:
        await trio.sleep(1)
        before = resident_mib()
        await running.start_partition(work.partition, queues(work))
        await all_busy.wait()
        await trio.sleep(1)
        after = resident_mib()
        return {"resident_mib": after, "growth_mib": after - before}


TASKS = {
    each.__name__: each
    for each in (
        prepare, fill, enqueue, enqueue_many, perform, perform_and_look, latency, latency_node,
        latency_client, memory_idle, memory_waiting, memory_passing,
    )
}  # fmt: skip

if __name__ == "__main__":
    order = Work.read()
    report(trio.run(TASKS[order.task], order))
