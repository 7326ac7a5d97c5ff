"""Fixtures that every test may ask for."""

from __future__ import annotations

import contextlib
import inspect
import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import rabbitmq
from tests.amqp import NoRabbitMQ
from tests.hang import bounded
from tests.leaks import pytest_runtest_makereport  # noqa: F401 -- a hook

# The same examples on every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))

# Below pytest's own `timeout`, which cannot look into Trio and is left for what blocks the loop.
HANG = 100.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every async test."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = bounded(item.obj, HANG)


@pytest.fixture(scope="session")
def prefix() -> str:
    """What the names of this run begin with on the broker, so that runs do not meet."""
    return f"t{secrets.token_hex(3)}-"


@pytest.fixture(scope="session")
def created_queues() -> set[str]:
    """Names of queues to delete when the run ends."""
    return set()


@pytest.fixture(scope="session")
def created_exchanges() -> set[str]:
    """Names of exchanges to delete when the run ends."""
    return set()


@pytest.fixture(scope="session")
def amqp_url(prefix: str, created_queues: set[str], created_exchanges: set[str]) -> Iterator[str]:
    """Return the URL of the run's RabbitMQ; without one the run ends here, and fails."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(rabbitmq.broker())
        except NoRabbitMQ as exc:
            pytest.exit(str(exc), returncode=1)
        yield url
        rabbitmq.sweep(url, prefix, created_queues, created_exchanges)


@pytest.fixture
def partition(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a partition name that no other test uses; its usual queues go with the test.

    Not with the run: a broker with a low limit of open files takes no connection any more once
    there are some hundred quorum queues.
    """
    name = f"p{secrets.token_hex(3)}"
    yield name
    if "amqp_url" in request.fixturenames:
        work = f"{request.getfixturevalue('prefix')}{name}"
        rabbitmq.delete_partition(request.getfixturevalue("amqp_url"), work)


@pytest.fixture(scope="session")
def _private_rabbit() -> Iterator[rabbitmq.PrivateRabbit]:
    """One node for all who break one: starting one takes seconds."""
    made = rabbitmq.PrivateRabbit()
    # A delayed message that is on its way from level to level when the broker stops is not lost,
    # but handed over again only after this time, by default three minutes.
    option = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
    made._environment[option] = "-rabbit dead_letter_worker_publisher_confirm_timeout 2000"
    with made as rabbit:
        yield rabbit


@pytest.fixture
def private_rabbit(_private_rabbit: rabbitmq.PrivateRabbit) -> rabbitmq.PrivateRabbit:
    """Return a node of the run's own, up again if the test before left it down.

    Its methods block: call them by ``await trio.to_thread.run_sync(private_rabbit.kill)``.
    """
    _private_rabbit.start()
    return _private_rabbit
