"""The persisters that go through the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from roger_trio._brokers.base import Broker
from roger_trio._brokers.embedded.open import open_memory_broker, open_sqlite_broker
from roger_trio._persisters import FilePersister, MemoryPersister, Persister
from roger_trio._state.broker_state import BrokerState
from tests import rabbitmq
from tests.conformance.conftest import (
    RabbitSetup,
    rabbit_setup,
    run_embedded,
    run_rabbit,
)
from tests.conformance.kit import Kit

__all__ = ["rabbit_setup"]

BROKERS = ["memory", "sqlite", "rabbitmq"]


class OwnPersister:
    """What a user may write: nothing but the two methods."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def load(self, partition: str) -> bytes | None:
        return self.kept.get(partition)

    async def save(self, partition: str, data: bytes) -> None:
        self.kept[partition] = data


@attrs.frozen
class Place:
    """A place where state is kept, and how to reach it."""

    open: Callable[[], Persister]
    """Make another persister over the same place, as another process would."""
    partition: str
    kit: Kit | None = None

    @property
    def broker(self) -> Broker:
        assert self.kit is not None
        return self.kit.broker


@pytest.fixture(params=["file", "memory-object", "own", *BROKERS])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, partition: str
) -> AsyncIterator[Place]:
    """Run each kind of place."""
    match request.param:
        case "file":
            yield Place(lambda: FilePersister(tmp_path / "state").scoped("a-"), partition)
        case "memory-object":
            kept = MemoryPersister()
            yield Place(lambda: kept.scoped("a-"), partition)
        case "own":
            own = OwnPersister()
            yield Place(lambda: own, partition)
        case _:
            async with broker_place(request, tmp_path, partition) as found:
                yield found


@pytest.fixture(params=BROKERS)
async def in_broker(
    request: pytest.FixtureRequest, tmp_path: Path, partition: str
) -> AsyncIterator[Place]:
    """Run each kind of broker."""
    async with broker_place(request, tmp_path, partition) as found:
        yield found


@asynccontextmanager
async def broker_place(
    request: pytest.FixtureRequest, tmp_path: Path, partition: str
) -> AsyncIterator[Place]:
    """Run a broker and let it keep the state."""
    if request.param == "rabbitmq":
        setup: RabbitSetup = request.getfixturevalue("rabbit_setup")
        async with run_rabbit(setup) as kit:
            broker = kit.broker
            yield Place(lambda: BrokerState(broker, setup.prefix), partition, kit)
        name = f"{setup.prefix}{partition}"
        await trio.to_thread.run_sync(rabbitmq.delete_partition, setup.url, name)
        return
    path = str(tmp_path / "roger.db")
    is_memory = request.param == "memory"
    async with run_embedded(
        open_memory_broker if is_memory else lambda: open_sqlite_broker(path)
    ) as kit:
        broker = kit.broker
        yield Place(lambda: BrokerState(broker, "a-"), partition, kit)
