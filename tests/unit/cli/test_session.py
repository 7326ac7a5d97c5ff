"""Trio for the length of one command."""

from __future__ import annotations

import signal

import pytest
import trio

from roger_trio._cli.session import run


def test_an_interrupt_spares_what_is_under_way() -> None:
    """Ctrl-C comes out bare, and strikes where the command waits, in no other task's midst."""
    happened: list[str] = []

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)
        happened.append("it went on")
        with trio.fail_after(10):
            await trio.sleep_forever()

    async def act() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)

    with pytest.raises(KeyboardInterrupt):
        run(act)
    assert happened == ["it went on"]
