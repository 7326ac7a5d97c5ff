"""A connection that comes back: one link to the broker, remade with backoff and jitter."""

from __future__ import annotations

import logging
import random
from typing import Final, NoReturn

import trio
import trio_asyncio

from ..._config import AmqpConfig
from ..base import BrokerError, ConnectionLost, ConnectionRefused
from .connecting import connect
from .connection import Connection

logger = logging.getLogger(__name__)

_FIRST_DELAY: Final = 0.1
_MAX_DELAY: Final = 4.0
"""Seconds between attempts at most: a broker that returns is found within a few."""
_STEADY: Final = 10.0
"""Seconds a connection must last for the next loss to count as the first."""


def backoff(failures: int, chance: float) -> float:
    """Decide how long to wait after so many failures in a row.

    Args:
        failures: Attempts that failed since the last steady connection, from 1.
        chance: A random number from 0 to 1, so that many nodes do not return in step.
    """
    return min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * (0.5 + chance / 2)


class Link:
    """Keeps one connection open and hands out the one that lives."""

    def __init__(self, config: AmqpConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._connection: Connection | None = None
        self._up = trio.Event()
        self._tried = trio.Event()
        self._refusal: ConnectionRefused | None = None
        self.generation = 0
        """How many connections there have been."""

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no publishes on this connection, if it does not."""
        return self._connection.transport.blocked if self._connection is not None else None

    async def wait_tried(self) -> None:
        """Wait for the outcome of the first attempt.

        Raises:
            ConnectionRefused: It was refused for good.
        """
        await self._tried.wait()
        if self._refusal is not None and self.generation == 0:
            raise self._refusal

    async def wait_up(self) -> Connection:
        """Wait for a connection and return it."""
        while self._connection is None:
            await self._up.wait()
        return self._connection

    async def run(self, loop: trio_asyncio.BaseTrioEventLoop, nursery: trio.Nursery) -> NoReturn:
        """Connect, and connect again, until cancelled."""
        failures = 0
        while True:
            started = trio.current_time()
            try:
                await self._live(loop, nursery)
            except BrokerError as exc:
                lasted = trio.current_time() - started
                failures = 1 if self.generation and lasted > _STEADY else failures + 1
                delay = backoff(failures, random.random())
                self._report(exc, delay)
                await trio.sleep(delay)

    async def _live(self, loop: trio_asyncio.BaseTrioEventLoop, nursery: trio.Nursery) -> NoReturn:
        """Open a connection and wait until it is lost."""
        try:
            connection = await connect(self._config, loop, nursery, self._name)
        except ConnectionRefused as exc:
            self._refusal = exc
            self._tried.set()
            raise
        except ConnectionLost:
            self._tried.set()
            raise
        self._connection = connection
        self.generation += 1
        self._tried.set()
        self._up.set()
        logger.info("connected to %s as %r", self._config.display, self._name)
        try:
            raise await connection.transport.wait_ended()
        finally:
            self._connection = None
            self._up = trio.Event()
            await connection.close()

    def _report(self, exc: BrokerError, delay: float) -> None:
        level = logging.ERROR if isinstance(exc, ConnectionRefused) else logging.WARNING
        logger.log(level, "no connection to the broker: %s; trying again in %.1f s", exc, delay)
