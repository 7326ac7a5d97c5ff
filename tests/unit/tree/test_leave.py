"""Leave to start: what the coordinator says of a job, and what the worker does about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._brokers.base import Message, PublishRefused
from roger_trio._control.gathering import NobodyListens, NoReply
from roger_trio._control.waiting import EXECUTION_KEY, QUEUE
from roger_trio._jobs import wire
from roger_trio._state import operations as op
from roger_trio._tree.control import Control, FinishedJobs
from roger_trio._tree.performing import Running, StopReason
from roger_trio._tree.worker import Worker
from tests.unit.tree.fakes import (
    NAMES,
    Desk,
    FakeBroker,
    FakeDelivery,
    FakeOrigin,
    make_control,
    make_envelope,
    make_worker,
)

performed: list[str] = []


@roger.job(name="leave:act")
async def act(outcome: str = "") -> None:
    """End as told."""
    performed.append(roger.current_job().id)
    if outcome == "retry":
        raise roger.Retry(5)
    if outcome == "bury":
        raise roger.Bury("enough")


class Notes(roger.Callbacks):
    """Notes what is called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None:
        self.called.append("on_cancel")

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        self.called.append("after_run")


@attrs.define
class Bench:
    """One worker, its coordinator and its broker."""

    broker: FakeBroker
    desk: Desk
    worker: Worker
    notes: Notes

    @classmethod
    def make(cls, *answers: op.Answer) -> Bench:
        """Make one whose coordinator gives these answers."""
        performed.clear()
        broker, desk, notes = FakeBroker(), Desk(), Notes()
        broker.queues.setdefault("myapp-.waiting", type(broker.queues[NAMES.work])())
        desk.answers.extend(answers)
        worker = make_worker(broker, control=make_control(desk), callbacks=notes)
        return cls(broker, desk, worker, notes)

    async def take(self, *, queue: str = NAMES.work, **fields: Any) -> FakeDelivery:
        """Take a delivery of a job on loan."""
        envelope = make_envelope(name="leave:act", id="j1", **fields)
        taken: list[FakeDelivery] = []
        channel = self.broker.add_channel()
        await channel.subscribe(queue, prefetch=1, on_delivery=taken.append)
        self.broker.put(queue, Message(wire.dump(envelope), envelope.id))
        await channel.unsubscribe()
        return taken[0]

    async def handle(self, **fields: Any) -> None:
        """Have the worker handle a job."""
        with trio.fail_after(5):
            await self.worker.handle(await self.take(**fields), FakeOrigin())


async def test_a_job_without_a_key_asks_nobody() -> None:
    """And tells nobody."""
    bench = Bench.make()
    await bench.handle()
    assert (performed, bench.desk.asked, bench.desk.told) == (["j1"], [], [])
    assert bench.broker.acked == ["j1"]


@pytest.mark.parametrize(
    ("outcome", "told"), [("", op.Release), ("bury", op.Release), ("retry", op.Requeue)]
)
async def test_a_job_with_a_key_asks_first_and_tells_how_it_ended(
    outcome: str, told: type[op.Release | op.Requeue]
) -> None:
    """Of the same attempt; then the delivery is settled."""
    bench = Bench.make()
    await bench.handle(execution_key="x", args={"outcome": outcome})
    [start] = bench.desk.asked
    assert isinstance(start, op.Start)
    [end] = bench.desk.told
    assert isinstance(end, told)
    assert (end.job, end.attempt) == ("j1", start.attempt)
    assert start.attempt
    assert bench.broker.acked == ["j1"]


@pytest.mark.parametrize("came_back", [False, True])
async def test_a_forwarded_job_has_not_died(came_back: bool) -> None:
    """Its first return proves nothing, as RabbitMQ 4 counts those from while it waited."""
    bench = Bench.make()
    delivery = await bench.take(execution_key="x", deaths=2)
    delivery.queue, delivery.redelivered = NAMES.redelivered, came_back
    delivery.message = attrs.evolve(delivery.message, headers={EXECUTION_KEY: "x"})
    with trio.fail_after(5):
        await bench.worker.handle(delivery, FakeOrigin())
    assert (performed, bench.broker.acked) == ([] if came_back else ["j1"], ["j1"])
    moved = [
        wire.load(it.body, partition="", queue="").deaths
        for it, _ in bench.broker.queues[NAMES.redelivered]
    ]
    assert moved == ([2] if came_back else [])


async def test_a_job_that_has_to_wait_goes_to_the_waiting_ones() -> None:
    """With what it waits for beside it, and where it is to go then."""
    bench = Bench.make(op.Wait())
    await bench.handle(execution_key="x")
    [(message, _)] = bench.broker.queues["myapp-.waiting"]
    assert message.headers == {EXECUTION_KEY: "x", QUEUE: "default"}
    assert (message.message_id, message.onward) == ("j1", NAMES.redelivered)
    assert (performed, bench.broker.acked, bench.desk.told) == ([], ["j1"], [])


