"""Finding consumers that the broker has forgotten without a word.

Connected, idle, and for ever: what hurts users of other systems most. Whatever the cause, a
consumer that gets nothing from a queue that has something is given up, and another one is opened.

RabbitMQ 3.10 has a way of its own to forget one. When a queue is deleted and made anew before its
consumers' channels hear of it, they consume the new one without a word, and then drop what it
delivers: a few jobs count as delivered, to nobody, until the channel closes. No count tells, so
there a consumer that got nothing for minutes is renewed. (The order of ``handle_eol`` in
``rabbit_channel.erl``; 4.0.5 does not do it.)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, NoReturn

import attrs
import trio

from ..base import BrokerError, QueueCount, QueueMissing, SubscriptionRenewed
from .consuming import ConsumeChannel

logger = logging.getLogger(__name__)

INTERVAL: Final = 15.0
"""Seconds between looks at the idle consumers."""
_SUSPICIONS: Final = 2
"""Looks in a row that find a consumer idle and its queue not, before it counts as forgotten."""


RENEW_AFTER: Final = 300.0
"""Seconds without a delivery after which a consumer that may be deaf is renewed."""


@attrs.define
class _Seen:
    """What the last look at a channel found."""

    arrived: int
    """Deliveries it had had."""
    idle_since: float
    suspicions: int = 0
    """Looks in a row that found it idle and its queue not."""


class ConsumerWatch:
    """Interrupts channels whose consumers get nothing although there is something.

    Args:
        count: Asks the broker what a queue holds.
        may_idle: Tells whether a consumer of a queue may get nothing though there is something, as
            all but one of a queue with a single active consumer.
        may_be_deaf: Tells whether the broker may deliver to a consumer what never reaches it.
    """

    def __init__(
        self,
        count: Callable[[str], Awaitable[QueueCount]],
        may_idle: Callable[[str], bool],
        may_be_deaf: Callable[[], bool],
    ) -> None:
        self._count = count
        self._may_idle = may_idle
        self._may_be_deaf = may_be_deaf
        self._channels: dict[ConsumeChannel, _Seen] = {}
        self.interval = INTERVAL
        self.renew_after = RENEW_AFTER

    @contextmanager
    def watching(self, channel: ConsumeChannel) -> Generator[None]:
        """Look after a channel."""
        self._channels[channel] = _Seen(0, trio.current_time())
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
        seen = self._channels.get(channel)
        if seen is None:  # It has ended meanwhile.
            return
        if channel.arrived != seen.arrived or not channel.has_room:
            self._channels[channel] = _Seen(channel.arrived, trio.current_time())
            return
        for queue in channel.queues:
            if self._may_idle(queue):
                continue
            try:
                waiting = (await self._count(queue)).messages
            except QueueMissing as exc:
                channel.interrupt(exc)
                return
            if waiting and channel.arrived == seen.arrived:
                seen.suspicions += 1
                if seen.suspicions >= _SUSPICIONS:
                    text = f"queue {queue!r} has {waiting} messages, and none is delivered"
                    channel.interrupt(QueueMissing(text))
                return
        seen.suspicions = 0
        is_late = trio.current_time() >= seen.idle_since + self.renew_after
        if is_late and self._is_to_be_renewed(channel):
            channel.interrupt(SubscriptionRenewed(f"nothing came for {self.renew_after:g} s"))

    def _is_to_be_renewed(self, channel: ConsumeChannel) -> bool:
        is_idle = not channel.on_loan and not any(map(self._may_idle, channel.queues))
        return is_idle and self._may_be_deaf()
