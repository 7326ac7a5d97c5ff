"""The courier: operations go together, are answered in order, and survive what gets lost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from roger_trio._brokers.base import Broker, BrokerError, Message, MessageTooLarge
from roger_trio._control import wire
from roger_trio._control.lane import MOST_BYTES, MOST_OPERATIONS
from roger_trio._state.operations import (
    Claim,
    Claimed,
    HeldBy,
    ListPaused,
    Operation,
    PausedQueues,
    Published,
    Release,
    Withdraw,
)
from roger_trio._topology import PartitionNames

from .fakes import Controls, FakeCoordinator, controls, memory_broker

QUEUE = PartitionNames.of("", "p").coordinator


def claim(job: str, key: str = "", nonce: str = "") -> Claim:
    """Make a claim."""
    return Claim(job, key or job, "default", nonce or job, "inbox.x")


@contextlib.asynccontextmanager
async def conversation() -> AsyncGenerator[tuple[Controls, FakeCoordinator]]:
    """Have one who asks, and a coordinator that answers."""
    async with (
        memory_broker() as broker,
        controls(broker) as here,
        FakeCoordinator(broker).running() as coordinator,
    ):
        yield here, coordinator


async def test_an_operation_is_answered() -> None:
    """The answer is that of the coordinator; a second job finds the key held."""
    with trio.fail_after(10):
        async with conversation() as (here, _):
            assert await here.courier.ask("p", claim("a", "k")) == Claimed()
            assert await here.courier.ask("p", claim("b", "k")) == HeldBy("a")


async def test_what_comes_up_meanwhile_goes_together() -> None:
    """A thousand tasks that ask at once need a handful of messages, and each gets its answer."""
    answers: dict[int, object] = {}
    with trio.fail_after(20):
        async with conversation() as (here, coordinator):

            async def ask(number: int) -> None:
                key = f"key {number // 2}"
                answers[number] = await here.courier.ask("p", claim(str(number), key))

            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, number)
    held = sum(isinstance(each, HeldBy) for each in answers.values())
    assert (len(answers), held) == (1000, 500)
    assert len(coordinator.batches) <= 4
    assert max(len(each) for each in coordinator.batches) <= MOST_OPERATIONS


async def test_answers_come_back_in_order_around_one_way_operations() -> None:
    """Many at once, with operations without an answer in the same messages."""
    with trio.fail_after(20):
        async with conversation() as (here, coordinator):
            here.courier.tell_soon("p", Release("x"))
            claims = [claim(str(number), f"k{number % 700}") for number in range(1400)]
            answers = await here.courier.ask_many("p", claims)
            await here.courier.tell("p", *(Published(each.job, each.nonce) for each in claims))
    assert answers == [Claimed()] * 700 + [HeldBy(str(number)) for number in range(700)]
    assert [each.job for each in coordinator.operations if isinstance(each, Claim)] == [
        each.job for each in claims
    ]


async def test_messages_are_bounded_in_bytes() -> None:
    """Long keys make for shorter messages."""
    with trio.fail_after(20):
        async with conversation() as (here, coordinator):
            claims = [claim(str(number), f"{number} ".ljust(1000, "x")) for number in range(600)]
            assert await here.courier.ask_many("p", claims) == [Claimed()] * 600
    for batch in coordinator.batches:
        assert len(wire.encode(wire.Commands(here.bus.inbox, 1, batch))) <= MOST_BYTES


async def test_a_lost_answer_is_asked_for_again(autojump_clock: MockClock) -> None:
    """After two seconds, with the same operations; those given up meanwhile are not among them."""
    with trio.fail_after(60):
        async with conversation() as (here, coordinator):
            coordinator.losing = 2
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as given_up:
                    nursery.start_soon(here.courier.ask, "p", claim("kept"))
                    nursery.start_soon(_cancel_soon, given_up)
                    await here.courier.ask("p", claim("given up"))
            assert 4 <= trio.current_time() - began < 5
    assert given_up.cancelled_caught
    assert [each for each in coordinator.operations if each == claim("kept")] == [claim("kept")] * 3
    assert coordinator.operations.count(claim("given up")) == 1


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_what_may_have_been_missed_is_asked_again_at_once(
    autojump_clock: MockClock,
) -> None:
    """An answer lost with the connection costs no wait once the bus hears again."""
    with trio.fail_after(60):
        async with conversation() as (here, coordinator):
            coordinator.losing = 1
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.courier.ask, "p", claim("a"))
                await coordinator.heard.park()
                assert here.bus.on_again is not None
                here.bus.on_again()
            assert trio.current_time() - began < 0.1
    assert coordinator.operations == [claim("a")] * 2


async def test_what_was_not_decided_is_asked_again_later(autojump_clock: MockClock) -> None:
    """The answers beside it count, and it alone is sent again."""
    answers: list[object] = []
    with trio.fail_after(60):
        async with conversation() as (here, coordinator):
            coordinator.undecided.add(claim("a"))

            async def ask(job: str) -> None:
                answers.append(await here.courier.ask("p", claim(job)))

            async with trio.open_nursery() as nursery:
                for job in ("a", "b"):
                    nursery.start_soon(ask, job)
                await coordinator.heard.park()
                await wait_all_tasks_blocked()
                assert answers == [Claimed()]
                coordinator.undecided.clear()
    assert answers == [Claimed()] * 2
    assert coordinator.batches[1:] == [[claim("a")]]


async def test_nothing_is_sent_again_while_nobody_is_there(autojump_clock: MockClock) -> None:
    """One message waits in the queue, and is answered when a coordinator comes."""
    with trio.fail_after(600):
        async with memory_broker() as broker, controls(broker) as here:
            coordinator = FakeCoordinator(broker)
            await broker.declare([coordinator.names.coordinator_spec()])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.courier.ask, "p", claim("a"))
                await trio.sleep(60)
                assert (await broker.count(QUEUE)).messages == 1
                async with coordinator.running():
                    while nursery.child_tasks:
                        await coordinator.heard.park()
                        await wait_all_tasks_blocked()
    assert len(coordinator.operations) <= 2


async def test_a_partition_that_never_ran(autojump_clock: MockClock) -> None:
    """Who asks waits for it to come up; who tells has nothing to tell."""
    with trio.fail_after(600):
        async with memory_broker() as broker, controls(broker) as here:
            await here.courier.tell("p", Release("a"), Release("b"))
            here.courier.tell_soon("p", Withdraw("a", "n"))
            await here.courier.flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.courier.ask, "p", claim("a"))
                await trio.sleep(5)
                async with FakeCoordinator(broker).running() as coordinator:
                    await coordinator.heard.park()
                    await wait_all_tasks_blocked()
                    assert not nursery.child_tasks
    assert coordinator.operations == [claim("a")]


async def test_what_is_told_is_told_although_the_teller_is_cancelled() -> None:
    """`tell` that was given up goes all the same; an `ask` that did not leave yet does not."""
    with trio.fail_after(10):
        async with conversation() as (here, coordinator):
            with trio.CancelScope() as scope:
                scope.cancel()
                await here.courier.ask("p", claim("given up"))
            with trio.CancelScope() as scope:
                scope.cancel()
                await here.courier.tell("p", Release("told"))
            await here.courier.flush()
            assert await here.courier.ask("p", ListPaused()) == PausedQueues(())
    assert coordinator.operations == [Release("told"), ListPaused()]


async def test_no_timer_runs_while_nothing_is_outstanding(autojump_clock: MockClock) -> None:
    """The clock of a test would jump to the next timer if there were one."""
    async with (
        memory_broker() as broker,
        controls(broker) as here,
        FakeCoordinator(broker).running(),
    ):
        await here.courier.ask("p", claim("a"))
        await here.courier.tell("p", Published("a", "a"))
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 50


async def test_foreign_answers_are_logged_once_and_ignored(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Bytes, other versions, answers to nothing and too few answers do no harm."""
    with trio.fail_after(60):
        async with memory_broker() as broker, controls(broker) as here:
            coordinator = FakeCoordinator(broker)
            await broker.declare([coordinator.names.coordinator_spec()])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.courier.ask, "p", claim("a"))
                await wait_all_tasks_blocked()
                for _ in range(3):
                    for body in (
                        b"\x00rubbish",
                        b'{"roger":2}',
                        wire.encode(wire.Answers("other", 1, [Claimed()])),
                        wire.encode(wire.Answers("p", 99, [Claimed()])),
                        wire.encode(wire.Answers("p", 1, [Claimed(), Claimed()])),
                    ):
                        assert await broker.broadcast(here.bus.inbox, body)
                await wait_all_tasks_blocked()
                assert nursery.child_tasks
                async with coordinator.running():
                    await coordinator.heard.park()
                    await wait_all_tasks_blocked()
                    assert not nursery.child_tasks
    assert len(caplog.records) == 3


class Refusing:
    """A broker that refuses large messages, or all."""

    def __init__(self, broker: Broker, most: int) -> None:
        self._broker = broker
        self._most = most
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._broker, name)

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish what is small enough."""
        if len(message.body) > self._most:
            self.refused += 1
            raise MessageTooLarge(f"{len(message.body)} bytes")
        await self._broker.publish(queue, message, delay=delay)


async def test_a_broker_that_takes_small_messages_gets_small_ones() -> None:
    """Operations are sent in smaller groups; one that is too large alone is an error."""
    with trio.fail_after(20):
        async with memory_broker() as broker:
            refusing = Refusing(broker, 2000)
            async with controls(refusing) as here, FakeCoordinator(broker).running() as coordinator:  # type: ignore[arg-type]
                operations: list[Operation] = [claim(str(number)) for number in range(100)]
                assert await here.courier.ask_many("p", operations) == [Claimed()] * 100
                with pytest.raises(BrokerError, match="bytes"):
                    await here.courier.ask("p", claim("x", "k" * 2000))
                assert await here.courier.ask("p", claim("y")) == Claimed()
    assert refusing.refused
    assert coordinator.operations == [*operations, claim("y")]
