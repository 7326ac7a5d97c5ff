"""What is measured of keys, cancellation and fail-over, and what we want to reach."""

from __future__ import annotations

from typing import Any, Final, Literal

from .benchmark import KEYS, Benchmark, Target

_Broker = Literal["rabbitmq", "sqlite", "memory"]

_RABBITMQ: Final = "rabbitmq"
_2000: Final = Target(metric="per_second", limit=2000, at_least=True)


def _make(broker: _Broker, name: str, title: str, **fields: Any) -> Benchmark:
    return Benchmark(
        name=f"{name}-{broker}",
        group=KEYS,
        broker=broker,
        program="benchmarks.with_keys",
        title=f"{broker}: {title}",
        **fields,
    )


def _both_keys(broker: _Broker) -> tuple[Benchmark, ...]:
    common: dict[str, Any] = {"baseline": "plain", "concurrency": 100, "repeats": 5}
    targets = (_2000,) if broker == _RABBITMQ else ()
    return (
        _make(
            broker,
            "keys-many",
            "enqueue_many, then perform",
            task="both_keys_many",
            count=5000,
            warm_up=500,
            targets=targets,
            **common,
        ),
        _make(
            broker,
            "keys-each",
            "100 tasks enqueue, perform",
            task="both_keys_each",
            count=5000,
            warm_up=500,
            targets=targets,
            **common,
        ),
    )


def _cancel(broker: _Broker) -> Benchmark:
    return _make(
        broker,
        "cancel",
        "cancel on another node, 100 jobs running",
        baseline="",
        task="cancel_node",
        companion="cancel_client",
        count=200,
        warm_up=20,
        concurrency=100,
        repeats=3,
        targets=(Target(metric="median_ms", limit=50),),
    )


def _held(broker: _Broker) -> Benchmark:
    return _make(
        broker,
        "held",
        "claims, start-up and memory",
        baseline="none",
        task="claim",
        count=20_000,
        warm_up=1000,
        held=100_000,
        repeats=3,
        targets=(
            Target(metric="cpu_us", limit=1.1, of_ratio=True),
            Target(metric="startup_ms", limit=3000),
            Target(metric="growth_mib", limit=100),
        ),
    )


def _fail_over(broker: _Broker) -> Benchmark:
    return _make(
        broker,
        "fail-over",
        "coordinator killed to next claim answered",
        baseline="",
        task="fail_over",
        count=10,
        warm_up=0,
        least=2,
        repeats=3,
        targets=(Target(metric="most_ms", limit=2000),),
    )


def _hand_over(broker: _Broker) -> Benchmark:
    return _make(
        broker,
        "hand-over",
        "jobs with one execution key, one after the other",
        baseline="",
        task="hand_over",
        count=500,
        warm_up=150,
        concurrency=100,
        repeats=3,
    )


KEY_BENCHMARKS: Final = (
    *_both_keys("rabbitmq"),
    *_both_keys("sqlite"),
    *_both_keys("memory"),
    _cancel("rabbitmq"),
    _cancel("sqlite"),
    _held("rabbitmq"),
    _held("sqlite"),
    _fail_over("rabbitmq"),
    _fail_over("sqlite"),
    _hand_over("rabbitmq"),
    _hand_over("sqlite"),
)
