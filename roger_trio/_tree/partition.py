"""The partition: a tenant's queues on this node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import attrs
import trio

from .consumer import QueueConsumer
from .control import Control
from .membership import CLEAN_UP_TIMEOUT, Membership
from .performing import Running
from .supervise import RestartPolicy, supervise

logger = logging.getLogger(__name__)


@attrs.frozen
class QueueChanges:
    """What it takes to get from the queues there are to those there shall be."""

    start: Mapping[str, int]
    resize: Mapping[str, int]
    stop: tuple[str, ...]


def diff(current: Mapping[str, int], wanted: Mapping[str, int]) -> QueueChanges:
    """Decide what a reconfiguration does.

    Args:
        current: Queue to max workers, as it is; 0 for a queue that is running dry.
        wanted: Queue to max workers, as it shall be, complete.
    """
    return QueueChanges(
        start={queue: size for queue, size in wanted.items() if queue not in current},
        resize={
            queue: size
            for queue, size in wanted.items()
            if queue in current and current[queue] != size
        },
        stop=tuple(queue for queue in current if queue not in wanted),
    )


class Partition:
    """One partition on this node: a supervised consumer for each of its queues, and a coordinator.

    Args:
        id: The partition's name.
        queues: Queue to max workers.
        make_consumer: Makes the consumer of a queue of this partition.
        membership: Its part in the cluster.
        shutdown_timeout: Seconds running jobs get when the partition stops.
    """

    def __init__(
        self,
        id: str,
        queues: Mapping[str, int],
        make_consumer: Callable[[str, str, int, Control], QueueConsumer],
        membership: Membership,
        shutdown_timeout: float,
    ) -> None:
        self.id = id
        self._wanted = dict(queues)
        self._make_consumer = make_consumer
        self.membership = membership
        """Its part in the cluster."""
        membership.consumers = lambda: list(self._consumers.values())
        self._shutdown_timeout = shutdown_timeout
        self._consumers: dict[str, QueueConsumer] = {}
        self._nursery: trio.Nursery | None = None
        self._begun = trio.Event()
        self._reconfiguring = trio.Lock()
        self._grace = trio.CancelScope()
        self.stopping = trio.Event()
        """Set once it has been asked to stop."""
        self.ended = trio.Event()
        """Set once it has stopped."""

    # What it is doing...

    @property
    def queues(self) -> Mapping[str, int]:
        """Queue to max workers, as configured."""
        return dict(self._wanted)

    @property
    def consumers(self) -> Mapping[str, QueueConsumer]:
        """The consumers of its queues; also of those that were left out and run dry."""
        return dict(self._consumers)

    @property
    def running(self) -> list[Running]:
        """The jobs that run now."""
        return [job for consumer in self._consumers.values() for job in consumer.running]

    async def wait_tried(self) -> None:
        """Wait until every queue has been consumed, or refused by the broker."""
        await self._begun.wait()
        for consumer in list(self._consumers.values()):
            if consumer.max_workers:
                await consumer.tried.wait()

    # Running...

    async def run(self) -> None:
        """Run until `stop`, then let jobs end in time, and cancel the rest."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            # Else one that is asked to stop at once would wait for an end before the beginning.
            await nursery.start(self.membership.run, name=f"{self.id}-.coordinator")
            try:
                for queue, max_workers in self._wanted.items():
                    self._start_consumer(queue, max_workers)
                self._begun.set()
                await self.stopping.wait()
                logger.info("partition %r stops", self.id)
                await self._wind_down(nursery)
                await self.membership.leave()
            finally:
                self._nursery = None
                self._consumers.clear()

    def stop(self) -> None:
        """Ask the partition to stop; `ended` is set when it has."""
        self.stopping.set()

    def stop_now(self) -> None:
        """Ask it to stop, and give its running jobs no time."""
        self.stop()
        self._grace.cancel()

    def _start_consumer(self, queue: str, max_workers: int) -> None:
        if self._nursery is None or self.stopping.is_set():
            return  # A partition that waits for its restart starts what is wanted then.
        consumer = self._make_consumer(self.id, queue, max_workers, self.membership.control)
        self.membership.prepare(queue, consumer)
        self._consumers[queue] = consumer
        self._nursery.start_soon(self._supervise, queue, consumer, name=f"{self.id}-{queue}")

    async def _supervise(self, queue: str, consumer: QueueConsumer) -> None:
        name = f"queue {queue!r} of partition {self.id!r}"
        stopping = consumer.stopping
        await supervise(consumer.run, name=name, policy=RestartPolicy(), stopping=stopping)
        if self._consumers.get(queue) is consumer:
            del self._consumers[queue]

    async def _wind_down(self, nursery: trio.Nursery) -> None:
        """Stop the intake, give running jobs their time, cancel what is left."""
        consumers = list(self._consumers.values())
        for consumer in consumers:
            consumer.stop()
        with self._grace:
            self._grace.deadline = trio.current_time() + self._shutdown_timeout
            for consumer in consumers:
                await consumer.wait_drained()
        with trio.move_on_after(CLEAN_UP_TIMEOUT):
            # What is given back while we still take jobs comes back to us, and seems to have died.
            for consumer in consumers:
                await consumer.intake_closed.wait()
        for consumer in consumers:
            consumer.stop_jobs()
        with trio.move_on_after(CLEAN_UP_TIMEOUT):
            for consumer in list(self._consumers.values()):
                await consumer.wait_drained()
            return
        logger.error(
            "partition %r: jobs did not end %g s after they were cancelled; they are left behind",
            self.id,
            CLEAN_UP_TIMEOUT,
        )
        nursery.cancel_scope.cancel()

    # Reconfiguring...

    async def reconfigure(self, queues: Mapping[str, int]) -> None:
        """Have exactly these queues consumed; those left out run dry, and running jobs finish.

        Cancellation: a change that has begun is made whole.
        """
        await trio.lowlevel.checkpoint()
        if not self._begun.is_set():  # It starts with them when its turn comes.
            self._wanted = dict(queues)
            return
        async with self._reconfiguring:
            with trio.CancelScope(shield=True):
                await self._apply(queues)

    async def _apply(self, queues: Mapping[str, int]) -> None:
        self._wanted = dict(queues)
        consumers = self.consumers
        current = {queue: each.max_workers for queue, each in consumers.items()}
        changes = diff(current, queues)
        for queue in changes.stop:
            await self._retire(queue, consumers[queue])
        for queue, max_workers in changes.resize.items():
            consumer = self._consumers.get(queue)
            if consumer is not None:
                await consumer.resize(max_workers)
            else:  # It ran dry and was dismissed meanwhile.
                self._start_consumer(queue, max_workers)
        for queue, max_workers in changes.start.items():
            self._start_consumer(queue, max_workers)

    async def _retire(self, queue: str, consumer: QueueConsumer) -> None:
        """Have a queue run dry; its consumer stays until then, and may be called back."""
        await consumer.resize(0)
        if self._nursery is not None:
            self._nursery.start_soon(self._dismiss, queue, consumer)

    async def _dismiss(self, queue: str, consumer: QueueConsumer) -> None:
        await consumer.wait_drained()
        if not consumer.max_workers and self._consumers.get(queue) is consumer:
            del self._consumers[queue]
            consumer.stop()

    async def drain(self) -> None:
        """Take no more jobs, and wait for the running ones, however long they take."""
        await self.reconfigure({})
        for consumer in list(self._consumers.values()):
            await consumer.wait_drained()
