"""What the facts about a RabbitMQ mean: each finding, at its level, with what to do."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from roger_trio._brokers.rabbitmq.facts import Declared, RabbitFacts, Refusal
from roger_trio._brokers.rabbitmq.versions import Server
from roger_trio._doctor import rabbitmq
from roger_trio._doctor.findings import Finding, Level

OLD = Server(product="RabbitMQ", version="3.10.8", cluster="rabbit@a")
NEW = Server(product="RabbitMQ", version="4.0.5", cluster="rabbit@a")
WELL = RabbitFacts(
    server=NEW,
    channel_max=2047,
    frame_max=131_072,
    heartbeat=60,
    queues=(Declared(name="p-myapp-default", exists=True),),
    exchanges=(Declared(name="p-roger.topics", exists=True),),
    clock_ahead=0.0,
)
NEED = rabbitmq.Need(
    virtual_host="jobs", username="app", prefix="p-", queues=1, partitions=1,
)  # fmt: skip


def judged(facts: RabbitFacts, id: str, need: rabbitmq.Need = NEED) -> Finding:
    """Return the one finding of an id."""
    (found,) = (each for each in rabbitmq.judge(facts, need) if each.id == id)
    return found


def test_all_is_well() -> None:
    """A broker that has all that is needed is found well, without advice."""
    findings = rabbitmq.judge(WELL, NEED)
    assert {each.level for each in findings} == {Level.OK}
    assert {each.advice for each in findings} == {""}


@pytest.mark.parametrize(
    ("id", "changes", "level", "words"),
    [
        ("broker.version", {"server": attrs.evolve(OLD, version="3.9.29")}, "error", "upgrade"),
        ("broker.version", {"server": Server(product="LavinMQ", version="2.0.0")}, "warning", ""),
        ("broker.consumer_timeout", {"server": OLD}, "warning", "consumer_timeout = 31536000000"),
        ("broker.heartbeat", {"heartbeat": 0}, "warning", "heartbeat"),
        ("broker.heartbeat", {"heartbeat": 301}, "warning", "60 or less"),
        ("broker.channels", {"channel_max": 4}, "error", "channel_max"),
        ("broker.alarm", {"blocked": "low on memory"}, "error", "watermarks"),
        ("broker.alarm", {"unconfirmed": "no confirm within 5 s"}, "error", "log"),
        ("broker.clock", {"clock_ahead": 5.1}, "warning", "time server"),
        ("broker.clock", {"clock_ahead": -5.1}, "warning", "time server"),
    ],
)
def test_trouble_is_found(id: str, changes: dict[str, Any], level: str, words: str) -> None:
    """What is not as it should be is found at its level, and what to do is said."""
    found = judged(attrs.evolve(WELL, **changes), id)
    assert found.level.value == level
    assert words in found.advice
    assert found.advice


@pytest.mark.parametrize(
    ("id", "changes", "words"),
    [
        ("broker.channels", {"channel_max": 0}, "any number"),
        ("broker.channels", {"channel_max": 5}, "up to 5"),
        ("broker.heartbeat", {"heartbeat": 300}, "600 s"),
        ("broker.clock", {"clock_ahead": None}, "not compared"),
        ("broker.clock", {"clock_ahead": -4.9}, "agrees"),
        ("broker.message_size", {"server": OLD}, "128 MiB"),
        ("broker.message_size", {"server": NEW}, "16 MiB"),
        ("broker.consumer_timeout", {"server": NEW}, "channel of its queue is closed"),
        (
            "broker.consumer_timeout",
            {"server": attrs.evolve(NEW, version="4.3.0")},
            "consumer is cancelled",
        ),
    ],
)
def test_what_is_within_bounds_is_well(id: str, changes: dict[str, Any], words: str) -> None:
    """At the edge of what is good, and where nothing can be told, nothing is complained of."""
    found = judged(attrs.evolve(WELL, **changes), id)
    assert found.level is Level.OK
    assert words in found.found


def test_missing_permissions_are_named_with_the_command_that_gives_them() -> None:
    """Each permission has its names; the command is the one that the documentation has."""
    refusals = (
        Refusal("read", "p-myapp-default", "ACCESS_REFUSED - …"),
        Refusal("configure", "p-myapp-default", "ACCESS_REFUSED - …"),
        Refusal("configure", "p-roger.topics", "ACCESS_REFUSED - …"),
    )
    found = judged(attrs.evolve(WELL, refusals=refusals), "broker.permissions")
    assert found.level is Level.ERROR
    assert "configure: 'p-myapp-default', 'p-roger.topics'; read: 'p-myapp-default'" in found.found
    assert found.advice == (
        "run: rabbitmqctl set_permissions -p jobs app "
        r"'^(p-|amq\.gen)' '^(p-|amq\.gen|amq\.default$)' '^(p-|amq\.gen)'"
    )


def test_without_a_prefix_the_command_gives_all() -> None:
    """Names without a prefix begin with anything, so a virtual host of its own is simplest."""
    facts = attrs.evolve(WELL, refusals=(Refusal("read", "x", "no"),))
    need = attrs.evolve(NEED, prefix="", virtual_host="/")
    assert judged(facts, "broker.permissions", need).advice.endswith("-p / app '.*' '.*' '.*'")


def test_a_queue_that_is_declared_otherwise_is_an_error() -> None:
    """Its name, and the broker's words with both sides, are in the finding."""
    other = Declared(name="p-myapp-default", exists=True, difference="received 'a', current 'b'")
    findings = rabbitmq.judge(attrs.evolve(WELL, queues=(other,)), NEED)
    (found,) = (each for each in findings if each.level is Level.ERROR)
    assert found.id == "broker.topology"
    assert "'p-myapp-default'" in found.found
    assert "received 'a', current 'b'" in found.found


@pytest.mark.parametrize(
    ("there", "words"),
    [((), "no queue or exchange is there yet"), (("a",), "'b'"), (("a", "b"), "2 queues")],
)
def test_queues_that_are_not_there_yet(there: tuple[str, ...], words: str) -> None:
    """What nodes make when they need it is no trouble while it is not there."""
    queues = tuple(Declared(name=each, exists=each in there) for each in ("a", "b"))
    found = judged(attrs.evolve(WELL, queues=queues, exchanges=()), "broker.topology")
    assert found.level is Level.OK
    assert words in found.found


def test_delayed_jobs_without_a_queue_are_told_of() -> None:
    """What ended in the queue for undeliverable jobs waits for a person."""
    lost = Declared(name="p-roger.delay.unroutable", exists=True, messages=3)
    facts = attrs.evolve(WELL, queues=(*WELL.queues, lost))
    found = judged(facts, "broker.undeliverable")
    assert found.level is Level.WARNING
    assert found.found.startswith("3 delayed jobs")


@pytest.mark.parametrize(("server", "count"), [(OLD, 4), (NEW, 3)])
def test_what_only_an_operator_sees_is_listed_with_commands(server: Server, count: int) -> None:
    """Policies, limits and, where it matters, the broker's own timeout are looked at by hand."""
    checks = rabbitmq.by_hand(attrs.evolve(WELL, server=server), NEED)
    assert len(checks) == count
    assert all(each.command.startswith("rabbitmq") for each in checks)
    assert "-p jobs " in checks[0].command
