"""Jobs that compute run in processes of their own, which are killed when they take too long.

pip install roger_trio[process]
python examples/cpu_bound.py

It needs no server: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

import os
from typing import Any

import trio

import roger_trio as roger

tell, news = trio.open_memory_channel[str](10)
begun = trio.Event()


@roger.job(process=True)
def count_primes(below: int) -> int:
    return sum(all(n % k for k in range(2, int(n**0.5) + 1)) for n in range(2, below))


@roger.job(process=True, max_execution_time=0.5)
def never_end() -> None:
    while True:
        pass


@roger.job(process=True)
def crash() -> None:
    os._exit(3)


class Report(roger.Callbacks):
    """Tells the rest of the program what became of the jobs."""

    async def before_run(self, partition: str, job: roger.Envelope) -> None:
        """Run before each attempt."""
        if job.args.get("below") == 10**12:
            begun.set()

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        """Run after a job that ended well, with what came back from its process."""
        await tell.send(f"{job.args['below']}: {result} primes")

    async def on_error(
        self, partition: str, job: roger.Envelope, error: BaseException, state: Any
    ) -> None:
        """Run after an attempt that failed."""
        await tell.send(f"{type(error).__name__}: {error}")


config = roger.Config(
    partitions={"cpu_bound": {"default": 2}},
    callbacks=Report(),
    max_job_processes=2,  # by default, as many as there are CPUs
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        for job in (count_primes.job(20_000), never_end.job(), crash.job()):
            await node.enqueue(job, "cpu_bound")
            print(await news.receive())

        # It can be cancelled, too, which no thread can.
        endless = await node.enqueue(count_primes.job(10**12), "cpu_bound")
        await begun.wait()
        print(await node.cancel(endless.id, "cpu_bound"))
        nursery.cancel_scope.cancel()


# Worker processes import this file, and must not start a node of their own.
if __name__ == "__main__":
    trio.run(main)

# Prints:
#   20000: 2262 primes
#   JobTimeout: exceeded its max_execution_time of 0.5 s
#   JobCrashed: its worker process ended with exit status 3
#   CancelResult.STOPPED
