"""The guard against hanging tests."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.hang import bounded


async def test_a_hanging_test_fails_and_shows_its_tasks() -> None:
    """A test that never ends is cancelled, and its report names the line of a child task."""

    async def stuck_child() -> None:
        await trio.sleep_forever()

    async def hangs() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck_child)

    with pytest.raises(pytest.fail.Exception, match=r"(?s)hung for 0\.05 s.*in stuck_child"):
        await bounded(hangs, 0.05)()


async def test_virtual_time_does_not_count(autojump_clock: MockClock) -> None:
    """Hours on a mock clock are no hang."""
    started = trio.current_time()
    await bounded(trio.sleep, 60)(7200)
    assert trio.current_time() - started >= 7200


async def test_an_error_passes_through() -> None:
    """What a test raises reaches pytest as it is."""

    async def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await bounded(fails, 60)()
