"""Cancellation at every step of everything: nothing is lost, nobody is disturbed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.lowlevel import Task

from roger_trio._brokers.base import Broker, Delivery, Message, QueueSpec
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._brokers.embedded.open import open_memory_broker, open_sqlite_broker

STEPS = 30
OpenBroker = Callable[[], EmbeddedBroker]


class Axe(trio.abc.Instrument):
    """Cancels a task before one of its steps."""

    def __init__(self, step: int) -> None:
        self._left = step
        self._task: Task | None = None
        self._scope = trio.CancelScope()

    async def fell(self, victim: Callable[[], Awaitable[None]]) -> bool:
        """Run the victim, cancelled at its step; return whether it was."""
        with self._scope:
            self._task = trio.lowlevel.current_task()
            trio.lowlevel.add_instrument(self)
            try:
                await victim()
            finally:
                trio.lowlevel.remove_instrument(self)
        return self._scope.cancelled_caught

    def before_task_step(self, task: Task) -> None:
        """Count steps."""
        if task is self._task:
            self._left -= 1
            if self._left < 0:
                self._scope.cancel()


@pytest.fixture(params=["memory", "sqlite"])
def open_broker(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBroker:
    """Return what makes brokers over the same queues."""
    if request.param == "memory":
        return open_memory_broker
    return lambda: open_sqlite_broker(str(tmp_path / "roger.db"))


class Life:
    """A consumer and publisher that notes what it was promised."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.confirmed: set[bytes] = set()
        self.acked: set[bytes] = set()
        self.flushed: set[bytes] = set()

    async def __call__(self) -> None:
        """Go through all verbs once."""
        send, receive = trio.open_memory_channel[Delivery](10)
        with send, receive:
            bodies = [f"{self.name}.{each}".encode() for each in range(5)]
            await self.broker.publish_many("q", [Message(body) for body in bodies])
            self.confirmed.update(bodies)
            async with self.broker.listen("t") as heard, self.broker.open_channel() as channel:
                await channel.subscribe("q", prefetch=2, on_delivery=send.send_nowait)
                await self.broker.broadcast("t", b"x")
                await heard.receive()
                first = await receive.receive()
                first.ack()
                self.acked.add(first.body)
                (await receive.receive()).give_back()
                await channel.flush()
                self.flushed.add(first.body)
                await channel.unsubscribe()
                async with self.broker.browse("q", 2) as [seen, *_]:
                    seen.ack()
                    self.acked.add(seen.body)
                self.flushed.add(seen.body)


async def contents(broker: Broker) -> list[bytes]:
    """Look at all there is."""
    async with broker.browse("q", 1000) as found:
        return [each.body for each in found]


async def test_cancelled_at_any_step(open_broker: OpenBroker) -> None:
    """Whatever is cancelled at whichever step: what was confirmed is there, and given back."""
    broker = open_broker()
    felled = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        await broker.declare([QueueSpec(name="q")])
        for step in range(STEPS):
            life = Life(broker, str(step))
            with trio.fail_after(10):
                felled += await Axe(step).fell(life)
                left = await contents(broker)
            assert life.confirmed - life.acked <= set(left)
            assert not life.flushed & set(left)
            assert len(left) == len(set(left))
            await broker.purge("q")
            assert (await broker.count("q")).consumers == 0
        nursery.cancel_scope.cancel()
    assert felled >= 10


async def test_a_broker_cancelled_at_any_step(open_broker: OpenBroker) -> None:
    """A broker that is closed at any moment gives back what it has and keeps what was settled."""
    witness = open_broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(witness.run)
        await witness.declare([QueueSpec(name="q")])
        for steps in range(STEPS):
            broker = open_broker()
            async with trio.open_nursery() as inner:
                await inner.start(broker.run)
                life = Life(broker, str(steps))
                inner.start_soon(life)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                inner.cancel_scope.cancel()
            left = await contents(witness)
            assert life.confirmed - life.acked <= set(left)
            assert not life.acked & set(left), "what was settled before the end holds"
            await witness.purge("q")
        nursery.cancel_scope.cancel()
