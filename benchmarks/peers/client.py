"""What every peer's client does: enqueue, and measure that. Only the standard library."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from .order import Order

Metrics = dict[str, float]
One = Callable[[str, int], Awaitable[object]]
"""Enqueue a job of a kind with a number; return once it is confirmed."""
Many = Callable[[str, Sequence[int]], Awaitable[object]]
"""Enqueue jobs of a kind in the fastest documented way; return once all are confirmed."""

BATCH: Final = 1000
"""Jobs enqueued at a time."""
GAP: Final = 0.02
"""Seconds that a worker is idle before the next job."""


async def run(
    order: Order, one: One, many: Many, sleep: Callable[[float], Awaitable[object]]
) -> None:
    """Carry out an order, and write the figures to standard output."""
    match order.task:
        case "enqueue":
            metrics = await _measure(order, lambda number: one(order.kind, number), 1)
        case "enqueue_many":
            metrics = await _measure(
                order, lambda start: many(order.kind, range(start, start + BATCH)), BATCH
            )
        case "stamps":
            metrics = await _send_stamps(order, one, sleep)
        case _:
            raise ValueError(f"task: expected one of a client, got {order.task!r}")
    print(json.dumps(metrics), flush=True)


async def _measure(order: Order, operate: Callable[[int], Awaitable[object]], size: int) -> Metrics:
    """Enqueue `size` jobs at a time until the count or the time is reached."""
    numbers = itertools.count(0, size)
    for _ in range(0, order.warm_up, size):
        await operate(next(numbers))
    done = 0
    began, cpu = time.perf_counter(), time.process_time()
    while done < order.count and time.perf_counter() - began < order.seconds:
        await operate(next(numbers))
        done += size
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    return {"cpu_us": cpu / done * 1e6, "per_second": done / wall, "sent": next(numbers)}


async def _send_stamps(
    order: Order, one: One, sleep: Callable[[float], Awaitable[object]]
) -> Metrics:
    for _ in range(order.warm_up + order.count):
        await sleep(GAP)
        await one("stamp", time.monotonic_ns())
    return {}
