"""Takes operations to the coordinators of partitions, and their answers back.

Those of one partition arrive in the order they came up in; see ``lane.py``. Answers come to the
inbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from .._brokers.base import Broker
from .._state.operations import Answer, Operation
from .._topology import PartitionNames
from .bus import Bus
from .lane import Call, Lane


class Courier:
    """Asks and tells the coordinators of partitions.

    Args:
        broker: The way to them.
        bus: Where their answers come in.
        prefix: The cluster's prefix.
    """

    def __init__(self, broker: Broker, bus: Bus, prefix: str) -> None:
        self._broker = broker
        self._bus = bus
        self._prefix = prefix
        self._lanes: dict[str, Lane] = {}
        self._nursery: trio.Nursery | None = None
        bus.on_answers = self._take_answers
        bus.on_again = self._repeat

    async def run(self) -> None:
        """Take operations on their way until cancelled; before that they wait."""
        try:
            async with trio.open_nursery() as self._nursery:
                for lane in self._lanes.values():
                    self._nursery.start_soon(lane.run)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def ask(self, partition: str, operation: Operation) -> Answer:
        """Ask a partition's coordinator, for as long as it takes: callers bound it.

        Raises:
            BrokerError: The broker will never take the operation.

        Cancellation: the operation may or may not be carried out; it is not sent any more.
        """
        return (await self.ask_many(partition, (operation,)))[0]

    async def ask_many(self, partition: str, operations: Sequence[Operation]) -> list[Answer]:
        """Ask several things at once; return the answers in the same order.

        Raises:
            BrokerError: The broker will never take one of them.

        Cancellation: as `ask`.
        """
        with self.asking(partition, operations) as call:
            await call.wait()
        return call.given

    def asking(self, partition: str, operations: Sequence[Operation]) -> Call:
        """Put operations in line at once; enter it, and wait for the answers as often as need be.

        Returns:
            The call. What is not answered when it is left is not sent any more.
        """
        call = Call(operations)
        if operations:
            self._lane(partition).add(call)
        else:
            call.end()
        return call

    def post(self, partition: str, operation: Operation) -> Callable[[], Awaitable[Answer]]:
        """Put an operation in line at once, for those who keep to an order; see `ask`.

        Returns:
            What waits for the answer.
        """
        call = self.asking(partition, (operation,))

        async def wait() -> Answer:
            with call:
                await call.wait()
            return call.given[0]

        return wait

    async def tell(self, partition: str, *operations: Operation) -> None:
        """Tell a coordinator what needs no answer; return once the broker keeps it.

        Where the partition has never run there is nobody to tell, and nothing to remember.

        Raises:
            BrokerError: The broker will never take one of them.

        Cancellation: it is told all the same.
        """
        if operations:
            call = Call(operations)
            self._lane(partition).add(call)
            await call.wait()

    def tell_soon(self, partition: str, *operations: Operation) -> None:
        """Tell a coordinator in the background what needs no answer."""
        self._lane(partition).add(Call(operations))

    async def flush(self) -> None:
        """Wait until the broker keeps all that has been told, or `run` has ended."""
        for lane in list(self._lanes.values()):
            await lane.flush()

    def _lane(self, partition: str) -> Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            queue = PartitionNames.of(self._prefix, partition).coordinator
            lane = self._lanes[partition] = Lane(self._broker, self._bus, queue)
            if self._nursery is not None:
                self._nursery.start_soon(lane.run)
        return lane

    def _repeat(self) -> None:
        for lane in self._lanes.values():
            lane.repeat()

    def _take_answers(self, partition: str, batch: int, answers: Sequence[Answer | None]) -> None:
        lane = self._lanes.get(partition)
        if lane is not None:
            lane.take_answers(batch, answers)
