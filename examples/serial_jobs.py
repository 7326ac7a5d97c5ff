"""An execution key: bookings of one account run one after the other, in the order they were made.

python examples/serial_jobs.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

from collections import Counter

import trio

import roger_trio as roger

balance = Counter[str]()
runs_now = Counter[str]()
tell, news = trio.open_memory_channel[str](10)
both_run = trio.Event()


class Book(roger.Job):
    """Reads a balance, thinks, and writes it: no other may do so meanwhile."""

    account: str
    amount: int

    def execution_key(self) -> str:
        """Return what no two running jobs have in common, on all nodes."""
        return self.account

    async def perform(self) -> None:
        """Book an amount."""
        runs_now[self.account] += 1
        assert runs_now[self.account] == 1, "two at once"
        if len(+runs_now) == 2:
            both_run.set()  # bookings of different accounts do run side by side
        before = balance[self.account]
        await both_run.wait()
        balance[self.account] = before + self.amount
        runs_now[self.account] -= 1
        await tell.send(f"{self.account} {self.amount:+} is {balance[self.account]}")


config = roger.Config(
    partitions={"serial": {"default": 10}},  # the jobs that wait hold none of these ten workers
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        for amount in (100, -30, 5):
            await node.enqueue(Book("ada", amount), "serial")
        await node.enqueue(Book("grace", 7), "serial")

        said = [await news.receive() for _ in range(4)]
        print(*[line for line in said if line.startswith("ada")], sep="\n")
        print(*[line for line in said if line.startswith("grace")], sep="\n")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   ada +100 is 100
#   ada -30 is 70
#   ada +5 is 75
#   grace +7 is 7
