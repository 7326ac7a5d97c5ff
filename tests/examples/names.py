"""What a run leaves on the broker, to be deleted when all tests have ended."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from roger_trio._brokers.rabbitmq import topology
from roger_trio._topology import PartitionNames, QueueNames


def note_names(
    prefix: str, queues: Iterable[tuple[str, str]], broker_queues: set[str], exchanges: set[str]
) -> None:
    """Add the names on the broker of partitions' queues and of the delays to those to delete."""
    for partition, queue in queues:
        broker_queues |= {each.name for each in QueueNames.of(prefix, partition, queue).specs()}
        broker_queues |= set(attrs.astuple(PartitionNames.of(prefix, partition)))
    levels = {topology.level_name(prefix, level) for level in range(topology.LEVELS)}
    broker_queues |= levels
    exchanges |= {*levels, topology.last_exchange(prefix), topology.marker_exchange(prefix)}
    exchanges.add(topology.topics_exchange(prefix))


def hurried(url: str) -> str:
    """Return a broker's URL without the second that a new queue takes to be crash-safe."""
    return f"{url}{'&' if '?' in url else '?'}queue_settle_time=0"
