"""Fixtures of the promises' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.promises.support import Hub, Setup, Witness, new_hub
from tests.rabbitmq import PrivateRabbit


@pytest.fixture
def setup(amqp_url: str, prefix: str, partition: str, created_queues: set[str]) -> Setup:
    """Return what makes configurations for the run's broker."""
    return Setup(amqp_url, prefix, partition, created_queues)


@pytest.fixture
def private(private_rabbit: PrivateRabbit, prefix: str, partition: str) -> Setup:
    """Return what makes configurations for the module's own broker."""
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
