"""A queue key: at most one job per customer is queued or runs.

python examples/unique_jobs.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

from typing import Any

import trio

import roger_trio as roger

tell, news = trio.open_memory_channel[str](10)
may_end = trio.Event()


class SyncCustomer(roger.Job, retryable=True):
    """Fetches what is new about a customer; doing that twice at a time would be a waste."""

    customer: str

    def queue_key(self) -> str:
        """Return what no two queued or running jobs have in common."""
        return f"sync:{self.customer}"

    async def perform(self) -> None:
        """Wait until the rest of this example has been shown."""
        await may_end.wait()


class Report(roger.Callbacks):
    """Tells the rest of the program what became of the jobs."""

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        """Run after a job that ended well; its key is free by then."""
        await tell.send(f"{job.args['customer']} is in sync")


config = roger.Config(
    partitions={"unique": {"default": 5}},
    callbacks=Report(),
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        first = await node.enqueue(SyncCustomer("ada"), "unique")
        print(f"enqueued with the key {first.queue_key!r}")
        try:
            await node.enqueue(SyncCustomer("ada"), "unique")
        except roger.DuplicateJob as error:
            print(f"refused: {error.key!r} is held by the first one: {error.job_id == first.id}")

        # Of many jobs each gets its own answer.
        jobs = [SyncCustomer(name) for name in ("ada", "grace")]
        for answer in await node.enqueue_many(jobs, "unique"):
            print("of many:", "duplicate" if isinstance(answer, roger.DuplicateJob) else "enqueued")

        held = await node.keys("unique")
        print("held:", *sorted(f"{each.key} ({each.kind} key)" for each in held))

        may_end.set()
        print(*sorted([await news.receive(), await news.receive()]), sep=", ")
        again = await node.enqueue(SyncCustomer("ada"), "unique")
        print(f"{await news.receive()} once more, by another job: {again.id != first.id}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   enqueued with the key 'sync:ada'
#   refused: 'sync:ada' is held by the first one: True
#   of many: duplicate
#   of many: enqueued
#   held: sync:ada (queue key) sync:grace (queue key)
#   ada is in sync, grace is in sync
#   ada is in sync once more, by another job: True
