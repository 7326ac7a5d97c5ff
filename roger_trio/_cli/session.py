"""Trio for the length of one command, and a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs
import trio

from .._client import Client, connect
from .._config import Config
from .._errors import ConfigError
from .errors import misused
from .loading import load_config
from .logs import set_up_quiet_logs

T = TypeVar("T")


def load_client_config(app: str, imports: Sequence[str] | None, timeout: float | None) -> Config:
    """Load the configuration of a command that uses a client.

    Args:
        app: What was typed: ``module:attribute`` or a file.
        imports: Further modules to import.
        timeout: Seconds the broker may take; None: as configured.
    """
    set_up_quiet_logs()
    config = load_config(app, imports or ())
    if timeout is None:
        return config
    try:
        return attrs.evolve(config, enqueue_timeout=timeout)
    except ConfigError:
        misused(f"expected seconds above 0, got {timeout:g}", "--timeout")


def run_with_client(config: Config, act: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, act, disconnect.

    Args:
        config: Where to.
        act: What to do; it gets the client.

    Raises:
        RogerError: Whatever the client raised.
        KeyboardInterrupt: Ctrl-C.
    """
    return run(partial(_run, config, act))


def run(act: Callable[[], Awaitable[T]]) -> T:
    """Run what a command does on Trio.

    Args:
        act: What to do.

    Raises:
        KeyboardInterrupt: Ctrl-C; never in a group.
    """
    try:
        # Raised in the midst of what moves a connection's bytes, it would break more than that.
        return trio.run(act, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:  # nurseries wrap Ctrl-C
            raise KeyboardInterrupt from group
        raise


async def _run(config: Config, act: Callable[[Client], Awaitable[T]]) -> T:
    async with connect(config) as client:
        return await act(client)
