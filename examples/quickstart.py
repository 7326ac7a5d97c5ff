"""A job, a node that performs it and a client that enqueues it, in one program.

python examples/quickstart.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

import trio

import roger_trio as roger

config = roger.Config(
    partitions={"quickstart": {"default": 10}},  # a partition with a queue of 10 workers
    prefix="example-",  # in front of every name on the broker
).with_environment()

done = trio.Event()


@roger.job
async def greet(name: str) -> None:
    """Say hello; an ordinary function, and a job."""
    print(f"hello, {name}")
    done.set()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(roger.serve, config)  # returns once the node takes jobs

        async with roger.connect(config) as client:  # this could be another program
            envelope = await client.enqueue(greet.job("Ada"), "quickstart")
            await done.wait()
            print(f"that was {envelope.name} with {envelope.args}")

        nursery.cancel_scope.cancel()  # stops the node gracefully


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   hello, Ada
#   that was quickstart:greet with {'name': 'Ada'}
