"""What nodes tell of what they run: written by one, read strictly by another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs

from .._info import NodeInfo, QueueInfo
from .._jobs.envelope import Envelope, JobError
from .roster import (
    Card,
    Identity,
    Unreadable,
    list_of,
    mapping_of,
    numbers_of,
    text_of,
    time_of,
    whole_of,
)

INFO: Final[Mapping[str, Any]] = {"ask": "info"}
"""The question that `Info` answers."""

CLOCK: Final[Mapping[str, Any]] = {"ask": "clock"}
"""The question that `dump_clock` answers."""

Running = Mapping[str, Mapping[str, QueueInfo]]
"""Partition → queue → what runs."""
Waiting = Mapping[str, Mapping[str, int]]
"""Partition → queue → max workers."""


@attrs.frozen(kw_only=True)
class Info:
    """What one node tells of itself."""

    node: NodeInfo
    running: Running
    waiting: Waiting


def node_info(identity: Identity, partitions: Waiting, *, answering: bool = True) -> NodeInfo:
    """Describe a node for a user."""
    return NodeInfo(
        host=identity.host,
        pid=identity.pid,
        version=identity.version,
        started_at=identity.started_at,
        partitions=partitions,
        answering=answering,
    )


def silent_node(card: Card) -> NodeInfo:
    """Describe a node that does not answer, as it was last heard."""
    return node_info(card.identity, card.partitions, answering=False)


def dump_info(info: Info) -> dict[str, Any]:
    """Write what a node tells of itself as JSON values."""
    node = info.node
    return {
        "host": node.host,
        "pid": node.pid,
        "version": node.version,
        "started_at": node.started_at.isoformat(),
        "partitions": {name: dict(queues) for name, queues in node.partitions.items()},
        "running": {
            name: {queue: attrs.asdict(each) for queue, each in queues.items()}
            for name, queues in info.running.items()
        },
        "waiting": {name: dict(queues) for name, queues in info.waiting.items()},
    }


def read_info(reply: Mapping[str, Any]) -> Info:
    """Read what a node tells of itself.

    Raises:
        Unreadable: It is something else.
    """
    return Info(
        node=NodeInfo(
            host=text_of(reply, "host"),
            pid=whole_of(reply, "pid"),
            version=text_of(reply, "version"),
            started_at=time_of(reply, "started_at"),
            partitions=_numbers(reply, "partitions"),
        ),
        running={
            name: {
                queue: _queue_info(mapping_of(each, "running"))
                for queue, each in mapping_of(queues, "running").items()
            }
            for name, queues in mapping_of(reply.get("running"), "running").items()
        },
        waiting=_numbers(reply, "waiting"),
    )


def _numbers(reply: Mapping[str, Any], key: str) -> dict[str, dict[str, int]]:
    fields = mapping_of(reply.get(key), key)
    return {name: numbers_of(queues, key) for name, queues in fields.items()}


def _queue_info(fields: Mapping[str, Any]) -> QueueInfo:
    paused = fields.get("paused")
    if type(paused) is not bool:
        raise Unreadable(f"paused: expected true or false, got {type(paused).__name__}")
    return QueueInfo(
        max_workers=whole_of(fields, "max_workers"),
        paused=paused,
        message_count=whole_of(fields, "message_count"),
        consumer_count=whole_of(fields, "consumer_count"),
        running=whole_of(fields, "running"),
    )


def dump_clock(now: datetime) -> dict[str, Any]:
    """Write what time a node has."""
    return {"now": now.isoformat()}


def read_clock(reply: Mapping[str, Any]) -> datetime:
    """Read what time a node has.

    Raises:
        Unreadable: It is something else.
    """
    return time_of(reply, "now")


# Jobs...


def ask_jobs(partition: str | None) -> dict[str, Any]:
    """Make the question that `dump_jobs` answers; None: of all partitions."""
    return {"ask": "jobs", "partition": partition}


def dump_jobs(jobs: Mapping[str, Sequence[Envelope]]) -> dict[str, Any]:
    """Write which jobs run, by partition, as JSON values; arguments included."""
    return {"jobs": {name: [each.as_json() for each in found] for name, found in jobs.items()}}


def read_jobs(reply: Mapping[str, Any]) -> dict[str, list[Envelope]]:
    """Read which jobs run, by partition.

    Raises:
        Unreadable: It is something else.
    """
    return {
        name: [_envelope(mapping_of(each, "jobs")) for each in list_of(found, "jobs")]
        for name, found in mapping_of(reply.get("jobs"), "jobs").items()
    }


def _envelope(fields: Mapping[str, Any]) -> Envelope:
    error, limit = fields.get("error"), fields.get("max_execution_time")
    if limit is not None and type(limit) not in (int, float):
        raise Unreadable(f"max_execution_time: expected seconds, got {type(limit).__name__}")
    return Envelope(
        id=text_of(fields, "id"),
        name=text_of(fields, "name"),
        args=mapping_of(fields.get("args"), "args"),
        partition=text_of(fields, "partition"),
        queue=text_of(fields, "queue"),
        queue_key=_optional_text(fields, "queue_key"),
        execution_key=_optional_text(fields, "execution_key"),
        retry_count=whole_of(fields, "retry_count"),
        queued_at=time_of(fields, "queued_at"),
        started_at=None if fields.get("started_at") is None else time_of(fields, "started_at"),
        max_execution_time=limit,
        redelivered=fields.get("redelivered") is True,
        deaths=whole_of(fields, "deaths"),
        edition=whole_of({"edition": 0, **fields}, "edition"),
        moves=whole_of({"moves": 0, **fields}, "moves"),
        orphaned=fields.get("orphaned") is True,
        error=None if error is None else _error(mapping_of(error, "error")),
    )


def _optional_text(fields: Mapping[str, Any], key: str) -> str | None:
    return None if fields.get(key) is None else text_of(fields, key)


def _error(fields: Mapping[str, Any]) -> JobError:
    return JobError(
        type=text_of(fields, "type"),
        message=text_of(fields, "message"),
        traceback=text_of(fields, "traceback"),
        buried_at=time_of(fields, "buried_at"),
    )
