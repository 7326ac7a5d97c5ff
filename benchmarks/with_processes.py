"""What a job costs by where it runs: in a task, in a thread, in a worker process.

``python -m benchmarks.with_processes`` runs jobs that do nothing, one after the other, on a node of
this process with the broker in memory, so that little but the way they run is left. For each kind:
the time from before ``enqueue`` to ``after_run`` (median), and the processor time of this process
for a job, that of the worker process beside it. Then what it takes to start a worker process, with
the first job in it, and to cancel a job that never ends, which kills its process. The kinds take
turns, round by round. A job's figures are the least of all rounds, as other programs can only add
to them; those of starting and cancelling are medians.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import roger_trio as roger

ROUNDS = 7
JOBS = 300


@roger.job
async def in_task() -> float:
    return 0.0


@roger.job
def in_thread() -> float:
    return 0.0


@roger.job(process=True)
def in_process() -> float:
    return time.process_time()


@roger.job(process=True)
def for_ever(fifo: str) -> None:
    Path(fifo).write_text("began")
    while True:
        pass


KINDS = {"task": in_task, "thread": in_thread, "process": in_process}


class Results(roger.Callbacks):
    """Hands over what jobs returned."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[Any](1000)

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        self.send.send_nowait(result)


@asynccontextmanager
async def serving(results: Results) -> AsyncGenerator[roger.Node]:
    config = roger.Config(
        broker="memory:", partitions={"p": {"default": 1}}, callbacks=results, max_job_processes=1
    )
    async with trio.open_nursery() as nursery:
        yield await nursery.start(roger.serve, config)
        nursery.cancel_scope.cancel()


async def measure(
    node: roger.Node, results: Results, kind: str, jobs: int
) -> tuple[float, float, float]:
    """Return the microseconds per job: latency, processor time here, and in the worker process."""
    took: list[float] = []
    await node.enqueue(KINDS[kind].job(), "p")
    there = await results.receive.receive()
    here = time.process_time()
    for _ in range(jobs):
        began = time.perf_counter()
        await node.enqueue(KINDS[kind].job(), "p")
        last = await results.receive.receive()
        took.append(time.perf_counter() - began)
    cost = (time.process_time() - here) / jobs
    return statistics.median(took) * 1e6, cost * 1e6, (last - there) / jobs * 1e6


async def start_one() -> tuple[float, float]:
    """Return the milliseconds of a first job, and the processor time of its process so far."""
    results = Results()
    async with serving(results) as node:
        began = time.perf_counter()
        await node.enqueue(in_process.job(), "p")
        spent = await results.receive.receive()
        return (time.perf_counter() - began) * 1e3, spent * 1e3


async def cancel_one(folder: str) -> float:
    """Return the milliseconds of cancelling a job that keeps a worker process busy."""
    fifo = Path(folder, secrets.token_hex(4))
    os.mkfifo(fifo)
    async with serving(Results()) as node:
        job = await node.enqueue(for_ever.job(str(fifo)), "p")
        await trio.to_thread.run_sync(fifo.read_text)
        began = time.perf_counter()
        await node.cancel(job.id, "p")
        return (time.perf_counter() - began) * 1e3


async def main(rounds: int, jobs: int) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    results = Results()
    async with serving(results) as node:
        for _ in range(rounds):
            for kind in KINDS:
                found[kind].append(await measure(node, results, kind, jobs))
    print("us per job     latency   CPU of the node   CPU of the worker process")
    for kind, rows in found.items():
        latency, here, there = (min(column) for column in zip(*rows, strict=True))
        print(f"{kind:<12}{latency:>10.0f}{here:>18.0f}{there:>28.0f}")
    starts = [await start_one() for _ in range(rounds)]
    wall, cpu = (statistics.median(column) for column in zip(*starts, strict=True))
    print(f"the first job of a process: {wall:.0f} ms, {cpu:.0f} ms of CPU in it")
    with tempfile.TemporaryDirectory() as folder:
        cancels = [await cancel_one(folder) for _ in range(rounds)]
    print(f"cancel: {statistics.median(cancels):.1f} ms median, {max(cancels):.1f} ms at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jobs", type=int, default=JOBS, help="of each kind in a round")
    given = parser.parse_args()
    trio.run(main, given.rounds, given.jobs)
