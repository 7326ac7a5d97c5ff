"""All probes, one after the other, and what is made of them."""

from __future__ import annotations

import math
from typing import Final

import attrs
import trio

from .._brokers.base import QueueSpec
from .._brokers.rabbitmq.facts import RabbitFacts, Unreachable
from .._client import connect
from .._config import AmqpConfig, Config, SqliteConfig
from .._errors import RogerError
from .._persisters import BrokerPersister
from .._topology import PartitionNames, QueueNames
from . import embedded, nodes, rabbitmq, state
from .findings import Finding, Report, counted, error, ok, warning

_CHECK_PATIENCE: Final = 20.0
"""Seconds that checking the integrity of a database may take."""


async def examine(config: Config) -> Report:
    """Look at everything that a configuration depends on. Nothing is changed or left behind.

    Args:
        config: The configuration.

    Returns:
        The findings, and what only the broker's operator can look at.

    Raises:
        ConfigError: Its certificates cannot be read.
    """
    findings = [_configuration(config)]
    address = config.broker_config()
    report = Report(())
    is_shared = isinstance(address, AmqpConfig)
    if isinstance(address, AmqpConfig):
        report, can_ask = await _look_at_rabbitmq(config, address)
    elif isinstance(address, SqliteConfig):
        report, can_ask = await _look_at_file(address.path)
    else:
        findings.append(ok("broker.memory", "jobs are kept in memory, and end with the program"))
        can_ask = False
    findings += report.findings
    hosts: frozenset[str] = frozenset()
    if can_ask:
        asked, hosts = await _ask_nodes(config)
        findings += asked
    looked = await trio.to_thread.run_sync(state.look, config)
    findings += state.judge(looked, hosts, is_shared=is_shared)
    return Report(tuple(findings), report.by_hand)


def _configuration(config: Config) -> Finding:
    id, queues = "config.partitions", sum(map(len, config.partitions.values()))
    if not queues:
        return warning(
            id,
            "no queues are configured: a node would run no jobs",
            "name partitions and their queues in the Config",
        )
    return ok(id, f"{counted(len(config.partitions), 'partition')} with {counted(queues, 'queue')}")


async def _look_at_file(path: str) -> tuple[Report, bool]:
    from .._brokers.embedded.probe import probe

    facts = await trio.to_thread.run_sync(lambda: probe(path, patience=_CHECK_PATIENCE))
    is_well = not (facts.problem or facts.is_locked or facts.damage)
    can_ask = facts.exists and is_well
    return Report(tuple(embedded.judge(facts))), can_ask


async def _look_at_rabbitmq(config: Config, address: AmqpConfig) -> tuple[Report, bool]:
    from .._brokers.rabbitmq.probe import probe

    address.ssl_context()  # Unreadable certificates are an error of the configuration.
    patience = min(config.enqueue_timeout, address.connection_timeout or math.inf)
    address = attrs.evolve(address, connection_timeout=patience)
    facts = await probe(address, config.prefix, _queues(config))
    if isinstance(facts, Unreachable):
        return Report((_unreachable(facts),)), False
    need = rabbitmq.Need(
        virtual_host=address.virtual_host,
        username=address.username,
        prefix=config.prefix,
        queues=sum(map(len, config.partitions.values())),
        partitions=len(config.partitions),
    )
    connected = ok("broker.connection", f"connected to {address.display}")
    findings = (connected, *rabbitmq.judge(facts, need))
    return Report(findings, tuple(rabbitmq.by_hand(facts, need))), _has_nodes(facts)


def _has_nodes(facts: RabbitFacts) -> bool:
    """Tell whether nodes can be asked: what they listen through is there, and can be used."""
    listening = facts.exchanges[0].exists
    return listening and not (facts.refusals or facts.blocked or facts.unconfirmed)


def _queues(config: Config) -> list[QueueSpec]:
    """Say which broker queues are needed."""
    needed: list[QueueSpec] = []
    for partition, queues in config.partitions.items():
        names = PartitionNames.of(config.prefix, partition)
        for queue in queues:
            needed += QueueNames.of(config.prefix, partition, queue).specs()
        needed += [names.coordinator_spec(), names.waiting_spec()]
        if isinstance(config.persister, BrokerPersister):
            needed.append(names.state_spec())
    return needed


def _unreachable(facts: Unreachable) -> Finding:
    advice = (
        "mend the address, the user, the virtual host or the certificates in the configuration"
        if facts.is_refusal
        else "start the broker, or look at the address, the network and the firewall; a node "
        "waits, and starts by itself once it can be reached"
    )
    return error("broker.connection", facts.reason, advice)


async def _ask_nodes(config: Config) -> tuple[list[Finding], frozenset[str]]:
    try:
        async with connect(config) as client:
            facts = await nodes.ask(client)
    except RogerError as exc:
        unasked = warning("nodes.answering", f"they could not be asked: {exc}", "run it again")
        return [unasked], frozenset()
    return nodes.judge(facts, list(config.partitions)), facts.hosts
