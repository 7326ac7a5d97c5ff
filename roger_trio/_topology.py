"""The broker queues that stand behind a partition's queue, and their names.

::

    myapp-default              the jobs
    myapp-default.redelivered  jobs that came back unsettled, on their way to a second start
    myapp-default.buried       jobs that are over for good, with the error that ended them

and behind the partition::

    myapp-.coordinator         commands to the one coordinator of the partition
    myapp-.waiting             jobs that wait for an execution key
    myapp-.state               what the partition remembers, where a `BrokerPersister` keeps it

A queue name has no ``-`` and no ``.``, so the last ``-`` ends the partition's name, and no two
partitions ever share a broker queue.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import attrs

from ._brokers.base import QueueSpec


@attrs.frozen
class QueueNames:
    """The broker queues of one queue of one partition."""

    work: str
    redelivered: str
    buried: str

    @classmethod
    def of(cls, prefix: str, partition: str, queue: str) -> QueueNames:
        """Name them.

        Args:
            prefix: The cluster's prefix, put verbatim in front.
            partition: A valid partition name.
            queue: A valid queue name.
        """
        work = f"{prefix}{partition}-{queue}"
        return cls(work, f"{work}.redelivered", f"{work}.buried")

    def specs(self) -> tuple[QueueSpec, ...]:
        """Say how they are declared; a dead-letter target comes before its source."""
        return _specs(self)


@lru_cache(maxsize=4096)  # Each enqueue asks.
def _specs(names: QueueNames) -> tuple[QueueSpec, ...]:
    return (
        QueueSpec(name=names.buried),
        QueueSpec(name=names.redelivered, dead_letter=names.buried),
        QueueSpec(name=names.work, dead_letter=names.buried, takes_delayed=True),
    )


@attrs.frozen
class PartitionNames:
    """The broker queues of one partition that belong to none of its queues."""

    coordinator: str
    waiting: str
    state: str

    @classmethod
    def of(cls, prefix: str, partition: str) -> PartitionNames:
        """Name them.

        Args:
            prefix: The cluster's prefix, put verbatim in front.
            partition: A valid partition name.
        """
        stem = f"{prefix}{partition}-"
        return cls(f"{stem}.coordinator", f"{stem}.waiting", f"{stem}.state")

    def specs(self) -> tuple[QueueSpec, ...]:
        """Say how those are declared that every partition has."""
        return (self.coordinator_spec(), self.waiting_spec())

    def coordinator_spec(self) -> QueueSpec:
        """Say how the queue of commands is declared."""
        return QueueSpec(name=self.coordinator, single_active=True)

    def waiting_spec(self) -> QueueSpec:
        """Say how the queue of waiting jobs is declared."""
        return QueueSpec(name=self.waiting, forwards=True)

    def state_spec(self) -> QueueSpec:
        """Say how the queue that keeps state is declared: whoever reads it has it to itself."""
        return QueueSpec(name=self.state, single_active=True)


NODES_TOPIC: Final = "nodes"
"""What is broadcast to all nodes of the cluster."""


def inbox_topic(token: str) -> str:
    """Name the topic on which one node or client hears what is meant for it alone."""
    return f"inbox.{token}"


_MAX_TOPIC_BYTES: Final = 200
"""Well above all that there are; a broker has room for 255, a prefix of its own included."""


def is_topic(name: str) -> bool:
    """Tell whether anybody can listen at a topic: names come from the wire, too."""
    return 0 < len(name) <= _MAX_TOPIC_BYTES and len(name.encode()) <= _MAX_TOPIC_BYTES
