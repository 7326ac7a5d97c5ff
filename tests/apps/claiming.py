"""A client as a program that claims a queue key, and never gets to publish its job.

``python -m tests.apps.claiming '{"broker": ..., "partitions": {"<partition>": ...}}'``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import trio

import roger_trio as roger
from roger_trio._brokers.base import Message
from roger_trio.testing._wrapping import WrappingBroker
from tests.apps.keyed import Keyed
from tests.apps.node import broker_of, tell


class Stuck(WrappingBroker):
    """A broker that takes commands, and no jobs."""

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish commands; of a job tell that it came so far, and go no further."""
        if queue.endswith("-.coordinator"):
            await super().publish_many(queue, messages, delay=delay)
            return
        tell("claimed")
        await trio.sleep_forever()


async def main() -> None:
    """Enqueue a job with a key, and hang where it is to be published."""
    options = json.loads(sys.argv[1])
    [partition] = options["partitions"]
    broker = broker_of(options["broker"], 0)
    config = roger.Config(broker=broker, prefix=options["prefix"])
    async with roger.connect(config) as client:
        client._broker = Stuck(client._broker)
        await client.enqueue(Keyed("stuck", "k"), partition)


if __name__ == "__main__":
    trio.run(main)
