"""Jobs are cancelled from outside: one that runs, one that is queued, one that has ended.

python examples/cancellation.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

from typing import Any

import trio

import roger_trio as roger

tell, news = trio.open_memory_channel[str](10)


@roger.job
async def export(report: str, pages: int) -> None:
    try:
        await tell.send(f"exporting {report}")
        for _ in range(pages):
            await trio.sleep(3600)
    finally:
        print(f"cleaning up after {report}")  # runs however the job ends


class Report(roger.Callbacks):
    """Tells the rest of the program what became of the jobs."""

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None:
        """Run exactly once for each cancelled job, whether it ran or not."""
        await tell.send(f"on_cancel was called for {job.args['report']}")

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        """Run after a job that ended well."""
        await tell.send(f"after_run was called for {job.args['report']}")


config = roger.Config(
    partitions={"cancellation": {"default": 1}},  # one worker, so that the second job waits
    callbacks=Report(),
    prefix="example-",
).with_environment()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        runs = await node.enqueue(export.job("sales", 1000), "cancellation")
        print(await news.receive())
        waits = await node.enqueue(export.job("costs", 1000), "cancellation")

        # Any client may do this, from any machine.
        print("the one that waits:", await node.cancel(waits.id, "cancellation"))
        print("the one that runs:", await node.cancel(runs.id, "cancellation"))
        print(await news.receive())
        print(await news.receive())  # the other was met, and not started

        short = await node.enqueue(export.job("nothing", 0), "cancellation")
        print(await news.receive(), await news.receive(), sep=", ")
        print("one that has ended:", await node.cancel(short.id, "cancellation"))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   exporting sales
#   the one that waits: CancelResult.RECORDED
#   cleaning up after sales
#   the one that runs: CancelResult.STOPPED
#   on_cancel was called for sales
#   on_cancel was called for costs
#   cleaning up after nothing
#   exporting nothing, after_run was called for nothing
#   one that has ended: CancelResult.FINISHED
