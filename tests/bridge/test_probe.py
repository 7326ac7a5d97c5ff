"""What can be found out about a RabbitMQ over AMQP, and that looking changes nothing."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Message, QueueSpec
from roger_trio._brokers.rabbitmq.facts import RabbitFacts, Unreachable
from roger_trio._brokers.rabbitmq.probe import ahead, probe, time_of_death
from roger_trio._config import AmqpConfig, Config
from roger_trio._doctor import examine
from roger_trio._persisters import MemoryPersister
from roger_trio._topology import PartitionNames, QueueNames
from tests.bridge.running import configure, running
from tests.rabbitmq import PrivateRabbit

PATIENCE = 60.0
"""Seconds that anything here may take: a hundred calls to a busy broker among them."""
PREFIX = "probe-"


def needed(partition: str, prefix: str = PREFIX) -> tuple[QueueSpec, ...]:
    """Return the queues of a partition with one queue."""
    names = PartitionNames.of(prefix, partition)
    queues = QueueNames.of(prefix, partition, "default").specs()
    return (*queues, names.coordinator_spec(), names.waiting_spec())


async def look(
    config: AmqpConfig, queues: tuple[QueueSpec, ...], prefix: str = PREFIX
) -> RabbitFacts:
    """Probe a broker that can be reached."""
    with trio.fail_after(PATIENCE):
        facts = await probe(config, prefix, queues)
    assert isinstance(facts, RabbitFacts)
    return facts


def entities(node: PrivateRabbit, vhost: str = "/") -> list[str]:
    """List all queues, exchanges and bindings."""
    what = (["list_queues", "name"], ["list_exchanges", "name"], ["list_bindings"])
    return [line for words in what for line in node.ctl(*words, "-p", vhost).splitlines()]


async def test_nothing_is_left_behind(node: PrivateRabbit) -> None:
    """On a broker without any of our queues all is found missing, and nothing is made."""
    config = configure(node.url, virtual_host="elsewhere")
    before = await trio.to_thread.run_sync(entities, node, "elsewhere")

    facts = await look(config, needed("nothing"), "none-")

    assert not any(each.exists for each in (*facts.queues, *facts.exchanges))
    assert (facts.refusals, facts.blocked, facts.unconfirmed) == ((), "", "")
    assert facts.clock_ahead == 0
    assert (facts.server.product, facts.heartbeat) == ("RabbitMQ", 60)
    assert facts.server.cluster
    assert await trio.to_thread.run_sync(entities, node, "elsewhere") == before


async def test_what_nodes_have_made_is_as_it_should_be(node: PrivateRabbit) -> None:
    """All that a node declares is found as it is needed, with the messages that are in it."""
    config, queues = configure(node.url), needed("made")
    async with running(config, prefix=PREFIX) as broker:
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
            await broker.declare(queues)
            await broker.declare_delays()
            await broker.publish(queues[2].name, Message(b"x"))
            async with broker.listen("here"):
                before = await trio.to_thread.run_sync(entities, node)
                facts = await look(config, queues)
                after = await trio.to_thread.run_sync(entities, node)
            await broker.purge(queues[2].name)

    assert {each.name for each in (*facts.queues, *facts.exchanges) if not each.exists} == set()
    assert [each for each in (*facts.queues, *facts.exchanges) if each.difference] == []
    assert facts.refusals == ()
    assert [each.messages for each in facts.queues if each.name == queues[2].name] == [1]
    assert sorted(after) == sorted(before)


async def test_a_missing_queue_of_a_partition_that_has_others_is_told_of(
    node: PrivateRabbit,
) -> None:
    """Nodes make the one for jobs that wait for a key at once: where it is not, somebody was."""
    address = configure(node.url)
    config = Config(
        broker=address,
        prefix=PREFIX,
        partitions={"lacking": {"default": 1}},
        persister=MemoryPersister(),
    )
    *others, waiting = needed("lacking")
    async with running(address, consumes=False) as broker:
        with trio.fail_after(PATIENCE):
            await broker.declare(others)
            report = await examine(config)
    (found,) = (each.found for each in report.findings if each.id == "broker.topology")
    assert repr(waiting.name) in found
    assert not any(repr(each.name) in found for each in others)


async def test_a_difference_names_both_sides(node: PrivateRabbit) -> None:
    """A queue that somebody declared otherwise is found, in the broker's words."""
    config = configure(node.url)
    async with running(config, consumes=False) as broker:
        with trio.fail_after(PATIENCE):
            await broker.declare([QueueSpec(name=f"{PREFIX}other-default", single_active=True)])
    facts = await look(config, needed("other"))
    (found,) = (each for each in facts.queues if each.difference)
    assert found.name == f"{PREFIX}other-default"
    assert "x-dead-letter-exchange" in found.difference
    assert "received" in found.difference
    assert "current" in found.difference


