"""What a node or client needs to reach the nodes and coordinators of its cluster."""

from __future__ import annotations

import trio

from .._brokers.base import Broker
from .bus import Bus
from .courier import Courier
from .roster import Identity


class Controls:
    """A bus and a courier.

    Args:
        broker: The way to the others.
        prefix: The cluster's prefix.
        identity: Which node this is; None: a client.
    """

    def __init__(self, broker: Broker, prefix: str, identity: Identity | None = None) -> None:
        self.bus: Bus = Bus(broker, identity)
        self.courier: Courier = Courier(broker, self.bus, prefix)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run both until cancelled; started once answers are heard, or the broker is away."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.courier.run)
            await self.bus.run(task_status=task_status)
