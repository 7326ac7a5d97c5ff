"""The user's callbacks, as workers call them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .._jobs.callbacks import Callbacks, overridden
from .._jobs.envelope import Envelope
from .._logs import log_job
from .performing import is_failure

logger = logging.getLogger("roger_trio.jobs")


class Hooks:
    """Calls the callbacks that the user has overridden.

    Args:
        callbacks: The user's.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._overridden = overridden(callbacks)

    def __contains__(self, hook: str) -> bool:
        return hook in self._overridden

    async def call(self, hook: str, envelope: Envelope, *args: Any) -> Any:
        """Call one; its exceptions change nothing else."""
        if hook not in self._overridden:
            return None
        callback: Callable[..., Awaitable[Any]] = getattr(self._callbacks, hook)
        try:
            return await callback(envelope.partition, envelope, *args)
        except BaseException as exc:
            if not is_failure(exc):
                raise
            log_job(logger, logging.ERROR, envelope, "the callback %s failed", hook, error=exc)
            return None
