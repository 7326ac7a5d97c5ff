"""How queues are declared on RabbitMQ, and the levels that make delays.

Delays need no plugin: there is one permanent queue per power of two, its messages dead-letter
after that time, and a topic exchange in front of each level sends a message through the level or
past it, by one binary digit of its routing key. So there is no head-of-line blocking (within a
level all wait equally long), no queue that expires with jobs in it, and any number of delays. The
scheme is NServiceBus's "delayed delivery"; the arguments are the ones that lost nothing when the
broker was killed while messages expired: quorum queues, dead-lettering at least once.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

from ..base import QueueSpec
from .versions import TIMEOUT_WANTED_MS

Arguments = dict[str, str | int]

UNIT: Final = 0.125
"""Seconds the lowest level waits: the grain of all delays, rounded up."""
LEVELS: Final = 31
"""Levels there are; the top one waits 4.25 years."""
MAX_DELAY: Final = (2**LEVELS - 1) * UNIT
"""Longest delay, in seconds: 8.5 years."""

_DELIVERY_LIMIT: Final = 1_000_000
"""Returns the broker bears before it dead-letters. Never left to the default, which drops jobs
after 20 on RabbitMQ 4; -1 is no way out, 3.10 takes it for 0."""
_NO_DELIVERY_LIMIT: Final = 2**40

_AT_LEAST_ONCE: Final[Arguments] = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def queue_arguments(spec: QueueSpec) -> Arguments:
    """Return the arguments a queue is declared with.

    A queue that forwards has a dead-letter exchange and no routing key: what is rejected keeps the
    key it was published with, which is the name of the queue that it is to go on to.

    Raises:
        ValueError: What the queue shall do cannot be had together.
    """
    if spec.forwards and (spec.dead_letter is not None or spec.takes_delayed):
        raise ValueError(
            f"queue {spec.name!r} forwards, and so has no dead-letter target and takes no delayed "
            f"messages, got dead_letter={spec.dead_letter!r}, takes_delayed={spec.takes_delayed}"
        )
    arguments: Arguments = {
        "x-queue-type": "quorum",
        "x-consumer-timeout": TIMEOUT_WANTED_MS,
        "x-delivery-limit": _NO_DELIVERY_LIMIT,
    }
    if spec.dead_letter is not None:
        arguments |= _AT_LEAST_ONCE | {
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": spec.dead_letter,
        }
    if spec.forwards:
        arguments |= _AT_LEAST_ONCE | {"x-dead-letter-exchange": ""}
    if spec.single_active:
        arguments["x-single-active-consumer"] = True
    return arguments


def topics_exchange(prefix: str) -> str:
    """Return the exchange that hands broadcasts to those who listen; topics are its keys."""
    return f"{prefix}roger.topics"


def level_name(prefix: str, level: int) -> str:
    """Return the name of a level's queue and exchange."""
    return f"{prefix}roger.delay.{level:02}"


def level_arguments(prefix: str, level: int) -> Arguments:
    """Return the arguments a level's queue is declared with."""
    return _AT_LEAST_ONCE | {
        "x-queue-type": "quorum",
        "x-delivery-limit": _NO_DELIVERY_LIMIT,
        "x-message-ttl": int(2**level * UNIT * 1000),
        "x-dead-letter-exchange": exchange_below(prefix, level),
    }


def exchange_below(prefix: str, level: int) -> str:
    """Return the exchange a message goes to from `level`: the next lower level's, or the last."""
    return level_name(prefix, level - 1) if level else last_exchange(prefix)


def last_exchange(prefix: str) -> str:
    """Return the exchange that puts delayed messages into the queue they are for."""
    return f"{prefix}roger.delay.done"


def unroutable(prefix: str) -> str:
    """Return the queue, and the exchange before it, for messages whose queue was deleted.

    Without it they would stay at the end of their level, and hold up those behind them.
    """
    return f"{prefix}roger.delay.unroutable"


def last_arguments(prefix: str) -> Arguments:
    """Return the arguments the last exchange is declared with."""
    return {"alternate-exchange": unroutable(prefix)}


def marker_exchange(prefix: str) -> str:
    """Return the exchange that is declared last: where it exists, all levels do."""
    return f"{prefix}roger.delay.ready-{LEVELS}"


def level_pattern(level: int, *, through: bool) -> str:
    """Return the binding pattern that matches keys whose digit of `level` is 1 (or 0)."""
    digits = ["*"] * LEVELS
    digits[LEVELS - 1 - level] = "1" if through else "0"
    return ".".join((*digits, "*"))


def destination_pattern(queue: str) -> str:
    """Return the pattern that binds a queue to the last exchange."""
    return ".".join((*["*"] * LEVELS, _word(queue)))


def delay_route(prefix: str, queue: str, delay: float) -> tuple[str, str]:
    """Decide the exchange and routing key that bring a message to `queue` after `delay`.

    Args:
        prefix: The cluster's prefix.
        queue: Where the message shall end.
        delay: Seconds above 0, at most `MAX_DELAY`; rounded up to a whole `UNIT`.
    """
    units = math.ceil(delay / UNIT)
    digits = f"{units:0{LEVELS}b}"
    top = units.bit_length() - 1
    return level_name(prefix, top), ".".join((*digits, _word(queue)))


def _word(queue: str) -> str:
    """Name a queue by one word of fixed length without dots: keys and names end at 255 bytes."""
    return hashlib.sha256(queue.encode()).hexdigest()[:32]
