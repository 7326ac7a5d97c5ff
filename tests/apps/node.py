"""A node as a program, for tests that kill, stop or crash it.

``python -m tests.apps.node '{"broker": ..., "partitions": ...}'`` serves the jobs below, which tell
on stdout what they do, a line each.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import trio

import roger_trio as roger


def tell(*words: object) -> None:
    """Write a line at once: the process may be gone in a moment."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@roger.job(name="app:quick")
async def quick(tag: str = "") -> None:
    """End at once."""
    tell("quick", tag, roger.current_job().id)


@roger.job(name="app:hold")
async def hold(tag: str = "") -> None:
    """Run until cancelled."""
    tell("hold", tag, roger.current_job().id, roger.current_job().retry_count)
    try:
        await trio.sleep_forever()
    finally:
        tell("cleanup", tag)


@roger.job(name="app:work")
async def work(tag: str = "", seconds: float = 0.5) -> None:
    """Run for a while."""
    tell("work", tag)
    await trio.sleep(seconds)
    tell("worked", tag)


TOLD = trio.Event()
"""Set once the process gets SIGUSR1."""


@roger.job(name="app:until_told")
async def until_told(tag: str) -> None:
    """Run until the process gets SIGUSR1, as many others do."""
    tell("work", tag)
    await TOLD.wait()
    tell("worked", tag)


def end_when_told() -> None:
    """Have the jobs end that run until they are told, on SIGUSR1."""
    token = trio.lowlevel.current_trio_token()
    signal.signal(signal.SIGUSR1, lambda *_: token.run_sync_soon(TOLD.set))


@roger.job(name="app:die")
async def die(tag: str = "") -> None:
    """Kill the process."""
    tell("die", tag)
    os.kill(os.getpid(), signal.SIGKILL)


@roger.job(name="app:dig", retryable=True, retry_levels=())
async def dig(tag: str = "") -> None:
    """Be buried."""
    raise ValueError(tag)


@roger.job(name="app:again", retryable=True, retry_levels=(3.0,))
async def again(tag: str = "") -> None:
    """Fail once."""
    tell("again", tag, roger.current_job().retry_count)
    if not roger.current_job().retry_count:
        raise ValueError(tag)


class DyingCallbacks(roger.Callbacks):
    """Dies between the confirmed publish of what follows and the settlement of the job."""

    async def on_error(self, *args: object) -> None:
        """Die: the retry is published, the job not yet settled."""
        tell("on_error")
        os.kill(os.getpid(), signal.SIGKILL)

    async def on_buried(self, *args: object) -> None:
        """Die: the buried job is published, the job not yet settled."""
        tell("on_buried")
        os.kill(os.getpid(), signal.SIGKILL)


def broker_of(url: str, queue_settle_time: float) -> roger.AmqpConfig | str:
    """Make what a configuration names its broker by; the time is RabbitMQ's alone."""
    if not url.startswith("amqp"):
        return url
    return roger.AmqpConfig.from_url(f"{url}?queue_settle_time={queue_settle_time}")


async def serve(config: roger.Config) -> None:
    """Serve, and hear SIGUSR1."""
    end_when_told()
    await roger.serve(config)


def main() -> None:
    """Serve until a signal."""
    options = json.loads(sys.argv[1])
    broker = broker_of(options.pop("broker"), options.pop("queue_settle_time", 0))
    callbacks = DyingCallbacks() if options.pop("dying", False) else roger.Callbacks()
    trio.run(serve, roger.Config(broker=broker, callbacks=callbacks, **options))
    tell("end")


if __name__ == "__main__":
    main()
