"""The levels of delays, followed on paper: a model of RabbitMQ's topic exchanges."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from roger_trio._brokers.base import QueueSpec
from roger_trio._brokers.rabbitmq import topology

PREFIX = "p-"
delays = st.floats(0, topology.MAX_DELAY, exclude_min=True) | st.sampled_from(
    [5e-324, 0.001, 0.125, 0.126, 1.0, 1800.0, topology.MAX_DELAY]
)


def matches(pattern: str, key: str) -> bool:
    """Tell whether a topic binding without ``#`` matches a routing key."""
    words, parts = pattern.split("."), key.split(".")
    return len(words) == len(parts) and all(
        word in {"*", part} for word, part in zip(words, parts, strict=True)
    )


def follow(delay: float, queue: str = "queue") -> tuple[list[int], str]:
    """Follow a message: the levels it waits in, and the exchange it ends at."""
    exchange, key = topology.delay_route(PREFIX, queue, delay)
    waited: list[int] = []
    names = {topology.level_name(PREFIX, level): level for level in range(topology.LEVELS)}
    while exchange in names:
        level = names[exchange]
        through = matches(topology.level_pattern(level, through=True), key)
        past = matches(topology.level_pattern(level, through=False), key)
        assert through != past, "exactly one of the two bindings takes it"
        if through:
            waited.append(level)
            assert topology.level_arguments(PREFIX, level)["x-dead-letter-exchange"] == (
                topology.exchange_below(PREFIX, level)
            )
        exchange = topology.exchange_below(PREFIX, level)
    assert matches(topology.destination_pattern(queue), key)
    assert not matches(topology.destination_pattern(queue + "x"), key)
    return waited, exchange


def waits(levels: list[int]) -> Fraction:
    """Add up how long the broker keeps a message in these levels, in seconds."""
    lives = (topology.level_arguments(PREFIX, level)["x-message-ttl"] for level in levels)
    return sum((Fraction(life) for life in lives), Fraction()) / 1000


@given(delays)
def test_never_early_and_a_unit_late_at_most(delay: float) -> None:
    """Any delay is waited out in whole, and exceeded by less than one unit."""
    levels, end = follow(delay)
    assert end == topology.last_exchange(PREFIX)
    assert delay <= waits(levels) < Fraction(delay) + Fraction(topology.UNIT)


@given(delays)
def test_a_message_passes_the_levels_of_its_binary_digits(delay: float) -> None:
    """The levels are the ones of the delay in units, from the highest down, each once."""
    units = math.ceil(delay / topology.UNIT)
    levels, _ = follow(delay)
    assert levels == [n for n in reversed(range(topology.LEVELS)) if units >> n & 1]


@given(delays, st.text(max_size=250))
def test_routing_keys_fit(delay: float, queue: str) -> None:
    """Whatever the queue is called, dots included, the key is a short string of as many words."""
    _, key = topology.delay_route(PREFIX, queue, delay)
    assert len(key.encode()) <= 255
    assert len(key.split(".")) == topology.LEVELS + 1


def test_a_dead_letter_target_makes_a_queue_at_least_once() -> None:
    """A queue with a dead-letter target never drops what it hands over; one without has no end."""
    plain = topology.queue_arguments(QueueSpec(name="q"))
    safe = topology.queue_arguments(QueueSpec(name="q", dead_letter="dead"))
    assert "x-dead-letter-exchange" not in plain
    assert safe["x-dead-letter-routing-key"] == "dead"
    assert safe["x-dead-letter-strategy"] == "at-least-once"
    assert int(plain["x-delivery-limit"]) > int(safe["x-delivery-limit"]) >= 1_000_000


def test_a_queue_that_forwards_leaves_the_way_to_the_message() -> None:
    """What it dead-letters keeps its key, at least once; nothing else decides where it goes."""
    arguments = topology.queue_arguments(QueueSpec(name="q", forwards=True))
    assert arguments["x-dead-letter-exchange"] == ""
    assert "x-dead-letter-routing-key" not in arguments
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"
    assert int(arguments["x-delivery-limit"]) > 1_000_000


@pytest.mark.parametrize(
    "spec",
    [
        QueueSpec(name="q", forwards=True, dead_letter="dead"),
        QueueSpec(name="q", forwards=True, takes_delayed=True),
    ],
)
def test_a_queue_that_forwards_does_that_alone(spec: QueueSpec) -> None:
    """A dead-letter target or delays would send its messages another way."""
    with pytest.raises(ValueError, match="queue 'q' forwards"):
        topology.queue_arguments(spec)


@pytest.mark.parametrize("level", range(topology.LEVELS))
def test_every_level_is_within_what_the_broker_accepts(level: int) -> None:
    """A time to live above ten years is refused, and levels lose nothing on a crash."""
    arguments = topology.level_arguments(PREFIX, level)
    assert 125 <= int(arguments["x-message-ttl"]) <= 315_360_000_000
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
