"""The jobs of `tests.apps.node` in a node that tells from when on it hears signals."""

from __future__ import annotations

import json
import signal
import sys

import trio

import roger_trio as roger
from tests.apps import node


async def tell_when_hearing() -> None:
    """Tell as soon as a signal does not just end the process any more."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        await trio.lowlevel.checkpoint()
    node.tell("hears")


async def main() -> None:
    """Serve until a signal."""
    options = json.loads(sys.argv[1])
    broker = node.broker_of(options.pop("broker"), 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_when_hearing)
        await roger.serve(roger.Config(broker=broker, **options))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
