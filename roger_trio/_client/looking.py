"""Look at the jobs that wait in queues."""

from __future__ import annotations

from .._brokers.base import Message
from .._jobs.envelope import Envelope
from .._messages import read, read_buried
from .._topology import QueueNames
from .base import ClientBase


class Looking(ClientBase):
    """The calls that look into queues."""

    async def queued_jobs(self, partition: str, queue: str, limit: int = 100) -> list[Envelope]:
        """Look at the jobs that wait in a queue, oldest first.

        The look changes neither their order nor their attempts. Delayed jobs are not in the queue
        until their time has come. A payload that is not a job shows up with the name ``""``.

        Args:
            partition: The partition.
            queue: The queue.
            limit: The most to return.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            found = await self._look_at_redelivered(names, partition, queue, limit)
            left = max(0, limit - len(found))
            async with self._broker.browse(names.work, left) as deliveries:
                return found + [read(each, partition, queue) for each in deliveries]

    async def _look_at_redelivered(
        self, names: QueueNames, partition: str, queue: str, limit: int
    ) -> list[Envelope]:
        """Look at the jobs that came back.

        What comes back to that queue once more counts as a death, so those that would be marked
        by the look are sent there anew.
        """
        async with self._broker.browse(names.redelivered, limit) as deliveries:
            found = [read(each, partition, queue) for each in deliveries]
            unmarked = [each for each in deliveries if not each.redelivered]
            anew = [Message(each.body, each.message_id) for each in unmarked]
            await self._broker.publish_many(names.redelivered, anew)
            for each in unmarked:
                each.ack()
        return found

    async def buried_jobs(self, partition: str, queue: str, limit: int = 100) -> list[Envelope]:
        """Look at the buried jobs of a queue, oldest first; each has its ``error``.

        Args:
            partition: The partition.
            queue: The queue.
            limit: The most to return.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            async with self._broker.browse(names.buried, limit) as deliveries:
                return [read_buried(each, partition, queue) for each in deliveries]
