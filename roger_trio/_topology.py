"""The broker queues that stand behind a partition's queue, and their names.

::

    myapp-default              the jobs
    myapp-default.redelivered  jobs that came back unsettled, on their way to a second start
    myapp-default.buried       jobs that are over for good, with the error that ended them

A queue name has no ``-`` and no ``.``, so the last ``-`` ends the partition's name, and no two
partitions ever share a broker queue.
"""

from __future__ import annotations

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
        return (
            QueueSpec(name=self.buried),
            QueueSpec(name=self.redelivered, dead_letter=self.buried),
            QueueSpec(name=self.work, dead_letter=self.buried, takes_delayed=True),
        )
