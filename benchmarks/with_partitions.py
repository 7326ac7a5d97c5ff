"""The measured programs of nodes with many partitions, written with roger_trio.

Jobs come from another process, while the node runs: what its start costs is told apart.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio

import roger_trio as roger

from .jobs import hooks, make_noop
from .with_roger import config, queues
from .work import Meter, Metrics, Work, report, resident_mib, say_ready

SENDERS = 20
"""Tasks that enqueue at a time."""
AT_ONCE = 10
"""Jobs of one ``enqueue_many``, whatever there is to spread them over."""
SETTLE = 2.0
"""Seconds in which a node gets quiet once it is ready."""


def names(work: Work) -> list[str]:
    """Name the partitions."""
    return [f"{work.partition}-{number}" for number in range(work.partitions)]


@asynccontextmanager
async def node(work: Work) -> AsyncGenerator[roger.Node]:
    """Run a node with all partitions."""
    configured = attrs.evolve(config(work), partitions={name: queues(work) for name in names(work)})
    async with trio.open_nursery() as nursery:
        yield await nursery.start(roger.serve, configured)
        nursery.cancel_scope.cancel()


async def first_start(work: Work) -> Metrics:
    """Start a node whose queues are not there yet."""
    began = time.perf_counter()
    async with node(work):
        return {"first_ms": (time.perf_counter() - began) * 1000}


async def spread(work: Work) -> Metrics:
    """Perform jobs that come while the node runs, spread over its partitions."""
    meter = Meter(work)
    done = trio.Event()

    def on_noop() -> None:
        if meter.tick():
            done.set()

    hooks.on_noop = on_noop
    began = time.perf_counter()
    async with node(work) as running:
        ready = time.perf_counter()
        await trio.sleep(SETTLE)
        resident = resident_mib()
        if work.url == "memory:":
            await _send(running, work)
        else:
            say_ready()
        await done.wait()
        stopping = time.perf_counter()
    return {
        **meter.metrics(),
        "ready_ms": (ready - began) * 1000,
        "stop_ms": (time.perf_counter() - stopping) * 1000,
        "resident_mib": resident,
    }


async def send(work: Work) -> Metrics:
    """Enqueue the jobs from another process."""
    async with roger.connect(config(work)) as client:
        await _send(client, work)
    return {}


async def _send(client: roger.Client, work: Work) -> None:
    partitions = names(work)
    numbers = iter(range((work.warm_up + work.count) // AT_ONCE))

    async def send_some() -> None:
        for number in numbers:
            jobs = [make_noop(each) for each in range(AT_ONCE)]
            await client.enqueue_many(jobs, partitions[number % len(partitions)])

    async with trio.open_nursery() as nursery:
        for _ in range(SENDERS):
            nursery.start_soon(send_some)


TASKS = {each.__name__: each for each in (first_start, spread, send)}

if __name__ == "__main__":
    order = Work.read()
    report(trio.run(TASKS[order.task], order))
