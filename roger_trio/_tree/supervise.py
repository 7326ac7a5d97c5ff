"""Restarting what failed: with backoff, and no more often than a policy allows."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import attrs
import trio

logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """How a failed task is restarted."""

    first_delay: float = 0.1
    """Seconds before the first restart; doubled with each further one in the window."""
    max_delay: float = 30.0
    """Seconds between restarts at most."""
    max_restarts: int | None = 10
    """Restarts within the window before the failure goes on to the parent; None: it never does."""
    within: float = 60.0
    """The window, in seconds."""


class RestartCount:
    """The failures of one task, and what its policy says to the next."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Count a failure.

        Args:
            now: When it happened, in seconds of any steady clock.

        Returns:
            Seconds to wait before the restart; None when there have been too many.
        """
        policy = self._policy
        while self._failures and now - self._failures[0] > policy.within:
            self._failures.popleft()
        self._failures.append(now)
        count = len(self._failures)
        if policy.max_restarts is not None and count > policy.max_restarts:
            return None
        return min(policy.max_delay, policy.first_delay * 2.0 ** min(count - 1, 32))


async def supervise(
    fn: Callable[[], Awaitable[None]], *, name: str, policy: RestartPolicy, stopping: trio.Event
) -> None:
    """Run a task until it returns; restart it when it fails.

    Args:
        fn: The task.
        name: What the log calls it.
        policy: When to restart it, and how often.
        stopping: Set once the task is to end: what fails then, or waits for its restart, is not
            restarted.

    Raises:
        Exception: What the task raised last, once it failed too often.
    """
    count = RestartCount(policy)
    while True:
        try:
            await fn()
            return
        except Exception as exc:
            delay = count.next_delay(trio.current_time())
            if delay is None:
                logger.error("%s failed too often", name)
                raise
            logger.error("%s failed; restarting in %.1f s", name, delay, exc_info=exc)
        with trio.move_on_after(delay):
            await stopping.wait()
        if stopping.is_set():
            return
