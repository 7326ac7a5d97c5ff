"""Which fault happens when, all from a seed: the same seed, the same schedule."""

from __future__ import annotations

import random
from typing import Final, Literal

import attrs

BrokerName = Literal["rabbitmq", "sqlite"]
BROKERS: Final[tuple[BrokerName, ...]] = ("rabbitmq", "sqlite")

NODES: Final = 3
ENQUEUERS: Final = 2
HEARTBEAT: Final = 2
"""Seconds between the heartbeats of all connections."""

FIRST: Final = 1.5
"""Seconds of undisturbed load before the first fault."""
GAPS: Final = (0.6, 2.2)
"""Seconds from one fault to the next: on average 1.4."""


@attrs.frozen
class Kind:
    """A kind of fault.

    Args:
        name: What it is called.
        weight: How often it is chosen, relative to the others.
        target: What it strikes.
        lasts: The shortest and the longest time it lasts, in seconds.
        brokers: The brokers it is for.
    """

    name: str
    weight: int
    target: Literal["node", "enqueuer", "broker", "nodes"]
    lasts: tuple[float, float] = (0.0, 0.0)
    brokers: tuple[BrokerName, ...] = BROKERS


_RABBITMQ: Final[tuple[BrokerName, ...]] = ("rabbitmq",)
_SQLITE: Final[tuple[BrokerName, ...]] = ("sqlite",)

KINDS: Final = (
    Kind("node killed", 5, "node"),
    Kind("coordinator killed", 3, "nodes"),
    Kind("node stopped in mid-job", 4, "node"),
    # Longer than the broker takes to give a silent connection up: two heartbeats and a bit.
    Kind("node frozen", 2, "node", (3.0 * HEARTBEAT, 4.0 * HEARTBEAT)),
    Kind("node frozen for a moment", 2, "node", (0.2, 1.0)),
    Kind("clock set", 2, "node"),
    Kind("enqueuer killed", 2, "enqueuer"),
    Kind("state file torn", 2, "nodes", brokers=_RABBITMQ),
    Kind("connections cut", 5, "node", brokers=_RABBITMQ),
    Kind("enqueuer's connections cut", 2, "enqueuer", brokers=_RABBITMQ),
    Kind("connections stalled", 2, "node", (3.0 * HEARTBEAT, 4.0 * HEARTBEAT), _RABBITMQ),
    Kind("connections stalled for a moment", 2, "node", (0.2, 1.5), _RABBITMQ),
    Kind("connections slowed", 2, "node", (2.0, 5.0), _RABBITMQ),
    Kind("channel closed by the broker", 3, "broker", brokers=_RABBITMQ),
    Kind("queue deleted", 2, "broker", brokers=_RABBITMQ),
    Kind("memory alarm", 1, "broker", (1.0, 4.0), _RABBITMQ),
    Kind("broker restarted", 1, "broker", brokers=_RABBITMQ),
    Kind("broker killed", 1, "broker", brokers=_RABBITMQ),
    Kind("disk full", 2, "nodes", (0.5, 3.0), _SQLITE),
)
"""All kinds of faults there are."""


@attrs.frozen
class Fault:
    """One fault.

    Args:
        number: Its place in the schedule, from 0.
        at: Seconds after the start of the load.
        kind: The name of its kind.
        target: The number of the node or enqueuer that it strikes; a number to choose by if it
            strikes something else.
        lasts: Seconds until it is healed; 0: it is over at once.
    """

    number: int
    at: float
    kind: str
    target: int
    lasts: float


def plan_faults(seed: int, duration: float, broker: BrokerName) -> list[Fault]:
    """Make the schedule of a run.

    Each kind comes once before any comes again, as far as time allows, in an order of the seed's;
    then they come by their weight.

    Args:
        seed: Of which the schedule is made.
        duration: Seconds of load. All faults begin and, but for restarts of the broker, end in it.
        broker: Which broker it is for.
    """
    dice = random.Random(f"faults {seed} {broker}")
    kinds = [each for each in KINDS if broker in each.brokers]
    first = dice.sample(kinds, len(kinds))
    faults: list[Fault] = []
    at = FIRST
    while at < duration:
        kind = first.pop() if first else dice.choices(kinds, [each.weight for each in kinds])[0]
        lasts = round(dice.uniform(*kind.lasts), 2)
        number = dice.randrange(ENQUEUERS if kind.target == "enqueuer" else NODES)
        if at + lasts <= duration - 0.01:
            faults.append(Fault(len(faults), round(at, 2), kind.name, number, lasts))
        at += dice.uniform(*GAPS)
    return faults
