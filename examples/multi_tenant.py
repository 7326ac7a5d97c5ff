"""A partition for each customer: one is paused, another one is added; none gets in another's way.

python examples/multi_tenant.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

import trio

import roger_trio as roger

tell, news = trio.open_memory_channel[str](10)


@roger.job
async def bill(month: str) -> None:
    await tell.send(f"{roger.current_job().partition} is billed for {month}")


config = roger.Config(
    partitions={
        "acme": {"default": 2},
        "globex": {"default": 2},
    },
    prefix="example-",
).with_environment()


async def show(client: roger.Client) -> None:
    """Print what the nodes of the cluster say they run."""
    for partitions in (await client.running_partitions()).values():
        for partition, queues in sorted(partitions.items()):
            for queue, info in queues.items():
                state = "paused" if info.paused else "runs"
                print(f"  {partition}/{queue} {state}, with up to {info.max_workers} workers")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)

        await node.pause("acme", "default")  # holds on every node once it has returned
        for month in ("May", "June"):
            await node.enqueue(bill.job(month), "acme")
        await node.enqueue(bill.job("May"), "globex")
        print(await news.receive())
        print(len(await node.queued_jobs("acme", "default")), "jobs of acme wait")

        await node.start_partition("initech", {"default": 1})  # a new customer
        await node.enqueue(bill.job("May"), "initech")
        print(await news.receive())
        await show(node)

        await node.resume("acme", "default")
        print(*sorted([await news.receive(), await news.receive()]), sep="\n")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   globex is billed for May
#   2 jobs of acme wait
#   initech is billed for May
#     acme/default paused, with up to 2 workers
#     globex/default runs, with up to 2 workers
#     initech/default runs, with up to 1 workers
#   acme is billed for June
#   acme is billed for May
