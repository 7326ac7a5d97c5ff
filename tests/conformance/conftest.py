"""The brokers that go through the suite."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import trio

from roger_trio._brokers.base import Broker, QueueSpec
from roger_trio._brokers.rabbitmq import topology
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._config import AmqpConfig
from tests.amqp import AmqpSession
from tests.conformance.kit import PATIENCE, Kit, settles_at
from tests.proxy import Proxy


@attrs.define(eq=False)
class RabbitKit:
    """RabbitMQ, reached through a proxy."""

    broker: RabbitBroker
    url: str
    prefix: str
    config: AmqpConfig
    proxy: Proxy
    queues: set[str]

    def new_name(self) -> str:
        name = f"{self.prefix}c-{secrets.token_hex(4)}"
        self.queues.add(name)
        return name

    @asynccontextmanager
    async def _other_broker(self) -> AsyncIterator[Broker]:
        other = RabbitBroker(self.config, prefix=self.prefix, name="other", consumes=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            yield other
            nursery.cancel_scope.cancel()

    def other_broker(self) -> AbstractAsyncContextManager[Broker]:
        return self._other_broker()

    async def delete_queue(self, name: str) -> None:
        def delete() -> None:
            with AmqpSession(self.url) as session:
                session.delete_queue(name)

        await trio.to_thread.run_sync(delete)

    async def lose_connection(self) -> None:
        links = (self.broker._consuming, self.broker._publishing)
        before = [link.generation for link in links]
        self.proxy.cut()
        for link, generation in zip(links, before, strict=True):
            await settles_at(False, lambda: link.is_up and link.generation == generation)  # noqa: B023


@pytest.fixture(params=["rabbitmq"])
async def kit(
    request: pytest.FixtureRequest,
    amqp_url: str,
    prefix: str,
    created_queues: set[str],
    created_exchanges: set[str],
) -> AsyncIterator[Kit]:
    """Run a broker of each kind."""
    assert request.param == "rabbitmq"
    levels = [topology.level_name(prefix, level) for level in range(topology.LEVELS)]
    created_queues.update(levels)
    ends = (topology.last_exchange(prefix), topology.marker_exchange(prefix))
    created_exchanges.update(levels, ends)
    direct = AmqpConfig.from_url(amqp_url)
    proxy = Proxy(direct.host, direct.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        config = attrs.evolve(direct, host="127.0.0.1", port=proxy.port, queue_settle_time=0.0)
        broker = RabbitBroker(config, prefix=prefix, name="conformance", consumes=True)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as brokers:
                await brokers.start(broker.run)
                yield RabbitKit(broker, amqp_url, prefix, config, proxy, created_queues)
                scope.cancel()
        nursery.cancel_scope.cancel()


@pytest.fixture
def broker(kit: Kit) -> Broker:
    """Return the broker under test."""
    return kit.broker


@pytest.fixture
async def queue(kit: Kit) -> str:
    """Return a fresh queue, which takes delayed messages too."""
    name = kit.new_name()
    with trio.fail_after(PATIENCE):
        await kit.broker.declare([QueueSpec(name=name, takes_delayed=True)])
    return name
