"""An async test that hangs fails, and shows where each of its tasks stands."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

TRIO = str(Path(trio.__file__).parent)

AsyncTest = Callable[..., Awaitable[None]]


def bounded(test: AsyncTest, seconds: float) -> AsyncTest:
    """Wrap an async test so that it is cancelled after so many seconds and fails.

    The seconds are real ones: a test on a mock clock may sleep as long as it likes.
    """

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        report: list[str] = []

        def give_up() -> None:
            report.extend(task_stacks(trio.lowlevel.current_root_task()))
            scope.cancel()

        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            timer = threading.Timer(seconds, token.run_sync_soon, (give_up,))
            timer.daemon = True
            timer.start()
            try:
                await test(*args, **kwargs)
            finally:
                timer.cancel()
        if scope.cancelled_caught:
            pytest.fail("\n".join((f"hung for {seconds:g} s", *report)), pytrace=False)

    return run


def task_stacks(task: trio.lowlevel.Task | None) -> Iterator[str]:
    """Yield the stack of a task and of all below it, as text, without what is Trio's own."""
    if task is None:
        return
    stack = traceback.StackSummary.extract(task.iter_await_frames())
    ours = [entry for entry in stack if not entry.filename.startswith(TRIO)]
    if ours:
        yield f"--- {task.name}\n{''.join(traceback.format_list(ours))}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from task_stacks(child)
