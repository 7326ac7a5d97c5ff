"""A coordinator and nodes that do as little as the asking side needs, and can fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import trio

from roger_trio._brokers.base import Broker, Channel, Delivery
from roger_trio._brokers.embedded.open import Memory
from roger_trio._control import wire
from roger_trio._control.bus import Bus
from roger_trio._control.controls import Controls
from roger_trio._control.gathering import Asker
from roger_trio._control.roster import Identity
from roger_trio._state.ledger import Ledger
from roger_trio._state.operations import ONE_WAY, Answer, Operation, Purged
from roger_trio._topology import NODES_TOPIC, PartitionNames, QueueNames

STARTED = datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC)


@contextlib.asynccontextmanager
async def memory_broker(memory: Memory | None = None) -> AsyncGenerator[Broker]:
    """Run a broker in memory."""
    broker = (memory or Memory()).open_broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        yield broker
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def controls(
    broker: Broker, identity: Identity | None = None, prefix: str = ""
) -> AsyncGenerator[Controls]:
    """Run a bus and a courier."""
    made = Controls(broker, prefix, identity)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def identity(name: str = "here", pid: int = 7) -> Identity:
    """Make a node's identity."""
    return Identity(name=name, host="host", pid=pid, version="1", started_at=STARTED)


@contextlib.asynccontextmanager
async def node_bus(broker: Broker, name: str, pid: int = 7) -> AsyncGenerator[Bus]:
    """Run a node's bus that has joined."""
    bus = Bus(broker, identity(name, pid))
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run)
        assert await bus.join() is None
        yield bus
        nursery.cancel_scope.cancel()


def replying(bus: Bus, reply: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> None:
    """Have a bus reply to questions; None: it does not."""

    def answer(question: Mapping[str, Any], asker: Asker) -> None:
        found = reply(question)
        if found is not None:
            bus.reply_soon(asker, found)

    bus.on_question = answer


class FakeCoordinator:
    """Answers commands from a ledger in memory; a test may have it lose what it answers.

    Args:
        broker: Where the commands are.
        partition: Its partition.
        prefix: The cluster's prefix.
    """

    def __init__(self, broker: Broker, partition: str = "p", prefix: str = "") -> None:
        self._broker = broker
        self._partition = partition
        self._prefix = prefix
        self.names = PartitionNames.of(prefix, partition)
        self.ledger = Ledger()
        self.batches: list[list[Operation]] = []
        self.losing = 0
        """How many messages' answers are still to be lost."""
        self.undecided: set[Operation] = set()
        """What it cannot decide."""
        self.is_stuck = False
        """Whether it takes nothing."""
        self.heard = trio.lowlevel.ParkingLot()
        self._arrived: list[Delivery] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[FakeCoordinator]:
        """Run it."""
        await self._broker.declare([self.names.coordinator_spec()])
        async with (
            self._broker.open_channel(speaks=True) as channel,
            trio.open_nursery() as nursery,
        ):
            send, receive = trio.open_memory_channel[Delivery](10_000)
            await channel.subscribe(
                self.names.coordinator, prefetch=1000, on_delivery=send.send_nowait
            )
            nursery.start_soon(self._serve, channel, receive)
            yield self
            nursery.cancel_scope.cancel()

    async def _serve(self, channel: Channel, receive: trio.MemoryReceiveChannel[Delivery]) -> None:
        async for delivery in receive:
            if self.is_stuck:
                continue
            message = wire.decode(delivery.body)
            assert isinstance(message, wire.Commands)
            self.batches.append(list(message.operations))
            await self._answer(channel, message)
            delivery.ack()
            self.heard.unpark_all()

    async def _answer(self, channel: Channel, message: wire.Commands) -> None:
        answers: list[Answer | None] = []
        for operation in message.operations:
            if operation in self.undecided:
                answers.append(None)
                continue
            decision = self.ledger.handle(operation, time.time())
            for event in decision.events:
                channel.say(NODES_TOPIC, wire.encode(wire.EventMessage(self._partition, event)))
            answer = decision.answer
            if decision.purge is not None:
                names = QueueNames.of(self._prefix, self._partition, decision.purge)
                count = await self._broker.purge(names.work)
                answer = Purged(count + await self._broker.purge(names.redelivered))
            if not isinstance(operation, ONE_WAY):
                assert answer is not None
                answers.append(answer)
        if self.losing:
            self.losing -= 1
        elif answers:
            body = wire.encode(wire.Answers(self._partition, message.batch, answers))
            channel.say(message.inbox, body)

    @property
    def operations(self) -> list[Operation]:
        """All operations that came, in order."""
        return [each for batch in self.batches for each in batch]
