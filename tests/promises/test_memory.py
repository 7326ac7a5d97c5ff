"""Promise 13: memory grows neither with the backlog nor with the number of jobs done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import roger_trio as roger
from tests.apps.node import broker_of
from tests.promises.support import ROOT, Outsider, Program, Setup, on_durable_brokers

WARM_UP, DONE, WAITING = 5_000, 20_000, 50_000
MOST_GROWTH = 10.0
"""Mebibytes."""


@roger.job(name="memory:nothing")
async def nothing(number: int) -> None:
    """Do nothing."""


class Count(roger.Callbacks):
    """Writes the process's memory after the warm-up and at the end, and then takes no more."""

    def __init__(self) -> None:
        self.done = 0
        self.enough = trio.Event()

    async def after_run(self, *args: object) -> None:
        """Count a job."""
        self.done += 1
        if self.done in (WARM_UP, WARM_UP + DONE):
            print("done", self.done, resident(), flush=True)  # noqa: T201 -- for the test
        if self.done == WARM_UP + DONE:
            self.enough.set()


def resident() -> float:
    """Return the most memory this process ever had resident, in mebibytes."""
    status = Path("/proc/self/status").read_text()
    [line] = [each for each in status.splitlines() if each.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


async def serve_until_enough(options: dict[str, Any]) -> None:
    """Run a node until it has done all jobs that are counted, and then let it wait."""
    broker = broker_of(options.pop("broker"), 0)
    count = Count()
    config = roger.Config(broker=broker, callbacks=count, **options)
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        await count.enough.wait()
        await node.drain()
        await trio.sleep_forever()


@on_durable_brokers
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
async def test_neither_a_backlog_nor_jobs_done_make_a_node_grow(
    setup: Setup, outsider: Outsider
) -> None:
    """20,000 jobs done with 50,000 waiting: the peak grows by less than 10 MiB after a warm-up."""
    config = setup.config({"default": 20})
    options = {
        "broker": setup.url,
        "prefix": setup.prefix,
        "partitions": {setup.partition: {"default": 20}},
    }
    command = [sys.executable, "-m", "tests.promises.test_memory", json.dumps(options)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=str(ROOT))
    node = Program(process)
    async with roger.connect(config) as client, trio.open_nursery() as nursery:
        nursery.start_soon(node.read)
        try:
            with trio.fail_after(80):
                await _enqueue(client, setup, WARM_UP)
                await node.wait(f"done {WARM_UP} ")
                await _enqueue(client, setup, DONE + WAITING)
                await node.wait(f"done {WARM_UP + DONE} ")
                left = (await outsider.count(setup.names()[0])).messages
        finally:
            process.kill()
        await node.ended.wait()
    before, after = (float(line.split()[2]) for line in node.lines)
    assert left > WAITING * 0.9
    assert after - before < MOST_GROWTH


async def _enqueue(client: roger.Client, setup: Setup, count: int) -> None:
    for start in range(0, count, 10_000):
        jobs = [nothing.job(number) for number in range(start, min(count, start + 10_000))]
        await client.enqueue_many(jobs, setup.partition)


if __name__ == "__main__":
    trio.run(serve_until_enough, json.loads(sys.argv[1]))
