"""Fixtures of the promises' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from roger_trio._brokers.choose import make_broker
from tests.promises.support import (
    EmbeddedOutsider,
    Hub,
    Outsider,
    RabbitOutsider,
    Setup,
    Witness,
    new_hub,
)
from tests.rabbitmq import PrivateRabbit


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what partitions remember in the test's own folder, for child processes too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def setup(request: pytest.FixtureRequest, prefix: str, partition: str, tmp_path: Path) -> Setup:
    """Return what makes configurations for the run's RabbitMQ, or for the broker that is named.

    A test that also runs on others says so: see `on_every_broker` and `on_durable_brokers`.
    """
    match getattr(request, "param", "rabbitmq"):
        case "rabbitmq":
            queues: set[str] = request.getfixturevalue("created_queues")
            return Setup(request.getfixturevalue("amqp_url"), prefix, partition, queues)
        case "sqlite":
            return Setup(f"sqlite:{tmp_path / 'roger.db'}", prefix, partition, set())
        case _:
            return Setup("memory:", prefix, partition, set())


@pytest.fixture
def private(private_rabbit: PrivateRabbit, prefix: str, partition: str) -> Setup:
    """Return what makes configurations for a broker that may be stopped and killed."""
    return Setup(private_rabbit.url, prefix, partition, set())


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return the hub that the test's jobs report to."""
    with new_hub() as made:
        yield made


@pytest.fixture
def witness(setup: Setup) -> Iterator[Witness]:
    """Return an independent client of the run's broker."""
    with Witness(setup.url) as session:
        yield session


@pytest.fixture
async def outsider(setup: Setup) -> AsyncIterator[Outsider]:
    """Return somebody else at the test's broker."""
    if setup.url.startswith("amqp"):
        with Witness(setup.url) as session:
            yield RabbitOutsider(session)
        return
    broker = make_broker(setup.config(), name="outsider", consumes=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        yield EmbeddedOutsider(broker)
        nursery.cancel_scope.cancel()
