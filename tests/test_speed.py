"""No hot path costs half as much CPU time again as it did: a guard, not a benchmark."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from tests.speed import (
    MEMORY,
    RABBITMQ,
    HotPath,
    Measure,
    measure,
    on_memory,
    on_rabbitmq,
    too_slow,
)


def is_traced() -> bool:
    """Tell whether something watches every line, such as coverage: then figures mean nothing."""
    monitoring = getattr(sys, "monitoring", None)  # From Python 3.12 on.
    tools = (monitoring.get_tool(number) for number in range(6)) if monitoring else ()
    return sys.gettrace() is not None or sys.getprofile() is not None or any(tools)


pytestmark = pytest.mark.skipif(is_traced(), reason="every line is watched, which takes its time")


async def assert_fast(
    paths: Sequence[HotPath], running: AbstractAsyncContextManager[Mapping[str, Measure]]
) -> None:
    """Measure; on a failure once more, as the whole of it may have met a bad moment."""
    async with running as measures:
        costs = await measure(paths, measures)
        slow = [each for each in paths if costs[each.name] > each.bound]
        if slow:
            again = await measure(slow, measures)
            costs.update({name: min(costs[name], cost) for name, cost in again.items()})
    assert not too_slow(paths, costs), "\n".join(too_slow(paths, costs))


async def test_hot_paths_cost_no_more_cpu_time() -> None:
    """Codec, enqueueing, performing and keys stay within their bounds, on the memory broker."""
    await assert_fast(MEMORY, on_memory())


async def test_hot_paths_to_rabbitmq_cost_no_more_cpu_time(
    amqp_url: str, prefix: str, partition: str
) -> None:
    """Enqueueing and performing stay within their bounds on RabbitMQ, of which there is one."""
    await assert_fast(RABBITMQ, on_rabbitmq(amqp_url, prefix, partition))


def test_a_slow_path_is_told_with_what_to_do() -> None:
    """The failure says what was measured, what is allowed, and how to look closer."""
    path = MEMORY[0]
    costs = {each.name: each.bound for each in MEMORY} | {path.name: 2 * path.bound}
    [text] = too_slow(MEMORY, costs)
    assert f"{path.name}: one job costs {2 * path.bound:.2f} units" in text
    assert f"at most {path.bound:g}" in text
    assert f"python -m cProfile -s tottime -m tests.speed {path.name}" in text
