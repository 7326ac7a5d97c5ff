"""Many partitions start a few at a time, and none of them holds up the others for good."""

from __future__ import annotations

from typing import cast

import trio
import trio.testing

import roger_trio as roger
from roger_trio._tree.partition import Partition
from roger_trio._tree.starts import Starts


class Fake:
    """The events of a partition."""

    def __init__(self) -> None:
        self.tried = trio.Event()
        self.stopping = trio.Event()
        self.ended = trio.Event()

    async def wait_tried(self) -> None:
        await self.tried.wait()

    @property
    def partition(self) -> Partition:
        return cast("Partition", self)


async def start_all(nursery: trio.Nursery, starts: Starts, fakes: list[Fake]) -> list[Fake]:
    """Let partitions ask for places; return those that got one, a list that grows."""
    started: list[Fake] = []

    async def host(each: Fake) -> None:
        if await starts.wait_place(each.partition):
            started.append(each)
            await starts.see_start(each.partition)

    for each in fakes:
        nursery.start_soon(host, each)
        await trio.testing.wait_all_tasks_blocked()
    return started


async def test_a_few_start_at_a_time_in_order() -> None:
    """A place is free again once its partition consumes or was refused, or has ended."""
    fakes = [Fake() for _ in range(5)]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            started = await start_all(nursery, Starts(2), fakes)
            assert started == fakes[:2]
            fakes[1].tried.set()
            await trio.testing.wait_all_tasks_blocked()
            assert started == fakes[:3]
            fakes[0].ended.set()
            await trio.testing.wait_all_tasks_blocked()
            assert started == fakes[:4]
            nursery.cancel_scope.cancel()


async def test_one_that_is_stopped_while_it_waits_takes_no_place() -> None:
    """It ends at once, and the next one in line gets the place."""
    fakes = [Fake() for _ in range(3)]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            started = await start_all(nursery, Starts(1), fakes)
            fakes[1].stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            fakes[0].tried.set()
            await trio.testing.wait_all_tasks_blocked()
            assert started == [fakes[0], fakes[2]]
            nursery.cancel_scope.cancel()


async def test_a_node_with_many_partitions_is_ready_and_stops(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """More partitions than there are places all consume, and time need not pass for it."""
    names = [f"p{number}" for number in range(100)]
    config = roger.Config(broker="memory:", partitions={name: {"default": 1} for name in names})
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        found = (await node.running_partitions())[node.name]
        assert set(found) == set(names)
        # Had answers been lost, they would have been asked for again, seconds later.
        assert trio.current_time() - began < 1.5
        nursery.cancel_scope.cancel()
