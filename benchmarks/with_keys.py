"""The measured programs of keys, cancellation and fail-over, written with roger_trio."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice, pairwise

import trio

import roger_trio as roger

from .jobs import TEXT, block, hooks, make_keyed, make_noop, stamp
from .with_roger import FILL_BATCH, GAP, config, node, queues
from .work import Meter, Metrics, Work, latencies, longest, report, resident_mib, say_ready

TASKS_ENQUEUEING = 100
PATIENCE = 60.0
"""Seconds for what would otherwise hang."""


class Failed(Exception):
    """What was to be measured did not happen."""


# Jobs with both keys, end to end...


async def both_keys_many(work: Work) -> Metrics:
    """Enqueue jobs with both keys by `enqueue_many`, and perform them, in one process."""

    async def send(running: roger.Node, jobs: list[roger.Job]) -> None:
        for each in await running.enqueue_many(jobs, work.partition):
            refuse_duplicate(each)

    return await _end_to_end(work, send)


async def both_keys_each(work: Work) -> Metrics:
    """Let 100 tasks enqueue jobs with both keys one by one, and perform them, in one process."""

    async def send(running: roger.Node, jobs: list[roger.Job]) -> None:
        source = iter(jobs)

        async def enqueue_some() -> None:
            for job in source:
                await running.enqueue(job, work.partition)

        async with trio.open_nursery() as nursery:
            for _ in range(TASKS_ENQUEUEING):
                nursery.start_soon(enqueue_some)

    return await _end_to_end(work, send)


async def _end_to_end(
    work: Work, send: Callable[[roger.Node, list[roger.Job]], Awaitable[None]]
) -> Metrics:
    meter = Meter(work)
    numbers = iter(range(work.warm_up + work.count))

    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))

        async def pass_jobs(count: int) -> None:
            jobs = [_make(work, number) for number in islice(numbers, count)]
            with trio.fail_after(PATIENCE):
                async with _performed(count):
                    await send(running, jobs)

        await pass_jobs(work.warm_up)
        meter.start()
        await pass_jobs(work.count)
        meter.stop()
    return meter.metrics()


def _make(work: Work, number: int) -> roger.Job:
    if work.has_keys:
        return make_keyed(number, queued=f"queued {number}", executed=f"executed {number}")
    return make_noop(number)


@asynccontextmanager
async def _performed(count: int) -> AsyncGenerator[None]:
    """Wait at the end until so many jobs have been performed since the beginning."""
    all_done = trio.Event()
    left = count

    def on_noop() -> None:
        nonlocal left
        left -= 1
        if not left:
            all_done.set()

    hooks.on_noop = on_noop
    yield
    await all_done.wait()


def refuse_duplicate(result: object) -> None:
    """All keys are distinct, so no job is a duplicate."""
    if isinstance(result, roger.DuplicateJob):
        raise Failed(str(result))


# Cancellation...


async def cancel_node(work: Work) -> Metrics:
    """Run jobs that never end; `cancel_client` cancels them, and then sends one that does end."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        told_to_end = trio.Event()
        hooks.on_stamp = lambda _: told_to_end.set()
        say_ready()
        await told_to_end.wait()
    return {}


async def cancel_client(work: Work) -> Metrics:
    """Cancel jobs on another node one by one, while as many run as it has workers."""
    total = work.warm_up + work.count
    # So many that all workers are busy at each cancellation, and one is free afterwards.
    jobs = [
        block.job(number, "ada@example.com", TEXT) for number in range(total + work.concurrency - 1)
    ]
    seen: list[int] = []
    async with roger.connect(config(work)) as client:
        sent = await client.enqueue_many(jobs, work.partition)
        await _wait_running(client, work)
        for each in sent[:total]:
            refuse_duplicate(each)
            assert isinstance(each, roger.Envelope)
            await trio.sleep(GAP)
            called = time.monotonic_ns()
            result = await client.cancel(each.id, work.partition)
            seen.append(time.monotonic_ns() - called)
            if result is not roger.CancelResult.STOPPED:
                raise Failed(f"job {each.id} was to be stopped; it is {result}")
        await client.enqueue(stamp.job(0, "ada@example.com", TEXT), work.partition)
    return latencies(seen[work.warm_up :])


