"""Brokers and queues for the tests of the RabbitMQ bridge."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from roger_trio._brokers.base import Message, QueueSpec
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._config import AmqpConfig
from tests.conformance.kit import PATIENCE, Inbox, settles_at
from tests.proxy import Proxy


@asynccontextmanager
async def running(
    config: AmqpConfig, *, prefix: str = "", consumes: bool = True
) -> AsyncIterator[RabbitBroker]:
    """Run a broker; wherever it is left, it is closed in good order."""
    broker = RabbitBroker(config, prefix=prefix, name="bridge", consumes=consumes)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(broker.run)
        yield broker
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(config: AmqpConfig) -> AsyncIterator[tuple[Proxy, AmqpConfig]]:
    """Run a proxy in front of a broker; yield it and the way through it."""
    proxy = Proxy(config.host, config.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy, attrs.evolve(config, host="127.0.0.1", port=proxy.port)
        nursery.cancel_scope.cancel()


def configure(url: str, **changes: Any) -> AmqpConfig:
    """Make a configuration that does not wait for new queues to settle."""
    return attrs.evolve(AmqpConfig.from_url(url), **{"queue_settle_time": 0.0, **changes})


async def new_queue(broker: RabbitBroker, names: set[str], prefix: str = "") -> str:
    """Declare a fresh queue, to be deleted when the run ends."""
    name = f"{prefix}b-{secrets.token_hex(4)}"
    names.add(name)
    with trio.fail_after(PATIENCE):
        await broker.declare([QueueSpec(name=name, takes_delayed=True)])
    return name


async def ready(broker: RabbitBroker, queue: str) -> int:
    """Count what is ready in a queue."""
    return (await broker.count(queue)).messages


async def drained(broker: RabbitBroker, queue: str, wanted: set[bytes]) -> list[bytes]:
    """Consume a queue until all that is wanted has come; return the bodies in order."""
    inbox = Inbox(ack=True)
    async with broker.open_channel() as channel:
        await channel.subscribe(queue, prefetch=500, on_delivery=inbox.put)
        await settles_at(set(), lambda: wanted - set(inbox.bodies))
        await channel.flush()
    return inbox.bodies


async def works(broker: RabbitBroker, queue: str) -> None:
    """Check that a message goes in and comes out."""
    mark = secrets.token_bytes(6)
    with trio.fail_after(PATIENCE):
        await broker.publish(queue, Message(mark))
        await drained(broker, queue, {mark})
