"""Frozen snapshots of what runs: what the command line, operators and tests read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Final, Literal, TypeVar

import attrs

V = TypeVar("V")

VERSION: Final = "0.1.0"
"""The version of this package."""


@attrs.frozen(kw_only=True)
class QueueInfo:
    """One queue of a partition, as one node sees it."""

    max_workers: int
    """Jobs of it that may run at once on this node."""
    paused: bool
    """Whether it is paused."""
    message_count: int
    """Jobs ready for delivery in the broker, for all nodes together; without delayed ones."""
    consumer_count: int
    """Nodes that consume it."""
    running: int
    """Jobs of it that run on this node now."""


@attrs.frozen(kw_only=True)
class NodeInfo:
    """One node of the cluster."""

    host: str
    """The host it runs on."""
    pid: int
    """Its process id there."""
    version: str
    """Its version of roger_trio."""
    started_at: datetime
    """When it started; aware, UTC."""
    partitions: Mapping[str, Mapping[str, int]]
    """Its partitions: queue to max workers; of a node that does not answer, as last heard."""
    answering: bool = True
    """Whether it answered. One that does not is frozen, busy, or has just died."""


@attrs.frozen(kw_only=True)
class Health:
    """How a node is: what `Node.health` and ``roger health`` tell."""

    node: str
    """Its name."""
    live: bool
    """Whether it runs. What does not even answer is not live; a restart may help."""
    ready: bool
    """Whether it consumes all that it shall, and the broker takes messages. A node that is not
    ready becomes so by itself: it starts, waits for its broker, or stops."""
    reasons: tuple[str, ...]
    """Why it is not ready, in words; empty if it is."""


@attrs.frozen(kw_only=True)
class KeyInfo:
    """A key that a job holds."""

    key: str
    """The key."""
    kind: Literal["queue", "execution"]
    """Whether it is a queue key or an execution key."""
    job_id: str
    """The job that holds it."""
    queue: str
    """The queue of that job."""
    since: datetime
    """When the job took it; aware, UTC."""
    node: str | None = None
    """The node the job was last started on; None: on none yet."""
    waiting: int = 0
    """Jobs that wait for it: an execution key's only."""


class CancelResult(Enum):
    """What `Client.cancel` found, and what it did about it."""

    STOPPED = "stopped"
    """It was running, and has been stopped; `Callbacks.on_cancel` is called, no other callback."""
    STOPPING = "stopping"
    """It was running and has been told to stop; when the call returned it was still cleaning up.
    However it ends, it counts as cancelled."""
    UNSTOPPABLE = "unstoppable"
    """It is a plain function running in a thread, which cannot be stopped: it goes on to its end,
    and then counts as cancelled: nothing is retried."""
    RECORDED = "recorded"
    """It is not running. If it is met, it will not be started."""
    FINISHED = "finished"
    """It had ended before: done, discarded, buried or cancelled. Nothing was changed."""


class Answers(dict[str, V]):
    """What the nodes of the cluster answered: node name to answer.

    A `dict` that also names the nodes that did not answer in time.
    """

    def __init__(self, answers: Mapping[str, V], not_answering: Iterable[str] = ()) -> None:
        super().__init__(answers)
        self.not_answering: frozenset[str] = frozenset(not_answering)
        """Names of nodes that are known and listen, and did not answer within the deadline."""
