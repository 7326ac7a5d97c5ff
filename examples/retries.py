"""A job that fails is retried, then buried with its error; once that is mended, it is replayed.

python examples/retries.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

from typing import Any

import trio

import roger_trio as roger

shop = {"open": False}
tell, news = trio.open_memory_channel[str](10)


@roger.job(retryable=True, retry_levels=(0.5, 1))  # seconds; without them the node's apply
async def deliver(parcel: str) -> None:
    print(f"attempt {roger.current_job().retry_count + 1} to deliver {parcel}")
    if parcel == "a tiger":
        raise roger.Bury("no use trying again")
    if not shop["open"]:
        raise ConnectionError("nobody answers the door")
    await tell.send(f"delivered {parcel}")


class Report(roger.Callbacks):
    """Tells the rest of the program what became of the jobs."""

    async def on_buried(
        self, partition: str, job: roger.Envelope, error: BaseException, state: Any
    ) -> None:
        """Run once a job is safe among the buried ones."""
        await tell.send(f"buried after {job.retry_count} retries: {error}")


config = roger.Config(
    partitions={"retries": {"default": 1}},
    callbacks=Report(),
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        await node.enqueue(deliver.job("a book"), "retries")
        print(await news.receive())

        for job in await node.buried_jobs("retries", "default"):
            print(f"{job.args['parcel']}: {job.error and job.error.type}")

        shop["open"] = True
        replayed = await node.replay_buried("retries", "default")
        print(f"{replayed} replayed; {await news.receive()}")

        await node.enqueue(deliver.job("a tiger"), "retries")
        print(await news.receive())
        purged = await node.purge_buried("retries", "default")
        print(f"{purged} purged")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints (the log goes to stderr):
#   attempt 1 to deliver a book
#   attempt 2 to deliver a book
#   attempt 3 to deliver a book
#   buried after 2 retries: nobody answers the door
#   a book: ConnectionError
#   attempt 1 to deliver a book
#   1 replayed; delivered a book
#   attempt 1 to deliver a tiger
#   buried after 0 retries: no use trying again
#   1 purged