async def _wait_running(client: roger.Client, work: Work) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            found = await client.running_jobs(work.partition)
            if sum(map(len, found.values())) == work.concurrency:
                return
            await trio.sleep(GAP)


# Held keys...


async def hold(work: Work) -> Metrics:
    """Leave behind a paused queue, and in it jobs that hold a queue key each."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        await running.pause(work.partition, "default")
        for start in range(0, work.count, FILL_BATCH):
            numbers = range(start, min(start + FILL_BATCH, work.count))
            jobs = [make_keyed(number, queued=f"held {number}") for number in numbers]
            for each in await running.enqueue_many(jobs, work.partition):
                refuse_duplicate(each)
    return {}


async def claim(work: Work) -> Metrics:
    """Start where `hold` has been; claim keys, and look at the memory of the coordinator."""
    meter = Meter(work)
    async with node(work) as running:
        await trio.sleep(1)
        before = resident_mib()
        began = time.monotonic_ns()
        await running.start_partition(work.partition, queues(work))
        await running.enqueue(make_keyed(0, queued="the first"), work.partition)
        startup = time.monotonic_ns() - began
        await trio.sleep(1)
        after = resident_mib()
        await _claim_many(running, work, "warm-up", work.warm_up)
        meter.start()
        await _claim_many(running, work, "measured", work.count)
        meter.stop()
    return {
        **meter.metrics(),
        "startup_ms": startup / 1e6,
        "resident_mib": after,
        "growth_mib": after - before,
    }


async def _claim_many(running: roger.Node, work: Work, name: str, count: int) -> None:
    jobs = [make_keyed(number, queued=f"{name} {number}") for number in range(count)]
    for each in await running.enqueue_many(jobs, work.partition):
        refuse_duplicate(each)


# Fail-over...


async def stand_by(work: Work) -> Metrics:
    """Run a node until it is killed."""
    async with node(work) as running:
        await running.start_partition(work.partition, queues(work))
        say_ready()
        await trio.sleep_forever()
    return {}


async def fail_over(work: Work) -> Metrics:
    """Kill the coordinator's node again and again, and claim a key at once.

    Two nodes are alive at a time. The survivor has become the coordinator when the next one comes.
    """
    seen: list[int] = []
    nodes: list[subprocess.Popen[str]] = []
    try:
        async with roger.connect(config(work)) as client:
            nodes.append(await trio.to_thread.run_sync(_start_node, work))
            await client.enqueue(make_keyed(0, queued="0"), work.partition)
            for number in range(1, work.count + 1):
                nodes.append(await trio.to_thread.run_sync(_start_node, work))
                await trio.sleep(0.5)  # Until both are quiet.
                killed = time.monotonic_ns()
                nodes[-2].kill()
                job = make_keyed(number, queued=str(number))
                await client.enqueue(job, work.partition)
                seen.append(time.monotonic_ns() - killed)
    finally:
        for each in nodes:
            each.kill()
            each.communicate()
    return longest(seen)


def _start_node(work: Work) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.with_keys"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(replace(work, task=stand_by.__name__).dump())
    process.stdin.flush()
    if process.stdout.readline() != "ready\n":
        process.kill()
        process.communicate()
        raise Failed("a node did not get ready")
    return process


# One key, handed from job to job...


async def hand_over(work: Work) -> Metrics:
    """Perform jobs that share one execution key, one after the other."""
    meter = Meter(work)
    begun: list[int] = []
    all_done = trio.Event()

    def on_noop() -> None:
        begun.append(time.monotonic_ns())
        if meter.tick():
            all_done.set()

    hooks.on_noop = on_noop
    count = work.warm_up + work.count + 2 * work.concurrency
    jobs = [make_keyed(number, executed="the same") for number in range(count)]
    async with node(work) as running:
        await running.enqueue_many(jobs, work.partition)
        await running.start_partition(work.partition, queues(work))
        await all_done.wait()
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    passed = latencies(gaps[work.warm_up :])
    return {
        **meter.metrics(),
        "gap_ms": passed["median_ms"],
        "gap_p99_ms": passed["p99_ms"],
    }


TASKS = {
    each.__name__: each
    for each in (
        both_keys_many, both_keys_each, cancel_node, cancel_client, hold, claim, stand_by,
        fail_over, hand_over,
    )
}  # fmt: skip

if __name__ == "__main__":
    order = Work.read()
    report(trio.run(TASKS[order.task], order))