async def refuse(*_: object, **options: float) -> None:
    """Refuse what is published or told."""
    await trio.lowlevel.checkpoint()
    raise PublishRefused("the queue is full")


async def test_a_job_that_cannot_be_put_to_the_waiting_ones_is_not_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given back, or it would be nowhere."""
    bench = Bench.make(op.Wait())
    delivery = await bench.take(execution_key="x")
    monkeypatch.setattr(bench.broker, "publish", refuse)
    with trio.fail_after(5):
        await bench.worker.handle(delivery, FakeOrigin())
    assert (performed, bench.broker.acked, bench.broker.given_back) == ([], [], ["j1"])


async def test_a_job_that_cannot_be_put_back_is_not_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came back before is published anew, as a return would count as a death."""
    bench = Bench.make()
    delivery = await bench.take(queue=NAMES.redelivered, execution_key="x")
    bench.worker.is_paused = True
    monkeypatch.setattr(bench.broker, "publish", refuse)
    with trio.fail_after(5):
        await bench.worker.handle(delivery, FakeOrigin())
    assert (performed, bench.broker.acked, bench.broker.given_back) == ([], [], ["j1"])


async def test_a_job_whose_end_cannot_be_told_is_not_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs again, or its key would be held for ever; nobody is told that it ended."""
    bench = Bench.make()
    monkeypatch.setattr(bench.desk, "tell", refuse)
    await bench.handle(execution_key="x")
    assert (performed, bench.broker.acked, bench.broker.given_back) == (["j1"], [], ["j1"])
    assert bench.notes.called == []


async def test_a_copy_is_settled_and_not_started() -> None:
    """It frees no key."""
    bench = Bench.make(op.Finished())
    await bench.handle(queue_key="k")
    assert (performed, bench.broker.acked, bench.desk.told) == ([], ["j1"], [])
    assert bench.notes.called == []


async def test_a_job_whose_key_another_one_holds_is_buried() -> None:
    """With an error that names both; its end is told for this attempt, which holds nothing."""
    bench = Bench.make(op.Duplicate("j2"))
    await bench.handle(queue_key="k")
    [start] = bench.desk.asked
    assert isinstance(start, op.Start)
    [(message, _)] = bench.broker.queues[NAMES.buried]
    assert "is held by job j2" in str(message.headers)
    assert (performed, bench.broker.acked) == ([], ["j1"])
    [told] = bench.desk.told
    assert isinstance(told, op.Release)
    assert told.attempt == start.attempt


async def test_a_cancelled_job_that_is_met_is_concluded() -> None:
    """Its id is all that tells: it need not have a key."""
    bench = Bench.make(op.Cancelled())
    bench.worker.view.cancelled.add("j1")
    bench.desk.synced = op.Synced(0, (), ("j1",))
    await bench.handle()
    assert (performed, bench.broker.acked) == ([], ["j1"])
    assert bench.notes.called == ["on_cancel"]
    assert [type(each) for each in bench.desk.asked] == [op.Start, op.Conclude]


async def test_a_job_started_elsewhere_is_asked_about_there_first() -> None:
    """And started here instead once it has ended there."""
    bench = Bench.make(op.Elsewhere("two", "inbox.two", "the other"), op.Run())
    await bench.handle(execution_key="x")
    first, second = bench.desk.asked
    assert isinstance(first, op.Start)
    assert second == attrs.evolve(first, instead_of="the other")
    assert performed == ["j1"]


@pytest.mark.parametrize("reason", [StopReason.PAUSED, StopReason.SHUTDOWN])
async def test_who_waits_for_leave_is_given_back(reason: StopReason) -> None:
    """At once: neither a pause nor a stop waits for the coordinator."""
    bench, gate = Bench.make(), trio.Event()

    async def never(partition: str, operation: op.Operation) -> op.Answer:
        await gate.wait()
        return op.Run()

    bench.desk.ask = never  # type: ignore[method-assign]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            delivery = await bench.take(execution_key="x")
            nursery.start_soon(bench.worker.handle, delivery, FakeOrigin())
            await trio.testing.wait_all_tasks_blocked()
            bench.worker.is_paused = reason is StopReason.PAUSED
            bench.worker.turn_away(reason)
    assert (performed, bench.broker.given_back, bench.desk.told) == ([], ["j1"], [])


async def test_a_paused_queue_starts_nothing_that_got_leave_meanwhile() -> None:
    """Leave may have been given before the pause, and arrive after it."""
    bench = Bench.make()
    bench.worker.is_paused = True
    await bench.handle(execution_key="x")
    assert (performed, bench.broker.given_back) == ([], ["j1"])


def test_who_cancels_an_interrupted_job_ends_it_for_good() -> None:
    """But one whose delivery is lost is met again as cancelled."""
    interrupted, lost = Running(make_envelope()), Running(make_envelope())
    interrupted.stop(StopReason.SHUTDOWN)
    lost.stop(StopReason.LOST)
    for each in (interrupted, lost):
        each.stop(StopReason.CANCELLED)
        each.stop(StopReason.SHUTDOWN)
    assert interrupted.stopped is StopReason.CANCELLED
    assert lost.stopped is StopReason.LOST


@pytest.mark.parametrize(
    ("replies", "is_given_up", "seconds"),
    [
        ("ended", False, 0.0),
        ("gone running ended", False, 0.25),  # It was connecting again.
        ("gone gone gone silent gone gone ended", False, 1.25),  # One that is heard of lives.
        ("gone", False, 1.0),
        ("gone", True, 0.0),  # As was found out before.
        ("running ended", True, 0.0),
    ],
)
async def test_a_job_that_runs_elsewhere_starts_once_it_has_ended_or_its_node_is_dead(
    autojump_clock: trio.testing.MockClock, replies: str, is_given_up: bool, seconds: float
) -> None:
    """Dead is a node whose inbox nobody has listened at for a second, not for a moment."""
    rest = replies.split()

    class Inbox(Desk):
        async def ask_inbox(self, *args: object, timeout: float) -> Mapping[str, Any]:
            await trio.lowlevel.checkpoint()
            match rest.pop(0) if len(rest) > 1 else rest[0]:
                case "gone":
                    raise NobodyListens
                case "silent":
                    raise NoReply
                case reply:
                    return {"ended": reply == "ended"}

    desk = Inbox()
    if is_given_up:
        desk.given_up.add("inbox.two")
    desk.answers += [op.Elsewhere("two", "inbox.two", "the other"), op.Run()]
    with trio.fail_after(60):
        envelope = make_envelope(execution_key="e")
        verdict = await make_control(desk).ask_leave(envelope, "this one", 0)
    assert verdict == op.Run()
    assert trio.current_time() == pytest.approx(seconds)
    again = desk.asked[-1]
    assert isinstance(again, op.Start)
    assert (again.attempt, again.instead_of) == ("this one", "the other")


async def test_jobs_ask_in_the_order_they_came_in() -> None:
    """Also where those that come in later are ahead of others within a turn of the scheduler."""
    rows: list[list[int]] = []
    for _ in range(50):
        asked: list[int] = []

        class Courier(Desk):
            def post(
                self,
                partition: str,
                operation: op.Operation,
                asked: list[int] = asked,
            ) -> Callable[[], Awaitable[op.Answer]]:
                assert isinstance(operation, op.Start)
                asked.append(int(operation.job))
                return super().post(partition, operation)

        control = make_control(Courier())

        async def ask(number: int, control: Control = control) -> None:
            envelope = make_envelope(id=str(number), execution_key="e")
            await control.ask_leave(envelope, "attempt", number)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, number)
                if number % 3 == 2:
                    await trio.lowlevel.checkpoint()
        rows.append(asked)
    assert rows == [list(range(12))] * 50


def test_finished_jobs_are_remembered_within_bounds() -> None:
    """The last ones always, and never more than twice as many."""
    finished = FinishedJobs(10)
    for number in range(95):
        finished.add(str(number))
    assert all(str(number) in finished for number in range(85, 95))
    assert sum(str(number) in finished for number in range(95)) <= 20
    finished.discard("94")
    assert "94" not in finished


class Mute(Desk):
    """A coordinator that says nothing until a time, and then that each was the first to tell."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    async def ask(self, partition: str, operation: op.Operation) -> op.Answer:
        self.asked.append(operation)
        await trio.sleep_until(self.until)
        return op.First(is_first=True)


async def test_who_concludes_a_cancelled_job_waits_for_the_answer_however_long_it_takes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """If it is noted and the answer is lost, nobody else is the first, and calls `on_cancel`."""
    desk = Mute(until=60.0)
    with trio.fail_after(120):
        assert await make_control(desk).conclude(make_envelope(), "this one") is True
    assert len(set(desk.asked)) == 1
    assert trio.current_time() == 60.0


async def test_who_concludes_a_cancelled_job_gives_up_soon_once_it_is_cancelled_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A node that is stopped ends, whatever the coordinator does."""
    found: list[bool | None] = []
    with trio.fail_after(120), trio.CancelScope() as scope:
        scope.cancel()
        found.append(await make_control(Mute(until=5.0)).conclude(make_envelope(), "this one"))
        found.append(await make_control(Mute(until=60.0)).conclude(make_envelope(), "this one"))
    assert found == [True, None]
    assert 15.0 <= trio.current_time() <= 18.0
