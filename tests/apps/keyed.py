"""A node as a program whose jobs have keys, for tests that kill, freeze and cancel.

``python -m tests.apps.keyed '{"broker": ..., "partitions": ...}'`` serves the job below. Its jobs
and callbacks tell on stdout what they do, a line each.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs
import trio

import roger_trio as roger
from tests.apps.node import broker_of, tell


class Keyed(roger.Job, name="app:keyed"):
    """A job with the keys it is given: ends at once, works for a moment, or holds."""

    tag: str = ""
    qkey: str | None = None
    ekey: str | None = None
    act: str = "quick"
    lock: str | None = None

    def queue_key(self) -> str | None:
        return self.qkey

    def execution_key(self) -> str | None:
        return self.ekey

    async def perform(self) -> None:
        tell(self.act, self.tag, roger.current_job().id)
        with locked(self.lock):
            if self.act == "work":
                await trio.sleep(0.005)
            elif self.act == "hold":
                try:
                    await trio.sleep_forever()
                finally:
                    tell("cleanup", self.tag)
        tell("done", self.tag)


@contextmanager
def locked(path: str | None) -> Generator[None]:
    """Hold a lock that dies with the process, and tell if somebody else holds it."""
    if path is None:
        yield
        return
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("overlap", path)
        yield
    finally:
        os.close(file)


class Telling(roger.Callbacks):
    """Tells which callback was called for which job."""

    async def after_run(self, partition: str, job: roger.Envelope, *_: Any) -> None:
        tell("after_run", job.args["tag"])

    async def on_error(self, partition: str, job: roger.Envelope, *_: Any) -> None:
        tell("on_error", job.args["tag"])

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None:
        tell("on_cancel", job.args["tag"])

    async def on_buried(self, partition: str, job: roger.Envelope, *_: Any) -> None:
        tell("on_buried", job.args["tag"])


async def serve(config: roger.Config) -> None:
    """Serve, and tell the node's name once it is ready."""
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        tell("ready", node.name)


def main() -> None:
    """Serve until killed."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    options = json.loads(sys.argv[1])
    broker: Any = broker_of(options.pop("broker"), options.pop("queue_settle_time", 0))
    heartbeat = options.pop("heartbeat", None)
    if heartbeat is not None and isinstance(broker, roger.AmqpConfig):
        broker = attrs.evolve(broker, heartbeat=heartbeat)
    if options.pop("state_in_broker", False):
        options["persister"] = roger.BrokerPersister()
    trio.run(serve, roger.Config(broker=broker, callbacks=Telling(), **options))


if __name__ == "__main__":
    main()