async def test_missing_permissions_are_found(node: PrivateRabbit) -> None:
    """Of a user who may write to some names only, it is told which others it needs."""
    config = configure(node.url, username="reader", password="secret-word")
    facts = await look(config, needed("locked", "mine"), "mine")
    assert {(each.permission, each.name) for each in facts.refusals} == {("write", "amq.default")}
    facts = await look(config, needed("locked", "yours"), "yours")
    refused = {each.permission: each.name for each in facts.refusals}
    assert set(refused) == {"write"}
    assert "yourslocked-default" in {each.name for each in facts.refusals}
    assert "yoursroger.topics" in {each.name for each in facts.refusals}


async def test_each_kind_of_permission_is_tried(node: PrivateRabbit) -> None:
    """A user who may do nothing is refused to configure, to write and to read, without harm."""

    def add() -> None:
        node.ctl("add_user", "nobody", "secret-word")
        node.ctl("set_permissions", "nobody", "^$", "^$", "^$")

    await trio.to_thread.run_sync(add)
    config = configure(node.url, username="nobody", password="secret-word")
    facts = await look(config, needed("made"))
    refused = {(each.permission, each.name) for each in facts.refusals}
    work = f"{PREFIX}made-default"
    assert {(permission, work) for permission in ("configure", "write", "read")} <= refused
    assert ("configure", f"{PREFIX}roger.topics") in refused
    assert ("configure", "amq.gen") in refused


async def test_an_alarm_is_found(node: PrivateRabbit) -> None:
    """A broker that takes no messages is found out by sending it one."""
    await trio.to_thread.run_sync(node.set_memory_alarm, True)
    try:
        facts = await look(configure(node.url), ())
    finally:
        await trio.to_thread.run_sync(node.set_memory_alarm, False)
    assert "memory" in facts.blocked


@pytest.mark.parametrize(
    ("changes", "is_refusal"),
    [({"password": "wrong"}, True), ({"virtual_host": "none"}, True), ({"port": 1}, False)],
)
async def test_a_broker_that_cannot_be_had(
    node: PrivateRabbit, changes: dict[str, str | int], is_refusal: bool
) -> None:
    """It is told why, and whether trying again alone may help; never the password."""
    with trio.fail_after(PATIENCE):
        found = await probe(configure(node.url, **changes), "", ())
    assert isinstance(found, Unreachable)
    assert found.is_refusal is is_refusal
    assert "wrong" not in found.reason


# Clocks...


@pytest.mark.parametrize(
    ("before", "then", "after", "expected"),
    [
        (10.5, 10, 10.6, 0.0),  # cut to the second in which it was asked
        (10.9, 11, 11.1, 0.0),
        (10.5, 12, 10.6, 1.4),
        (10.5, 9, 10.6, -0.5),
        (10.5, 0, 10.6, -9.5),
    ],
)
def test_a_clock_is_compared_to_a_second(
    before: float, then: float, after: float, expected: float
) -> None:
    """Only what cannot be, whatever was cut off, counts as a difference."""
    assert ahead(before, then, after) == pytest.approx(expected)


@pytest.mark.parametrize("headers", [{}, {"x-death": []}, {"x-death": [{}]}, {"x-death": 1}])
def test_a_message_without_a_time_of_death(headers: dict[str, object]) -> None:
    """Nothing is made of what does not say."""
    assert time_of_death(headers) is None
