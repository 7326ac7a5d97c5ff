"""The coordinator: it decides, saves, answers; the broker says whose turn it is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from roger_trio import MemoryPersister, Persister
from roger_trio._brokers.base import Broker, Message, QueueSpec
from roger_trio._brokers.embedded.open import Memory
from roger_trio._control.controls import Controls
from roger_trio._control.coordinator import Coordinator
from roger_trio._control.waiting import EXECUTION_KEY, QUEUE
from roger_trio._state import operations as op
from roger_trio._state.broker_state import BrokerState
from roger_trio._state.decisions import Decision
from roger_trio._state.ledger import Ledger
from roger_trio._state.store import Store
from roger_trio._topology import PartitionNames, QueueNames
from roger_trio.testing._wrapping import WrappingBroker
from tests.unit.control.fakes import controls, identity, memory_broker

Clock = trio.testing.MockClock
NAMES = PartitionNames.of("", "p")


class Keeper:
    """Keeps state in memory, and fails when it is told to."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.saves = 0
        self.failures = 0
        self.before_save: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def load(self, partition: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.data

    async def save(self, partition: str, data: bytes) -> None:
        await self.before_save()
        if self.failures:
            self.failures -= 1
            raise OSError("no space left on device")
        self.saves += 1
        self.data = data


async def heard(inbox: str) -> bool:
    """Say that somebody listens everywhere."""
    await trio.lowlevel.checkpoint()
    return True


async def unwanted(inbox: str, request: int) -> bool:
    """Say that nobody waits any more."""
    await trio.lowlevel.checkpoint()
    return False


@contextlib.asynccontextmanager
async def coordinating(
    broker: Broker,
    persister: Persister,
    is_heard: Callable[[str], Awaitable[bool]] = heard,
) -> AsyncGenerator[Coordinator]:
    """Run a coordinator of the partition p."""
    coordinator = Coordinator(broker, "", "p", Store(persister, "p"), is_heard, unwanted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(coordinator.run)
        await coordinator.declared.wait()
        yield coordinator
        coordinator.stop()


@contextlib.asynccontextmanager
async def partition(
    persister: Persister, is_heard: Callable[[str], Awaitable[bool]] = heard
) -> AsyncGenerator[tuple[Broker, Controls]]:
    """Run a coordinator of p, and a node that asks it."""
    with trio.fail_after(60):
        async with (
            memory_broker() as broker,
            coordinating(broker, persister, is_heard),
            controls(broker, identity()) as node,
        ):
            yield broker, node


def claim(job: str, key: str = "k", inbox: str = "inbox.x") -> op.Claim:
    """Claim a key."""
    return op.Claim(job, key, "default", f"nonce of {job}", inbox)


def start(job: str, attempt: str) -> op.Start:
    """Ask to start a job with an execution key."""
    return op.Start(job, "default", None, "x", "here", "inbox.here", attempt=attempt)


class Declared(WrappingBroker):
    """A broker that notes what is declared together."""

    def __init__(self, inner: Broker) -> None:
        super().__init__(inner)
        self.together: list[list[str]] = []

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        made = await super().declare(queues, afresh=afresh)
        self.together.append([each.name for each in queues])
        return made


async def test_all_queues_of_a_partition_are_declared_at_once_before_it_is_asked() -> None:
    """What a new queue has to be waited for is waited for once, not once for each."""
    with trio.fail_after(10):
        async with memory_broker() as inner:
            for persister, state in (
                (MemoryPersister(), []),
                (BrokerState(inner, ""), ["p-.state"]),
            ):
                broker = Declared(inner)
                async with coordinating(broker, persister):
                    assert broker.together == [["p-.coordinator", "p-.waiting", *state]]


async def test_it_answers_after_it_has_saved() -> None:
    """While the save is on its way nobody hears anything."""
    keeper, saving, may_save = Keeper(), trio.Event(), trio.Event()

    async def wait() -> None:
        saving.set()
        await may_save.wait()

    answers: list[op.Answer] = []
    async with partition(keeper) as (_, node), trio.open_nursery() as nursery:
        await node.courier.ask("p", op.ListKeys())  # The first save is of an empty broker.
        keeper.before_save, saves = wait, keeper.saves

        async def ask() -> None:
            answers.append(await node.courier.ask("p", claim("j1")))

        nursery.start_soon(ask)
        await saving.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (answers, keeper.saves) == ([], saves)
        may_save.set()
    assert answers == [op.Claimed()]
    assert keeper.saves == saves + 1


async def test_a_command_that_was_not_saved_when_the_coordinator_died_comes_again() -> None:
    """Also one that is not asked again: a release that is lost would leak its key for ever."""
    keeper, saving = Keeper(), trio.Event()

    async def hang() -> None:
        saving.set()
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with memory_broker() as broker, controls(broker, identity()) as node:
            with trio.CancelScope() as death:
                async with coordinating(broker, keeper):
                    assert await node.courier.ask("p", claim("j1", "k")) == op.Claimed()
                    keeper.before_save = hang
                    await node.courier.tell("p", op.Release("j1"))
                    await saving.wait()
                    death.cancel()
            keeper.before_save = trio.lowlevel.checkpoint
            async with coordinating(broker, keeper):
                assert await node.courier.ask("p", op.ListKeys()) == op.Keys(())


async def test_several_commands_share_one_save() -> None:
    """What comes in while one save is on its way is decided and saved together."""
    keeper = Keeper()
    async with partition(keeper) as (_, node):
        keys = [claim(f"j{n}", f"k{n}") for n in range(200)]
        assert await node.courier.ask_many("p", keys) == [op.Claimed()] * 200
    assert keeper.saves < 10


async def test_a_save_that_fails_ends_it_and_the_command_comes_again(
    autojump_clock: Clock,
) -> None:
    """Whoever runs it starts it over; then it answers as if nothing had been."""
    keeper = Keeper()
    keeper.failures = 1
    with trio.fail_after(60):
        async with memory_broker() as broker, controls(broker, identity()) as node:
            coordinator = Coordinator(broker, "", "p", Store(keeper, "p"), heard, unwanted)
            answers: list[op.Answer] = []

            async def ask() -> None:
                await coordinator.declared.wait()
                answers.append(await node.courier.ask("p", claim("j1")))
                coordinator.stop()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with pytest.raises(OSError, match="no space left"):
                    await coordinator.run()
                assert answers == []
                await coordinator.run()
    assert answers == [op.Claimed()]


async def test_an_operation_that_cannot_be_decided_holds_up_nobody_else(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends one term; the next one answers the others, and tries it again after a minute."""
    handle, poison = Ledger.handle, op.Pause("default", "inbox.x", 1)
    failures, answers = [KeyError("no rule")], list[tuple[op.Answer, float]]()

    def fail(self: Ledger, operation: op.Operation, now: float) -> Decision:
        if operation == poison and failures:
            raise failures.pop()
        return handle(self, operation, now)

    monkeypatch.setattr(Ledger, "handle", fail)
    with trio.fail_after(600):
        async with memory_broker() as broker, controls(broker, identity()) as node:
            coordinator = Coordinator(
                broker, "", "p", Store(MemoryPersister(), "p"), heard, unwanted
            )

            async def run() -> None:
                with pytest.raises(KeyError):
                    await coordinator.run()
                await coordinator.run()

            async def ask(operation: op.Operation) -> None:
                answers.append((await node.courier.ask("p", operation), trio.current_time()))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await coordinator.declared.wait()
                async with trio.open_nursery() as asking:
                    for each in (claim("j1", "k1"), poison, claim("j2", "k2")):
                        asking.start_soon(ask, each)
                coordinator.stop()
    assert [answer for answer, _ in answers] == [op.Claimed(), op.Claimed(), op.Recorded(())]
    assert answers[1][1] < 5
    assert 60 <= answers[2][1] < 70
    [error] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "Pause" in error.getMessage()
    assert error.exc_info is not None


async def test_when_one_goes_the_next_one_knows_all_and_answers(autojump_clock: Clock) -> None:
    """Two wait for their turn; the broker chooses."""
    keeper, memory = Keeper(), Memory()
    with trio.fail_after(60):
        async with (
            memory_broker(memory) as one,
            memory_broker(memory) as two,
            controls(two, identity()) as node,
        ):
            async with coordinating(one, keeper) as first, coordinating(two, keeper):
                await node.courier.ask("p", claim("j1"))
                first.stop()
                assert await node.courier.ask("p", claim("j2")) == op.HeldBy("j1")
            async with coordinating(two, keeper):
                assert await node.courier.ask("p", claim("j3")) == op.HeldBy("j1")


async def test_foreign_bytes_are_logged_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """They hold up nobody, and do not come again."""
    async with partition(MemoryPersister()) as (broker, node):
        for _ in range(5):
            await broker.publish(NAMES.coordinator, Message(b"\xff\x00 what?"))
        assert await node.courier.ask("p", claim("j1")) == op.Claimed()
        assert (await broker.count(NAMES.coordinator)).messages == 0
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "no command, and is ignored" in lines[0]


async def test_waiting_jobs_go_on_one_by_one_in_their_order(autojump_clock: Clock) -> None:
    """They wait in the broker, without a body here, until the holder has ended."""
    names = QueueNames.of("", "p", "default")
    async with partition(MemoryPersister()) as (broker, node):
        await broker.declare(names.specs())
        assert await node.courier.ask("p", start("j0", "a0")) == op.Run()
        for job in ("j1", "j2"):
            assert await node.courier.ask("p", start(job, f"first of {job}")) == op.Wait()
            headers = {EXECUTION_KEY: "x", QUEUE: "default"}
            message = Message(b"body of " + job.encode(), job, headers, names.redelivered)
            await broker.publish(NAMES.waiting, message)
        await trio.sleep(1)
        assert (await broker.count(names.redelivered)).messages == 0

        await node.courier.tell("p", op.Release("j0", "a0"))
        await trio.sleep(1)
        async with broker.browse(names.redelivered, 10) as found:
            assert [each.body for each in found] == [b"body of j1"]
        assert await node.courier.ask("p", start("j1", "a1")) == op.Run()
        await node.courier.tell("p", op.Release("j1", "a1"))
        await trio.sleep(1)
        async with broker.browse(names.redelivered, 10) as found:
            assert [each.body for each in found] == [b"body of j1", b"body of j2"]


async def test_what_a_dead_client_claimed_is_free_again(autojump_clock: Clock) -> None:
    """It is looked for twice; one that lives keeps its claim."""
    living: set[str] = {"inbox.live"}
    asked: list[str] = []

    async def is_heard(inbox: str) -> bool:
        await trio.lowlevel.checkpoint()
        asked.append(inbox)
        return inbox in living

    async with partition(MemoryPersister(), is_heard) as (_, node):
        await node.courier.ask("p", claim("j1", "dead", "inbox.dead"))
        await node.courier.ask("p", claim("j2", "live", "inbox.live"))
        await trio.sleep(9)
        assert isinstance(await node.courier.ask("p", claim("j3", "dead")), op.HeldBy)
        await trio.sleep(7)
        assert await node.courier.ask("p", claim("j4", "dead")) == op.Claimed()
        assert isinstance(await node.courier.ask("p", claim("j5", "live")), op.HeldBy)
        assert asked.count("inbox.dead") == 2


async def test_an_empty_broker_voids_the_keys_and_keeps_the_pauses() -> None:
    """The jobs that held them are gone with it."""
    keeper = Keeper()
    async with partition(keeper) as (_, node):
        await node.courier.ask("p", claim("j1"))
        await node.courier.ask("p", op.Pause("default", "", 0))
    async with partition(keeper) as (_, node):
        assert await node.courier.ask("p", claim("j2")) == op.Claimed()
        assert await node.courier.ask("p", op.ListPaused()) == op.PausedQueues(("default",))


async def test_nodes_on_two_hosts_with_state_on_one_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names the hosts, and says what to do."""
    async with partition(MemoryPersister()) as (_, node):
        for n in range(3):
            await node.courier.ask("p", op.Sync(f"n{n}", f"inbox.{n}", f"host{n % 2}"))
    [line] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "'host0', 'host1'" in line
    assert "BrokerPersister()" in line
