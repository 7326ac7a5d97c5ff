"""The jobs of the measured programs. As messages they are about 200 bytes long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

import roger_trio as roger

TEXT = "Dear Ada, your engine is ready."


class Hooks:
    """What happens when a job is performed; each program sets its own."""

    def __init__(self) -> None:
        self.on_noop: Callable[[], object] = bool
        self.gate: Callable[[], Awaitable[None]] | None = None
        """What a job that does nothing waits for first."""
        self.on_stamp: Callable[[int], object] = bool


hooks = Hooks()


@roger.job(name="benchmarks:noop")
async def noop(number: int, to: str, text: str) -> None:
    """Do nothing."""
    if hooks.gate is not None:
        await hooks.gate()
    hooks.on_noop()


@roger.job(name="benchmarks:block")
async def block(number: int, to: str, text: str) -> None:
    """Never end."""
    hooks.on_noop()
    await trio.sleep_forever()


@roger.job(name="benchmarks:stamp")
async def stamp(number: int, to: str, text: str) -> None:
    """Tell when the job was enqueued: `number` is a time."""
    hooks.on_stamp(number)


class Keyed(roger.Job, name="benchmarks:keyed"):
    """Do nothing, holding keys; an empty one is none."""

    number: int
    to: str
    text: str
    queued: str
    executed: str

    async def perform(self) -> None:
        """Do nothing."""
        hooks.on_noop()

    def queue_key(self) -> str | None:
        """Give the first key."""
        return self.queued or None

    def execution_key(self) -> str | None:
        """Give the second key."""
        return self.executed or None


def make_keyed(number: int, *, queued: str = "", executed: str = "") -> roger.Job:
    """Make a job that does nothing, with keys."""
    return Keyed(number, "ada@example.com", TEXT, queued, executed)


def make_noop(number: int) -> roger.Job:
    """Make a job that does nothing."""
    return noop.job(number, "ada@example.com", TEXT)
