"""What all workers of a queue share."""

from __future__ import annotations

import attrs

from .._brokers.base import Broker
from .._jobs.callbacks import Callbacks
from .._jobs.context import AmbientClient
from .._topology import QueueNames
from .control import Control
from .process_pool import ProcessPool


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """What all workers of a queue share."""

    partition: str
    queue: str
    names: QueueNames
    waiting: str
    """The broker queue of the jobs that wait for an execution key."""
    broker: Broker
    control: Control
    client: AmbientClient
    callbacks: Callbacks
    retry_levels: tuple[float, ...]
    max_deliveries: int
    max_buried: int | None
    processes: ProcessPool
    """The node's."""
