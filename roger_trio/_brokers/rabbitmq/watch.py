"""Finding consumers that the broker has forgotten without a word.

Connected, idle, and for ever: what hurts users of other systems most. Whatever the cause, a
consumer that gets nothing from a queue that has something is given up, and another one is opened.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, NoReturn

import trio

from ..base import BrokerError, QueueCount, QueueMissing
from .channels import ConsumeChannel

logger = logging.getLogger(__name__)

INTERVAL: Final = 15.0
"""Seconds between looks at the idle consumers."""
_SUSPICIONS: Final = 2
"""Looks in a row that find a consumer idle and its queue not, before it counts as forgotten."""


class ConsumerWatch:
    """Interrupts channels whose consumers get nothing although there is something.

    Args:
        count: Asks the broker what a queue holds.
        may_idle: Tells whether a consumer of a queue may get nothing though there is something, as
            all but one of a queue with a single active consumer.
    """

    def __init__(
        self, count: Callable[[str], Awaitable[QueueCount]], may_idle: Callable[[str], bool]
    ) -> None:
        self._count = count
        self._may_idle = may_idle
        self._channels: dict[ConsumeChannel, tuple[int, int]] = {}
        """Channel → deliveries it had had at the last look, and suspicions since."""
        self.interval = INTERVAL

    @contextmanager
    def watching(self, channel: ConsumeChannel) -> Generator[None]:
        """Look after a channel."""
        self._channels[channel] = (0, 0)
        try:
            yield
        finally:
            del self._channels[channel]

    def queue_was_missing(self, queue: str) -> None:
        """Interrupt the consumers of a queue that had to be made anew."""
        for channel in self._channels:
            if queue in channel.queues:
                channel.interrupt(QueueMissing(f"queue {queue!r} was deleted and is made anew"))

    async def run(self) -> NoReturn:
        """Look at the idle consumers from time to time."""
        while True:
            await trio.sleep(self.interval * random.uniform(0.75, 1.25))
            for channel in list(self._channels):
                try:
                    await self._look(channel)
                except BrokerError as exc:
                    logger.debug("could not look at %s: %s", channel.queues, exc)

    async def _look(self, channel: ConsumeChannel) -> None:
        had, suspicions = self._channels.get(channel, (0, 0))
        if channel.arrived != had or not channel.has_room:
            self._channels[channel] = (channel.arrived, 0)
            return
        for queue in channel.queues:
            if self._may_idle(queue):
                continue
            try:
                waiting = (await self._count(queue)).messages
            except QueueMissing as exc:
                channel.interrupt(exc)
                return
            if waiting and channel.arrived == had and channel in self._channels:
                suspicions += 1
                self._channels[channel] = (had, suspicions)
                if suspicions >= _SUSPICIONS:
                    text = f"queue {queue!r} has {waiting} messages, and none is delivered"
                    channel.interrupt(QueueMissing(text))
                return
        if channel in self._channels:
            self._channels[channel] = (channel.arrived, 0)
