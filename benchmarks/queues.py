"""The broker queues of a run: their names, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import aiormq
from aiormq.abc import AbstractConnection

from roger_trio._brokers.rabbitmq import topology
from roger_trio._topology import PartitionNames, QueueNames

T = TypeVar("T")

PATIENCE: Final = 60.0
"""Seconds that the broker may take; a broker that hangs shall not hang a run."""


def declarations(prefix: str, partition: str) -> list[tuple[str, dict[str, Any]]]:
    """Say how roger_trio declares the queue "default" of a partition; the jobs are in the last."""
    specs = QueueNames.of(prefix, partition, "default").specs()
    return [(each.name, dict(topology.queue_arguments(each))) for each in specs]


def partition_queues(prefix: str, partition: str) -> list[str]:
    """Name the broker queues that stand behind the partition itself."""
    names = PartitionNames.of(prefix, partition)
    return [names.coordinator, names.waiting, names.state]


def delete(url: str, queues: list[str]) -> None:
    """Delete queues with all they hold, and the exchanges in front of those that forward.

    What is not there is fine.
    """
    ask(url, lambda connection: _delete(connection, queues, queues))


def delete_shared(url: str, prefix: str) -> None:
    """Delete the queues and exchanges that all partitions share."""
    levels = [topology.level_name(prefix, level) for level in range(topology.LEVELS)]
    other = topology.unroutable(prefix)
    ends = [topology.last_exchange(prefix), topology.marker_exchange(prefix), other]
    exchanges = [*levels, *ends, topology.topics_exchange(prefix)]
    ask(url, lambda connection: _delete(connection, [*levels, other], exchanges))


def absent(url: str, exchanges: list[str]) -> list[str]:
    """Name those of the exchanges that are not there; who makes them then may delete them."""
    return ask(url, lambda connection: _absent(connection, exchanges))


def ask(url: str, question: Callable[[AbstractConnection], Awaitable[T]]) -> T:
    """Connect, put a question to the broker, and return its answer.

    Raises:
        TimeoutError: There was none in time.
        OSError, aiormq.AMQPError: The broker cannot be reached, or refuses.
    """

    async def connect_and_ask() -> T:
        async with asyncio.timeout(PATIENCE), aiormq.connect(url) as connection:
            return await question(connection)

    try:
        return asyncio.run(connect_and_ask())
    except TimeoutError as exc:
        raise TimeoutError(f"the broker gave no answer within {PATIENCE:g} s") from exc


async def _delete(connection: AbstractConnection, queues: list[str], exchanges: list[str]) -> None:
    channel = await connection.channel()
    for queue in queues:
        await channel.queue_delete(queue)
    for exchange in exchanges:
        await channel.exchange_delete(exchange)


async def _absent(connection: AbstractConnection, exchanges: list[str]) -> list[str]:
    missing: list[str] = []
    for exchange in exchanges:
        channel = await connection.channel()  # the broker closes it if there is no such exchange
        try:
            await channel.exchange_declare(exchange, passive=True)
            await channel.close()
        except aiormq.exceptions.ChannelNotFoundEntity:
            missing.append(exchange)
    return missing
