"""A node inside a Trio program, beside a TCP service that enqueues what it is sent.

python examples/embedding.py

It needs nothing: jobs are in the file roger.db. ROGER_BROKER=amqp://… moves them to a RabbitMQ.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

import roger_trio as roger

send_result, results = trio.open_memory_channel[str](10)


@roger.job(max_execution_time=5)
async def count_words(text: str) -> int:
    return len(text.split())


class Report(roger.Callbacks):
    """Tells the rest of the program what became of the jobs."""

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        """Run after a job that ended well."""
        await send_result.send(f"{result} words in {job.args['text']!r}")


config = roger.Config(
    partitions={"embedding": {"default": 5}},
    callbacks=Report(),
    shutdown_timeout=5,  # seconds that running jobs get when the program ends
    prefix="example-",
).with_environment()


async def take_orders(node: roger.Node, stream: trio.SocketStream) -> None:
    """Serve one TCP client: each chunk of text becomes a job."""
    async for chunk in stream:
        await node.enqueue(count_words.job(chunk.decode()), "embedding")  # a node is a client too
        await stream.send_all(b"enqueued")


async def visit(port: int) -> None:
    """Be a TCP client of ours."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for text in ("to be or not to be", "that is the question"):
            await stream.send_all(text.encode())
            answer = await stream.receive_some()
            print(f"{answer.decode()}; {await results.receive()}")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        serve_tcp = partial(trio.serve_tcp, partial(take_orders, node), 0, host="127.0.0.1")
        listeners = await nursery.start(serve_tcp)
        await visit(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()  # the service ends at once, the node when its jobs have
    print("all has stopped")


if __name__ == "__main__":
    trio.run(main)

# Prints:
#   enqueued; 6 words in 'to be or not to be'
#   enqueued; 4 words in 'that is the question'
#   all has stopped
