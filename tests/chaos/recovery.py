"""How soon all queues are consumed again after the broker came back, seen from outside."""

from __future__ import annotations

import time
from typing import Final

import trio

from .brokers import RabbitSide
from .schedule import Fault
from .system import System

_LOOK_EVERY: Final = 0.1
GAVE_UP_AFTER: Final = 15.0
"""Seconds for which one looks; then that is the figure."""


async def watch_recovery(system: System, fault: Fault, *, is_calm: bool) -> None:
    """Note when each queue is consumed again.

    The broker's consumers are asked for by an AMQP client that shares no code with roger_trio.

    Args:
        system: The system.
        fault: What took the broker away; it is back.
        is_calm: Whether nothing else was struck meanwhile.
    """
    side = system.broker
    assert isinstance(side, RabbitSide)
    back = time.monotonic()
    while time.monotonic() < back + GAVE_UP_AFTER:
        counts = await trio.to_thread.run_sync(side.consumers)
        if min(counts.values()) >= 1:
            seconds = time.monotonic() - back
            break
        await trio.sleep(_LOOK_EVERY)
    else:
        seconds = GAVE_UP_AFTER
    system.journal.note("consumed again", number=fault.number, seconds=seconds, calm=is_calm)
