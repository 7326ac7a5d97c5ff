"""The brokers that go through the suite."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from roger_trio._brokers.base import Broker, QueueSpec
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._brokers.embedded.open import open_memory_broker, open_sqlite_broker
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
    exchanges: set[str]

    def new_name(self) -> str:
        name = f"{self.prefix}c-{secrets.token_hex(4)}"
        self.queues.add(name)
        self.exchanges.add(name)  # A queue that forwards has one of its own.
        return name

    def new_topic(self) -> str:
        return f"topic-{secrets.token_hex(4)}"

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
        links = (self.broker._consuming, self.broker._publishing, self.broker._speaking)
        before = [link.generation for link in links]
        self.proxy.cut()
        for link, generation in zip(links, before, strict=True):
            await settles_at(False, lambda: link.is_up and link.generation == generation)  # noqa: B023


@attrs.define(eq=False)
class EmbeddedKit:
    """The embedded broker: every `open_broker` makes one over the same queues."""

    open_broker: Callable[[], EmbeddedBroker]
    broker: EmbeddedBroker

    def new_name(self) -> str:
        return f"c-{secrets.token_hex(4)}"

    def new_topic(self) -> str:
        return self.new_name()

    @asynccontextmanager
    async def _other_broker(self) -> AsyncIterator[Broker]:
        other = self.open_broker()
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            yield other
            nursery.cancel_scope.cancel()

    def other_broker(self) -> AbstractAsyncContextManager[Broker]:
        return self._other_broker()

    async def delete_queue(self, name: str) -> None:
        pytest.skip("nobody but us has a hand in an embedded broker's queues")

    async def lose_connection(self) -> None:
        await self.broker.drop_connections()


MakeKit = Callable[[], AbstractAsyncContextManager[Kit]]


@pytest.fixture(params=["memory", "sqlite", "rabbitmq"])
def make_kit(request: pytest.FixtureRequest, tmp_path: Path) -> MakeKit:
    """Return what runs a broker of each kind."""
    if request.param == "rabbitmq":
        setup: RabbitSetup = request.getfixturevalue("rabbit_setup")
        return lambda: run_rabbit(setup)
    if request.param == "sqlite":
        path = str(tmp_path / "roger.db")
        return lambda: run_embedded(lambda: open_sqlite_broker(path))
    return lambda: run_embedded(open_memory_broker)


@pytest.fixture
async def kit(make_kit: MakeKit) -> AsyncIterator[Kit]:
    """Run a broker of each kind."""
    async with make_kit() as kit:
        yield kit


@asynccontextmanager
async def run_embedded(open_broker: Callable[[], EmbeddedBroker]) -> AsyncIterator[Kit]:
    """Run an embedded broker."""
    broker = open_broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        yield EmbeddedKit(open_broker, broker)
        nursery.cancel_scope.cancel()


@attrs.frozen
class RabbitSetup:
    """What the run's RabbitMQ is reached by, and what is cleaned up when it ends."""

    url: str
    prefix: str
    queues: set[str]
    exchanges: set[str]


@pytest.fixture(scope="session")
def rabbit_setup(
    amqp_url: str, prefix: str, created_queues: set[str], created_exchanges: set[str]
) -> RabbitSetup:
    """Return it; only who asks for it needs a RabbitMQ."""
    return RabbitSetup(amqp_url, prefix, created_queues, created_exchanges)


@asynccontextmanager
async def run_rabbit(setup: RabbitSetup) -> AsyncIterator[Kit]:
    """Run a broker that is RabbitMQ."""
    levels = [topology.level_name(setup.prefix, level) for level in range(topology.LEVELS)]
    setup.queues.update(levels)
    ends = (topology.last_exchange(setup.prefix), topology.marker_exchange(setup.prefix))
    setup.exchanges.update(levels, ends, (topology.topics_exchange(setup.prefix),))
    direct = AmqpConfig.from_url(setup.url)
    proxy = Proxy(direct.host, direct.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        config = attrs.evolve(direct, queue_settle_time=0.0)
        proxied = attrs.evolve(config, host="127.0.0.1", port=proxy.port)
        broker = RabbitBroker(proxied, prefix=setup.prefix, name="conformance", consumes=True)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as brokers:
                await brokers.start(broker.run)
                yield RabbitKit(
                    broker, setup.url, setup.prefix, config, proxy, setup.queues, setup.exchanges
                )
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
