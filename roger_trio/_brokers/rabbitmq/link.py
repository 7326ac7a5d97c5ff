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
from .versions import Server

logger = logging.getLogger(__name__)

_FIRST_DELAY: Final = 0.1
_MAX_DELAY: Final = 2.0
"""Seconds between attempts at most: a broker that returns is found within a few."""
_MAX_REFUSED_DELAY: Final = 30.0
"""The same while the broker refuses us, which only its operator can change."""
_STEADY: Final = 10.0
"""Seconds a connection must last for the next loss to count as the first."""


def backoff(failures: int, chance: float, *, most: float = _MAX_DELAY) -> float:
    """Decide how long to wait after so many failures in a row.

    Args:
        failures: Attempts that failed since the last steady connection, from 1.
        chance: A random number from 0 to 1, so that many nodes do not return in step.
        most: Seconds to wait at most.
    """
    return min(most, _FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * (0.5 + chance / 2)


class Reach:
    """What the links of one broker tell each other: that it can be reached."""

    def __init__(self) -> None:
        self.times = 0
        """How often one of them has got through."""
        self._lot = trio.lowlevel.ParkingLot()

    def tell(self) -> None:
        """Have those that wait to be told try at once."""
        self.times += 1
        self._lot.unpark_all()

    async def wait(self, most: float) -> None:
        """Wait until another link has got through, for so many seconds at most."""
        with trio.move_on_after(most):
            await self._lot.park()


class Link:
    """Keeps one connection open and hands out the one that lives.

    Args:
        config: Where to and as whom.
        name: What the broker's management page shows.
        reach: Shared with the broker's other links.
    """

    def __init__(self, config: AmqpConfig, name: str, reach: Reach) -> None:
        self._config = config
        self._name = name
        self._reach = reach
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
    def server(self) -> Server | None:
        """What the broker tells of itself, while there is a connection."""
        return self._connection.server if self._connection is not None else None

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
        failures, told = 0, 0
        while True:
            started, generation = trio.current_time(), self.generation
            try:
                await self._live(loop, nursery)
            except BrokerError as exc:
                lasted = trio.current_time() - started
                got_through = self.generation > generation
                is_steady = self.generation > 0 and lasted > _STEADY
                is_told = not got_through and self._reach.times != told
                failures = 1 if is_steady or is_told else failures + 1
                told = self._reach.times
                most = _MAX_REFUSED_DELAY if isinstance(exc, ConnectionRefused) else _MAX_DELAY
                delay = backoff(failures, random.random(), most=most)
                self._report(exc, delay)
                if got_through:
                    # Else links that are cut off as soon as they are up would wake each other,
                    # and try without a pause.
                    await trio.sleep(delay)
                else:
                    await self._reach.wait(delay)

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
        self._reach.tell()
        logger.info("connected to %s as %r", self._config.display, self._name)
        try:
            raise await connection.transport.wait_ended()
        finally:
            self._connection = None
            self._up = trio.Event()
            await connection.close()

    def _report(self, exc: BrokerError, delay: float) -> None:
        if isinstance(exc, ConnectionRefused):
            # Of the first attempt it is the caller's error, and told as that.
            level = logging.ERROR if self.generation else logging.DEBUG
        else:
            level = logging.WARNING
        logger.log(level, "no connection to the broker: %s; trying again in %.1f s", exc, delay)
