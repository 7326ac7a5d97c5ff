"""Which jobs are enqueued when, all from a seed: the same seed, the same load."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import attrs

PARTITIONS: Final[Mapping[str, Mapping[str, int]]] = {
    "alpha": {"default": 4, "serial": 3, "long": 4, "fragile": 2},
    "beta": {"default": 3, "serial": 2},
    "gamma": {"default": 2},
}
"""The partitions that each node runs, their queues, and how many workers these have."""

KEYED: Final = ("alpha", "beta")
"""The partitions whose jobs may have keys."""
FRAGILE: Final = ("alpha", "fragile")
"""The queue that the operator deletes with what is in it. Its jobs have no keys."""

RATE: Final = 10.0
"""Jobs a second."""
LEVELS: Final = (0.25, 0.5, 1.0)
"""Seconds before each retry."""

UNIQUE_KEYS: Final = tuple(f"unique-{number}" for number in range(6))
SERIAL_KEYS: Final = tuple(f"serial-{number}" for number in range(6))

Promise = Literal["done", "failed", "buried", "cancelled"]
"""How a job is to end."""


@attrs.frozen(kw_only=True)
class Order:
    """One job to enqueue.

    Args:
        id: Its id.
        kind: What kind of load it is.
        at: When: seconds after the start of the load.
        partition: Its partition.
        queue: Its queue.
        seconds: How long an attempt works.
        fails: How many attempts fail.
        delay: Seconds before it may start, or None.
        unique: Its queue key, or None.
        serial: Its execution key, or None.
        cancel_after: Seconds after it was accepted at which somebody cancels it, or None.
        in_thread: Whether it is a plain function.
        is_retryable: Whether it is retried.
    """

    id: str
    kind: str
    at: float
    partition: str
    queue: str = "default"
    seconds: float = 0.0
    fails: int = 0
    delay: float | None = None
    unique: str | None = None
    serial: str | None = None
    cancel_after: float | None = None
    in_thread: bool = False
    is_retryable: bool = True

    @property
    def promise(self) -> Promise:
        """How it is to end, if nobody cancels it in time."""
        if self.cancel_after is not None:
            return "cancelled"
        if not self.fails:
            return "done"
        if not self.is_retryable:
            return "failed"
        return "buried" if self.fails > len(LEVELS) else "done"


_WEIGHTS: Final = {
    "plain": 30,
    "retrying": 10,
    "doomed": 3,
    "failing": 3,
    "unique": 14,
    "serial": 14,
    "both keys": 5,
    "delayed": 8,
    "cancelled": 8,
    "long": 5,
    "in a thread": 3,
    "fragile": 5,
}


def plan_load(seed: int, duration: float) -> list[Order]:
    """Make the load of a run.

    Args:
        seed: Of which it is made.
        duration: Seconds over which it is spread.
    """
    dice = random.Random(f"load {seed}")
    times = sorted(dice.uniform(0, duration) for _ in range(int(duration * RATE)))
    kinds = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=len(times))
    return [
        _order(dice, kind, f"{seed}-{number:05}", round(at, 3))
        for number, (kind, at) in enumerate(zip(kinds, times, strict=True))
    ]


def _order(dice: random.Random, kind: str, id: str, at: float) -> Order:
    made = {
        "partition": dice.choice(list(PARTITIONS)),
        "seconds": round(dice.uniform(0, 0.05), 3),
        **_KINDS[kind](dice),
    }
    return Order(id=id, kind=kind, at=at, **made)


_Fields = dict[str, Any]


def _retrying(dice: random.Random) -> _Fields:
    return {"fails": dice.randint(1, len(LEVELS))}


def _unique(dice: random.Random) -> _Fields:
    return {
        "partition": dice.choice(KEYED),
        "unique": dice.choice(UNIQUE_KEYS),
        "fails": dice.choice((0, 0, 1)),
        "delay": dice.choice((None, None, round(dice.uniform(0.3, 2), 2))),
    }


def _serial(dice: random.Random) -> _Fields:
    return {
        "partition": dice.choice(KEYED),
        "queue": "serial",
        "serial": dice.choice(SERIAL_KEYS),
        "seconds": round(dice.uniform(0.01, 0.15), 3),
        "fails": dice.choice((0, 0, 0, 1)),
    }


def _delayed(dice: random.Random) -> _Fields:
    return {"delay": round(dice.uniform(0.2, 5), 2)}


def _long(dice: random.Random) -> _Fields:
    return {
        "partition": "alpha",
        "queue": "long",
        "seconds": round(dice.uniform(2, 9), 2),
        "serial": dice.choice((None, None, dice.choice(SERIAL_KEYS))),
    }


def _cancelled(dice: random.Random) -> _Fields:
    """Make a job that is cancelled while it is delayed, runs, or waits for its execution key."""
    made: _Fields = {"cancel_after": round(dice.uniform(0.2, 1.5), 2)}
    if dice.random() < 0.4:
        return made | {"delay": round(dice.uniform(2, 5), 2)}
    made |= {"partition": "alpha", "queue": "long", "seconds": round(dice.uniform(3, 9), 2)}
    if dice.random() < 0.5:
        made |= {"serial": dice.choice(SERIAL_KEYS), "unique": dice.choice(UNIQUE_KEYS)}
    return made


_KINDS: Final[dict[str, Callable[[random.Random], _Fields]]] = {
    "plain": lambda _: {},
    "retrying": _retrying,
    "doomed": lambda _: {"fails": len(LEVELS) + 1},
    "failing": lambda _: {"fails": 1, "is_retryable": False},
    "unique": _unique,
    "serial": _serial,
    "both keys": lambda dice: {**_serial(dice), "unique": dice.choice(UNIQUE_KEYS)},
    "delayed": _delayed,
    "cancelled": _cancelled,
    "long": _long,
    "in a thread": lambda dice: {"in_thread": True, "seconds": round(dice.uniform(0.1, 0.6), 3)},
    "fragile": lambda _: {"partition": FRAGILE[0], "queue": FRAGILE[1], "seconds": 0.2},
}
