"""The asyncio event loop that aiormq lives in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
import trio_asyncio

logger = logging.getLogger(__name__)

_TIDY_TIMEOUT: Final = 3.0
"""Seconds that aiormq's tasks have to end after all connections have."""


@asynccontextmanager
async def open_loop() -> AsyncGenerator[trio_asyncio.BaseTrioEventLoop]:
    """Open an asyncio loop that ends whatever its tasks do at the end.

    What a task of aiormq's raises while it is cancelled at the end of the loop would otherwise be
    raised in the middle of the user's program.
    """
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_stray_error)
        try:
            yield loop
        finally:
            with trio.move_on_after(_TIDY_TIMEOUT, shield=True):
                await loop.run_aio_coroutine(_end_tasks())


async def _end_tasks() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for each in rest:
        each.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Note an error that no aiormq call reported; the links notice what it broke."""
    logger.debug(
        "stray asyncio error: %s", context.get("message"), exc_info=context.get("exception")
    )
