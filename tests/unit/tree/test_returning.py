"""Jobs that came back: who is asked about them, and what the answers decide."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import roger_trio as roger
from roger_trio._brokers.base import Message
from roger_trio._control.fates import TELL_WITHIN, Fate
from roger_trio._jobs import wire
from roger_trio._jobs.copies import Instance, copy_of, instance_of
from roger_trio._state import operations as op
from roger_trio._tree.performing import StopReason
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


@roger.job(name="returning:act")
async def act(stays: bool = False) -> None:
    """End at once, or stay."""
    performed.append(roger.current_job().id)
    if stays:
        await trio.sleep_forever()


class Bench:
    """One worker on one of two nodes of a partition; the other one answers as it is told."""

    def __init__(self, fate: Fate = Fate.ABSENT) -> None:
        performed.clear()
        self.broker, self.desk, self.origin = FakeBroker(), Desk(), FakeOrigin()
        self.desk.mates, self.desk.fate = ["inbox.two"], fate.value
        self.control = make_control(self.desk)
        self.worker = make_worker(self.broker, control=self.control)

    async def take(self, envelope: roger.Envelope, queue: str = NAMES.work) -> FakeDelivery:
        """Take a delivery of a job on loan, as one that came back."""
        taken: list[FakeDelivery] = []
        channel = self.broker.add_channel()
        await channel.subscribe(queue, prefetch=1, on_delivery=taken.append)
        self.broker.put(queue, Message(wire.dump(envelope), envelope.id))
        await channel.unsubscribe()
        taken[0].redelivered = True
        return taken[0]

    def moved(self) -> list[roger.Envelope]:
        """Read what was moved to the redelivered ones."""
        found = self.broker.queues[NAMES.redelivered]
        return [wire.load(it.body, partition="myapp", queue="default") for it, _ in found]


def job(**fields: object) -> roger.Envelope:
    """Make a job."""
    return make_envelope(name="returning:act", **fields)


async def test_nobody_is_asked_about_a_job_that_was_never_handed_out() -> None:
    """Neither in its queue, nor among those that came back before."""
    bench = Bench(Fate.DONE)
    for queue in (NAMES.work, NAMES.redelivered):
        delivery = await bench.take(job(), queue)
        delivery.redelivered = False
        await bench.worker.handle(delivery, bench.origin)
    assert (len(performed), bench.desk.questions) == (2, [])


async def test_what_has_ended_elsewhere_is_settled_and_not_started() -> None:
    """Whichever queue it came back in."""
    bench = Bench(Fate.DONE)
    for queue in (NAMES.work, NAMES.redelivered):
        await bench.worker.handle(await bench.take(job(), queue), bench.origin)
    assert (performed, bench.moved(), len(bench.broker.acked)) == ([], [], 2)
    assert [each["has"] for each in bench.desk.questions] == [True, True]


@pytest.mark.parametrize(
    ("fate", "told"), [(Fate.OVER, op.Release), (Fate.DONE, op.Requeue)], ids=["over", "retried"]
)
@pytest.mark.parametrize("is_here", [False, True], ids=["elsewhere", "here"])
async def test_what_has_ended_leaks_no_key_that_another_delivery_took(
    fate: Fate, told: type[op.Release | op.Requeue], is_here: bool
) -> None:
    """This one takes the keys over from that, and lets them go; it starts nothing."""
    bench = Bench(Fate.ABSENT if is_here else fate)
    envelope = job(execution_key="e", queue_key="q")
    if is_here:
        bench.control.done.add(copy_of(envelope))
        if fate is Fate.OVER:
            bench.control.finished.add(envelope.id)
    bench.desk.answers = [op.Elsewhere("two", "inbox.two", "that"), op.Run()]
    delivery = await bench.take(envelope, NAMES.redelivered)
    assert not bench.worker.take_back(delivery, bench.origin)
    await bench.worker.handle(delivery, bench.origin)
    [_, start], [end] = bench.desk.asked, bench.desk.told
    assert isinstance(start, op.Start)
    assert isinstance(end, told)
    assert (start.instead_of, start.to_forget) == ("that", True)
    assert start.attempt == end.attempt
    assert (performed, bench.moved(), len(bench.broker.acked)) == ([], [], 1)


@pytest.mark.parametrize(("fate", "deaths"), [(Fate.SURVIVED, 2), (Fate.ABSENT, 3)])
async def test_only_who_is_not_known_to_live_has_died(fate: Fate, deaths: int) -> None:
    """The first return proves nothing, whoever answers."""
    bench = Bench(fate)
    came = job(deaths=2, moves=4)
    await bench.worker.handle(await bench.take(came, NAMES.redelivered), bench.origin)
    await bench.worker.handle(await bench.take(job(deaths=2)), bench.origin)
    assert [(each.deaths, each.moves) for each in bench.moved()] == [(deaths, 5), (2, 1)]


async def test_a_job_that_runs_elsewhere_goes_back_until_its_node_gets_it() -> None:
    """From whichever queue; the next one to get it asks again, and starts it once it has ended."""
    bench = Bench(Fate.RUNS)
    await bench.worker.handle(await bench.take(job(deaths=2)), bench.origin)
    for count, fate in enumerate((Fate.RUNS, Fate.ABSENT), 1):
        [moved] = bench.moved()
        assert (moved.orphaned, moved.deaths, moved.moves) == (True, 2, count)
        bench.broker.queues[NAMES.redelivered].clear()
        delivery = await bench.take(moved, NAMES.redelivered)
        delivery.redelivered = False
        bench.desk.fate = fate.value
        assert performed == []
        await bench.worker.handle(delivery, bench.origin)
    assert (performed, bench.moved()) == ([moved.id], [])
    assert len(bench.desk.questions) == 3


async def test_what_this_node_lost_itself_is_no_death() -> None:
    """Of that very message; another one of the same job is another matter."""
    bench = Bench()
    lost = job(deaths=1, moves=1)
    bench.control.survived.add(instance_of(lost))
    await bench.worker.handle(await bench.take(lost, NAMES.redelivered), bench.origin)
    assert [each.deaths for each in bench.moved()] == [1]
    [again] = bench.moved()
    bench.broker.queues[NAMES.redelivered].clear()
    await bench.worker.handle(await bench.take(again, NAMES.redelivered), bench.origin)
    assert [each.deaths for each in bench.moved()] == [2]


async def test_a_job_goes_on_though_another_node_has_its_delivery(
    autojump_clock: MockClock,
) -> None:
    """That node is told so after a moment, or as soon as it has ended."""
    bench, envelope = Bench(), job(args={"stays": True})
    instance = instance_of(envelope)
    delivery = await bench.take(envelope)
    delivery.redelivered = False
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.worker.handle, delivery, bench.origin)
            await trio.testing.wait_all_tasks_blocked()
            [running] = bench.worker.running
            assert await bench.worker.tell_fate(instance) is Fate.RUNS
            assert bench.worker.has_delivery(instance.copy)
            assert running.stopped is None
            delivery.channel.lose()
            assert bench.worker.lose(bench.origin, (), ()) == [running]
            assert bench.control.orphaned.is_set()
            assert not bench.worker.has_delivery(instance.copy)
            before = trio.current_time()
            assert await bench.worker.tell_fate(instance) is Fate.RUNS
            assert trio.current_time() - before == TELL_WITHIN
            assert running.stopped is None
            running.stop(StopReason.SHUTDOWN)
            assert await bench.worker.tell_fate(instance) is Fate.SURVIVED
    assert bench.broker.acked == []
    assert await bench.worker.tell_fate(Instance(instance.copy, 1)) is Fate.ABSENT


async def test_a_job_that_moves_on_is_not_given_the_message_it_has_moved_to() -> None:
    """It would settle that, too, and be lost."""
    bench, envelope = Bench(), job()
    delivery = await bench.take(envelope)
    seen: list[bool] = []
    publish = bench.broker.publish

    async def publish_and_deliver(queue: str, message: Message, *, delay: float = 0.0) -> None:
        await publish(queue, message, delay=delay)
        again = await bench.take(wire.load(message.body, partition="myapp", queue="default"))
        seen.append(bench.worker.take_back(again, bench.origin))

    bench.broker.publish = publish_and_deliver  # type: ignore[method-assign]
    await bench.worker.handle(delivery, bench.origin)
    assert seen == [False]


async def test_a_message_that_has_moved_on_is_settled_and_the_copy_is_not_forgotten() -> None:
    """What is done is the message; what it moved to still has to be started."""
    bench, envelope = Bench(), job()
    bench.control.done.add(instance_of(envelope))
    onward = job(id=envelope.id, queued_at=envelope.queued_at, moves=1)
    assert copy_of(onward) == copy_of(envelope)
    assert bench.worker.take_back(await bench.take(envelope), bench.origin)
    assert not bench.worker.take_back(await bench.take(onward), bench.origin)
    assert bench.broker.acked == [envelope.id]
