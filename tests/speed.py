"""What the hot paths cost in CPU time, told in units of plain Python and Trio work.

The unit is measured in the same moments as the hot paths, so that a figure says the same on a slow
machine as on a fast one, and on a busy one as on an idle one::

    python -m tests.speed                   # all; with ROGER_TEST_AMQP, also those on RabbitMQ
    python -m tests.speed memory-perform    # some
    python -m cProfile -s tottime -m tests.speed memory-perform
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

import roger_trio as roger
from roger_trio._jobs import wire
from roger_trio._messages import make_envelope

ROUNDS: Final = 7
CONCURRENCY: Final = 20
PATIENCE: Final = 80.0
"""Seconds for all rounds, which take three, or on a busy machine ten."""
_UNITS: Final = 800
"""Units measured at a time."""

Measure = Callable[[int], Awaitable[float]]
"""Does something for so many jobs; returns the CPU time it took, in seconds."""


@attrs.frozen
class HotPath:
    """Something that is done for each job.

    Args:
        name: What it is called.
        bound: Units that it may cost for one job: about half as much again as it does, so that
            noise is let pass and twice the work is not.
        count: Jobs measured at a time: some 30 ms.
    """

    name: str
    bound: float
    count: int


MEMORY: Final = (
    HotPath("wire-codec", bound=0.7, count=1500),
    HotPath("memory-enqueue", bound=3.2, count=300),
    HotPath("memory-enqueue-many", bound=0.72, count=1000),
    HotPath("memory-perform", bound=2.7, count=600),
    HotPath("memory-both-keys", bound=13.5, count=100),
)
RABBITMQ: Final = (
    HotPath("rabbitmq-enqueue-many", bound=0.88, count=1000),
    HotPath("rabbitmq-perform", bound=3.9, count=600),
)
"""Not one by one: there most of the time goes to waking up for each answer, and varies."""


# The unit...


@attrs.frozen
class _Thing:
    number: int
    text: str
    more: dict[str, object]


async def measure_units(count: int) -> float:
    """Make objects, write and read them as JSON, and hand them from task to task.

    Nothing in it is ours: what it costs does not change with roger_trio.
    """
    send, receive = trio.open_memory_channel[bytes](1)
    seen: dict[str, _Thing] = {}

    async def read_all() -> None:
        async for body in receive:
            thing = _Thing(**json.loads(body))
            seen[thing.text] = thing

    began = time.process_time()
    async with trio.open_nursery() as nursery, send:
        nursery.start_soon(read_all)
        for number in range(count):
            thing = _Thing(number, f"number {number % 100}", {"to": "ada@example.com"})
            with trio.CancelScope():
                await send.send(json.dumps(attrs.asdict(thing)).encode())
    return time.process_time() - began


# The hot paths...

_TEXT: Final = "Dear Ada, your engine is ready."


class _Stream:
    """The CPU time between two jobs in the middle of a stream of them."""

    def __init__(self, first: int, last: int, total: int) -> None:
        self._first, self._last, self._total = first, last, total
        self._done = 0
        self._began = 0.0
        self.took = 0.0
        self.all_done = trio.Event()

    def tick(self) -> None:
        """Count a job."""
        self._done += 1
        if self._done == self._first:
            self._began = time.process_time()
        if self._done == self._last:
            self.took = time.process_time() - self._began
        if self._done == self._total:
            self.all_done.set()


class _Now:
    """What performed jobs tick."""

    stream = _Stream(0, 0, 0)


@roger.job(name="speed:kept", queue="kept")
async def kept(number: int, to: str, text: str) -> None:
    """Wait in a queue that nobody consumes."""


@roger.job(name="speed:noop")
async def noop(number: int, to: str, text: str) -> None:
    """Do nothing."""
    _Now.stream.tick()


class Keyed(roger.Job, name="speed:keyed"):
    """Do nothing, with both keys."""

    key: str

    async def perform(self) -> None:
        """Do nothing."""
        _Now.stream.tick()

    def queue_key(self) -> str:
        """Return the first key."""
        return self.key

    def execution_key(self) -> str:
        """Return the second key."""
        return self.key


async def measure_codec(count: int) -> float:
    """Encode and decode jobs, arguments included."""
    job = noop.job(1, "ada@example.com", _TEXT)
    await trio.lowlevel.checkpoint()
    began = time.process_time()
    for _ in range(count):
        body = wire.dump(make_envelope(job, "speed", None, None))
        wire.load(body, partition="speed", queue="default").load()
    return time.process_time() - began


class OnBroker:
    """The hot paths of a node that runs a partition, and consumes no queue ``kept`` in it."""

    def __init__(self, node: roger.Node, partition: str) -> None:
        self._node = node
        self._partition = partition

    async def enqueue(self, count: int) -> float:
        """Enqueue jobs one by one."""
        jobs = [kept.job(number, "ada@example.com", _TEXT) for number in range(count)]
        began = time.process_time()
        for job in jobs:
            await self._node.enqueue(job, self._partition)
        return time.process_time() - began

    async def enqueue_many(self, count: int) -> float:
        """Enqueue jobs together."""
        jobs = [kept.job(number, "ada@example.com", _TEXT) for number in range(count)]
        began = time.process_time()
        await self._node.enqueue_many(jobs, self._partition)
        return time.process_time() - began

    async def perform(self, count: int) -> float:
        """Perform jobs from a queue that is never empty meanwhile."""
        margin = 2 * CONCURRENCY
        total = margin + count + margin
        jobs = [noop.job(number, "ada@example.com", _TEXT) for number in range(total)]
        await self._node.reconfigure(self._partition, {})
        await self._node.enqueue_many(jobs, self._partition)
        _Now.stream = _Stream(margin, margin + count, total)
        await self._node.reconfigure(self._partition, {"default": CONCURRENCY})
        await _Now.stream.all_done.wait()
        return _Now.stream.took

    async def both_keys(self, count: int) -> float:
        """Enqueue jobs with both keys, and perform them."""
        jobs = [Keyed(f"key {number}") for number in range(count)]
        _Now.stream = _Stream(0, count, count)
        began = time.process_time()
        await self._node.enqueue_many(jobs, self._partition)
        await _Now.stream.all_done.wait()
        return time.process_time() - began


@asynccontextmanager
async def on_memory() -> AsyncGenerator[Mapping[str, Measure]]:
    """Measure what needs no RabbitMQ."""
    async with _running(roger.Config(broker="memory:"), "speed") as paths:
        yield {
            "wire-codec": measure_codec,
            "memory-enqueue": paths.enqueue,
            "memory-enqueue-many": paths.enqueue_many,
            "memory-perform": paths.perform,
            "memory-both-keys": paths.both_keys,
        }


@asynccontextmanager
async def on_rabbitmq(
    url: str, prefix: str, partition: str
) -> AsyncGenerator[Mapping[str, Measure]]:
    """Measure what goes through a RabbitMQ; its own CPU time does not count."""
    broker = attrs.evolve(roger.AmqpConfig.from_url(url), queue_settle_time=0)
    with tempfile.TemporaryDirectory() as state:
        persister = roger.FilePersister(state)
        config = roger.Config(broker=broker, prefix=prefix, persister=persister)
        async with _running(config, partition) as paths:
            yield {
                "rabbitmq-enqueue-many": paths.enqueue_many,
                "rabbitmq-perform": paths.perform,
            }


@asynccontextmanager
async def _running(config: roger.Config, partition: str) -> AsyncGenerator[OnBroker]:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        await node.start_partition(partition, {"default": CONCURRENCY})
        yield OnBroker(node, partition)
        nursery.cancel_scope.cancel()


# Measuring...


async def measure(paths: Sequence[HotPath], measures: Mapping[str, Measure]) -> dict[str, float]:
    """Return what each path costs for one job, in units: the best round of both.

    In each round the unit is measured before each path, so that neither has the better moments.
    """
    bests = {each.name: float("inf") for each in paths}
    unit = float("inf")
    with trio.fail_after(PATIENCE), _without_collections():
        for path in paths:  # So that all is imported, declared and specialised.
            await measures[path.name](path.count // 4)
        for _ in range(ROUNDS):
            for path in paths:
                unit = min(unit, await measure_units(_UNITS) / _UNITS)
                took = await measures[path.name](path.count) / path.count
                bests[path.name] = min(bests[path.name], took)
                gc.collect(1)
    return {name: best / unit for name, best in bests.items()}


@contextmanager
def _without_collections() -> Generator[None]:
    """Keep out what depends on all else that is in the process: what collecting garbage costs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def too_slow(paths: Sequence[HotPath], costs: Mapping[str, float]) -> list[str]:
    """Say of each path that costs more than it may what was measured, and how to look closer."""
    return [
        f"{each.name}: one job costs {costs[each.name]:.2f} units of CPU time, at most "
        f"{each.bound:g} are allowed (a unit is plain Python and Trio work, measured beside it; "
        f"the best of {ROUNDS} rounds each); to look closer: {_closer(each)}"
        for each in paths
        if costs[each.name] > each.bound
    ]


def _closer(path: HotPath) -> str:
    if path in MEMORY:
        return f"python -m cProfile -s tottime -m tests.speed {path.name}"
    return "nox -s bench -- enqueue enqueue-many perform-100"


async def _main(names: Sequence[str]) -> None:
    url = os.environ.get("ROGER_TEST_AMQP")
    chosen = [each for each in (*MEMORY, *RABBITMQ) if not names or each.name in names]
    async with AsyncExitStack() as stack:
        measures = dict(await stack.enter_async_context(on_memory()))
        if url is not None:
            rabbitmq = on_rabbitmq(url, "speed-", f"p{os.getpid()}")
            measures |= await stack.enter_async_context(rabbitmq)
        chosen = [each for each in chosen if each.name in measures]
        costs = await measure(chosen, measures)
    for each in chosen:
        print(f"{each.name:20} {costs[each.name]:6.2f} units, at most {each.bound:g}")


if __name__ == "__main__":
    trio.run(_main, sys.argv[1:])
