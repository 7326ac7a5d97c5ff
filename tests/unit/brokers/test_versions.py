"""What RabbitMQ's versions do differently: the data, what follows from it, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from roger_trio._brokers.rabbitmq import topology
from roger_trio._brokers.rabbitmq.versions import (
    DIFFERENCES,
    TIMEOUT_WANTED_MS,
    Server,
    timeout_warning,
)
from roger_trio._topology import QueueNames

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def server(version: str, product: str = "RabbitMQ") -> Server:
    """Make a broker of a version."""
    return Server(product=product, version=version)


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("3.10.8", (3, 10)),
        ("3.12.0-rc.1", (3, 12)),
        ("4.0.5", (4, 0)),
        ("4.10.1+1.gabc", (4, 10)),
        ("", None),
        ("unknown", None),
    ],
)
def test_a_version_is_read(version: str, release: tuple[int, int] | None) -> None:
    """Whatever is behind the second number does not matter."""
    assert server(version).release == release


def test_releases_are_compared_by_number() -> None:
    """3.9 is older than 3.10, and another product has none of RabbitMQ's releases."""
    assert not server("3.9.29").has((3, 10))
    assert server("3.10.0").has((3, 10))
    assert server("4.0.5").has((3, 12))
    assert not server("4.0.5", "LavinMQ").has((3, 10))


def test_what_a_broker_says_of_itself() -> None:
    """What it does not say is left open; nothing it says can fail."""
    properties = {"product": "RabbitMQ", "version": "4.0.5", "cluster_name": "c", "copyright": "x"}
    assert Server.of(properties) == Server(product="RabbitMQ", version="4.0.5", cluster="c")
    assert str(Server.of({})) == "a broker without a name"
    assert Server.of({"version": 3}).release is None


@pytest.mark.parametrize(
    ("version", "is_warned"),
    [("3.10.8", True), ("3.11.28", True), ("3.12.0", False), ("4.0.5", False), ("?", True)],
)
def test_a_node_is_warned_where_its_queues_are_not_heeded(version: str, is_warned: bool) -> None:
    """The warning names the version, the default, and what to write where."""
    text = timeout_warning(server(version))
    assert bool(text) is is_warned
    if is_warned:
        assert f"RabbitMQ {version}" in text
        assert "30 minutes" in text
        assert f"consumer_timeout = {TIMEOUT_WANTED_MS} in rabbitmq.conf" in text


def test_queues_ask_for_what_operators_are_told_to_set() -> None:
    """Jobs may run as long by either way."""
    for spec in QueueNames.of("", "p", "q").specs():
        assert topology.queue_arguments(spec)["x-consumer-timeout"] == TIMEOUT_WANTED_MS


def test_the_documentation_has_the_same_table() -> None:
    """Each difference is a row, in order, in its own words; there are no other rows."""
    section = OPERATIONS.read_text(encoding="utf-8").partition("\n### Versions\n")[2]
    lines = section.partition("\n### ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert rows == [
        f"| {'.'.join(map(str, each.since))} | {each.what} | {each.before} | {each.after} "
        f"| {each.here} |"
        for each in DIFFERENCES
    ]
