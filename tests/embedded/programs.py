"""A job and two programs, as a user would write them."""

from __future__ import annotations

from pathlib import Path

import trio

import roger_trio as roger

from .children import Report


@roger.job(name="embedded:leave-mark")
async def leave_mark(folder: str, tag: str) -> None:
    """Work a moment, then leave a file."""
    await trio.sleep(0.02)
    Path(folder, tag).touch()  # noqa: ASYNC240 -- a moment


def config(path: str) -> roger.Config:
    """Make the configuration that all share."""
    return roger.Config(
        broker=f"sqlite:{path}",
        partitions={"myapp": {"default": 4}},
    )


async def node(report: Report, path: str) -> None:
    """Serve."""
    async with trio.open_nursery() as nursery:
        await nursery.start(roger.serve, config(path))
        report("ready")


async def client(report: Report, path: str, folder: str, count: int) -> None:
    """Enqueue, and tell what was confirmed."""
    async with roger.connect(config(path)) as connected:
        for number in range(count):
            await connected.enqueue(leave_mark.job(folder, str(number)), "myapp")
            report(f"enqueued {number}")
