"""The broker queues of a run: their names, and their end."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq

from roger_trio._brokers.rabbitmq import topology
from roger_trio._topology import QueueNames


def declarations(prefix: str, partition: str) -> list[tuple[str, dict[str, Any]]]:
    """Say how roger_trio declares the queue "default" of a partition; the jobs are in the last."""
    specs = QueueNames.of(prefix, partition, "default").specs()
    return [(each.name, dict(topology.queue_arguments(each))) for each in specs]


def delete(url: str, queues: list[str]) -> None:
    """Delete queues with all they hold; those that are not there are fine."""
    asyncio.run(_delete(url, queues, []))


def delete_shared(url: str, prefix: str) -> None:
    """Delete the queues and exchanges that all partitions share."""
    levels = [topology.level_name(prefix, level) for level in range(topology.LEVELS)]
    ends = [topology.last_exchange(prefix), topology.marker_exchange(prefix)]
    asyncio.run(_delete(url, levels, [*levels, *ends]))


async def _delete(url: str, queues: list[str], exchanges: list[str]) -> None:
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        for queue in queues:
            await channel.queue_delete(queue)
        for exchange in exchanges:
            await channel.exchange_delete(exchange)
