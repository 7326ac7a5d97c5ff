"""What a program may hang into the life of every job."""

from __future__ import annotations

from typing import Any, Final

from .envelope import Envelope


class Callbacks:
    """Async no-ops around every job of a node; override those you want.

    An exception in a callback is logged and changes nothing else about the job. A callback runs
    inside the worker of its job, so a slow one holds that worker's slot.

    Delivery: jobs are performed at least once, and so are callbacks, except `on_cancel`, which
    fires exactly once per cancelled job: never twice, and not at all only if the very process that
    calls it dies. For a job with a key that is over (it succeeded, failed for good or was buried),
    `after_run`, `on_error` or `on_buried` is missed if the process dies
    after that has been noted and before the callback has ended, as the job is not started again.
    """

    async def before_run(self, partition: str, job: Envelope) -> Any:
        """Run before ``perform``.

        Args:
            partition: The partition's name.
            job: The job with its bookkeeping.

        Returns:
            The state handed to `after_run` and `on_error`, or to `on_buried`, of this attempt.
        """

    async def after_run(self, partition: str, job: Envelope, result: Any, state: Any) -> None:
        """Run after a ``perform`` that returned.

        Args:
            partition: The partition's name.
            job: The job with its bookkeeping.
            result: What ``perform`` returned.
            state: What `before_run` returned; None if it raised.
        """

    async def on_error(
        self, partition: str, job: Envelope, error: BaseException, state: Any
    ) -> None:
        """Run after an attempt that failed, except one that buries (see `on_buried`).

        Args:
            partition: The partition's name.
            job: The job with its bookkeeping.
            error: The exception with its traceback; `JobTimeout` for a timeout.
            state: What `before_run` returned; None if it raised or never ran.
        """

    async def on_cancel(self, partition: str, job: Envelope) -> None:
        """Run once for a job that was cancelled, whether it was running or waiting.

        Args:
            partition: The partition's name.
            job: The job with its bookkeeping.
        """

    async def on_buried(
        self, partition: str, job: Envelope, error: BaseException, state: Any
    ) -> None:
        """Run when a job is buried: its retries are used up, or it asked for it.

        Args:
            partition: The partition's name.
            job: The job with its bookkeeping.
            error: The exception with its traceback.
            state: What `before_run` returned; None if it raised or never ran.
        """


CALLBACK_NAMES: Final = ("before_run", "after_run", "on_error", "on_cancel", "on_buried")


def overridden(callbacks: Callbacks) -> frozenset[str]:
    """Name the callbacks that do something, so that a worker can skip the no-ops.

    Args:
        callbacks: The object the program configured.

    Returns:
        The names of the methods that its class, or the object itself, overrides.
    """
    return frozenset(
        name
        for name in CALLBACK_NAMES
        if name in vars(callbacks) or getattr(type(callbacks), name) is not getattr(Callbacks, name)
    )
