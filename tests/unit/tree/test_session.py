"""One channel's life: workers are started as needed, kept, and never too many."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncGenerator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

import roger_trio as roger
from roger_trio._brokers.base import ConnectionLost, Message, QueueRefused
from roger_trio._jobs.copies import Copy
from roger_trio._tree.control import SETTLE_TIMEOUT, Control
from roger_trio._tree.session import Intake, Session, Staff
from roger_trio._tree.worker import Worker
from tests.unit.tree.fakes import NAMES, FakeBroker, FakeDelivery, make_control, make_worker

LIMIT = 3
seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


class Stage:
    """What the jobs of the running test do, and wait for."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.contexts: list[str] = []
        self.gates: dict[str, trio.Event] = {}
        self.most = 0
        self.clean_up = trio.Event()
        """What cancelled jobs wait for before they end; set it for those that need not."""
        self.clean_up.set()

    @property
    def running(self) -> list[str]:
        """The ids of the jobs that run, in the order they were sent."""
        return sorted(self.gates)

    async def perform(self) -> None:
        """Run until let go."""
        id = roger.current_job().id
        assert id not in self.gates, "it runs twice at once"
        self.contexts.append(seen.get())
        seen.set(id)
        gate = self.gates[id] = trio.Event()
        self.begun.append(id)
        self.most = max(self.most, len(self.gates))
        try:
            await gate.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self.clean_up.wait()
            self.cancelled.append(id)
            raise
        else:
            self.ended.append(id)
        finally:
            del self.gates[id]

    def let_go(self, count: int = 1) -> None:
        """Let the oldest running jobs end."""
        for id in [id for id in self.running if not self.gates[id].is_set()][:count]:
            self.gates[id].set()


STAGE: list[Stage] = []


@roger.job(name="session:act")
async def act() -> None:
    """Be on the stage."""
    await STAGE[-1].perform()


@roger.job(name="session:interrupt")
async def interrupt() -> None:
    """Be where Control-C strikes."""
    raise KeyboardInterrupt


class CountingSession(Session):
    """A session that counts the workers it started."""

    started = 0

    async def _work(self, intake: Intake) -> None:
        self.started += 1
        await super()._work(intake)

    def staff_up(self) -> None:
        assert self.started < 1000, "it hires without end"
        super().staff_up()


@attrs.define
class Line:
    """A queue with its broker, and whoever consumes it."""

    broker: FakeBroker
    control: Control
    worker: Worker
    staff: Staff
    stage: Stage
    sessions: list[CountingSession] = attrs.Factory(list)

    @classmethod
    def make(cls, limit: int = LIMIT) -> Line:
        """Make one that nobody consumes."""
        stage = Stage()
        STAGE[:] = [stage]
        broker, control = FakeBroker(), make_control()
        worker = make_worker(broker, control=control)
        line = cls(broker, control, worker, Staff(limit, lambda: None), stage)
        line.staff.on_vacancy = line.on_vacancy
        return line

    def on_vacancy(self) -> None:
        """Have the newest session start workers."""
        if self.sessions:
            self.sessions[-1].staff_up()

    def session(self) -> CountingSession:
        """Make a session on a channel of its own."""
        channel = self.broker.add_channel()
        queues = (NAMES.work, NAMES.redelivered)
        self.sessions.append(CountingSession(channel, queues, self.worker, self.staff))
        return self.sessions[-1]

    def send(self, count: int = 1) -> list[str]:
        """Send jobs."""
        return self.broker.send(*[act.job() for _ in range(count)])

    @contextlib.asynccontextmanager
    async def consuming(self) -> AsyncGenerator[CountingSession]:
        """Run a session; at the end its intake is closed and its jobs are let go."""
        session = self.session()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await nursery.start(session.run)
                yield session
                await session.close_intake()
                for id in self.stage.running:
                    self.stage.gates[id].set()
        assert self.staff.hired == 0


async def settle() -> None:
    """Let everything happen that can."""
    await trio.testing.wait_all_tasks_blocked()


# Staff and intake...


def test_a_staff_has_a_vacancy_below_its_limit_and_too_many_above_it() -> None:
    """At the limit it is just right."""
    staff = Staff(2, lambda: None)
    found = []
    for staff.hired in range(4):
        found.append((staff.has_vacancy, staff.is_overstaffed))
    assert found == [(True, False), (True, False), (False, False), (False, True)]


async def deliveries(count: int) -> list[FakeDelivery]:
    """Take messages on loan."""
    broker, found = FakeBroker(), list[FakeDelivery]()
    channel = broker.add_channel()
    for number in range(count):
        broker.queues[NAMES.work].append((Message(b"", str(number)), False))
    await channel.subscribe(NAMES.work, prefetch=count, on_delivery=found.append)
    await channel.unsubscribe()
    return found


async def test_an_intake_gives_back_what_it_has_no_room_for() -> None:
    """The memory channel is bounded: two queues, each with as many on loan as the prefetch."""
    arrivals: list[int] = []
    intake = Intake(2, lambda: arrivals.append(1))
    on_loan = await deliveries(5)

    for each in on_loan:
        intake.put(each)

    assert [each.settled for each in on_loan] == [False] * 4 + [True]
    assert len(arrivals) == 4
    assert intake.needs_more
    assert intake.close() == on_loan[:4]
    assert not intake.needs_more


async def test_an_intake_tells_late_deliveries_from_those_that_came_since() -> None:
    """Of the first so many that came in, those that no worker has taken; the others stay."""
    intake = Intake(3, lambda: None)
    on_loan = await deliveries(5)
    for each in on_loan:
        intake.put(each)
    assert await intake.take() == (0, on_loan[0])

    assert intake.take_late(3) == on_loan[1:3]
    assert intake.take_late(3) == []
    assert await intake.take() == (3, on_loan[3])
    assert intake.needs_more
    assert intake.take_late(5) == on_loan[4:]
    assert not intake.needs_more
    assert intake.take_late(5) == []


async def test_a_closed_intake_gives_back_what_still_arrives() -> None:
    """The bridge may hand over what was on its way; on a lost channel nothing is raised."""
    intake = Intake(2, lambda: pytest.fail("nobody is needed"))
    first, second = await deliveries(2)
    assert intake.close() == []

    intake.put(first)
    second.channel.is_lost.set()
    intake.put(second)

    assert first.settled
    assert not second.settled


async def test_an_intake_counts_what_nobody_is_there_to_take() -> None:
    """It needs more workers while there are more deliveries than idle ones."""
    intake = Intake(3, lambda: None)
    for each in await deliveries(3):
        intake.put(each)
    needs = []
    for intake.idle in range(5):
        needs.append(intake.needs_more)
    intake.idle = 0
    await intake.take()
    assert needs == [True, True, True, False, False]
    assert len(intake.close()) == 2
    with pytest.raises(trio.EndOfChannel):
        await intake.take()


# Workers of a session...


async def test_there_are_never_more_workers_than_the_limit_and_they_are_kept() -> None:
    """A hundred jobs through three workers, which are started once."""
    line = Line.make()
    sent = line.send(100)
    async with line.consuming() as session:
        while len(line.stage.ended) < len(sent):
            await settle()
            assert len(line.stage.running) == min(LIMIT, len(sent) - len(line.stage.ended))
            line.stage.let_go()
        await settle()
        assert session.started == LIMIT
    assert line.stage.most == LIMIT
    assert sorted(line.broker.acked) == sorted(line.stage.ended) == sorted(line.stage.begun) == sent


async def test_jobs_that_come_one_by_one_need_one_worker() -> None:
    """An idle worker is not joined by another."""
    line = Line.make()
    async with line.consuming() as session:
        for _ in range(50):
            line.send()
            await settle()
            line.stage.let_go()
            await settle()
        assert session.started == 1
    assert len(line.stage.ended) == 50


async def test_what_a_job_puts_into_its_context_the_next_one_does_not_see() -> None:
    """Neither from the job before it in the same worker, nor from the bridge that delivered it."""
    line = Line.make(limit=1)
    async with line.consuming() as session:
        bridge = contextvars.copy_context()
        bridge.run(seen.set, "the bridge's")
        for _ in range(3):
            bridge.run(line.send)
            await settle()
            line.stage.let_go()
            await settle()
        assert session.started == 1
    assert line.stage.contexts == ["nothing"] * 3


async def test_a_lower_limit_lets_running_jobs_finish_and_starts_no_others_above_it() -> None:
    """Of four workers three go with their job; what they did not take went back."""
    line = Line.make(limit=4)
    sent = line.send(12)
    async with line.consuming() as session:
        await settle()
        line.staff.limit = 1
        await session.retune()
        assert line.stage.running == sent[:4]
        for _ in range(3):
            line.stage.let_go()
            await settle()
        assert line.stage.running == [sent[3]]
        assert line.staff.hired == 1
        while line.stage.running:
            line.stage.let_go()
            await settle()
            assert len(line.stage.running) <= 1
        assert sorted(line.stage.ended) == sent
    assert line.stage.cancelled == []


async def test_a_higher_limit_starts_workers_at_once() -> None:
    """Without waiting for a running job to end."""
    line = Line.make(limit=1)
    sent = line.send(6)
    async with line.consuming() as session:
        await settle()
        assert line.stage.running == sent[:1]
        line.staff.limit = 4
        await session.retune()
        await settle()
        assert line.stage.running == sent[:4]


async def test_an_idle_worker_above_a_lowered_limit_takes_no_job() -> None:
    """The limit may fall between its waiting for a delivery and the delivery."""
    line = Line.make(limit=2)
    async with line.consuming() as session:
        line.send(2)
        await settle()
        line.stage.let_go(1)
        await settle()
        line.staff.limit = 1
        line.send(1)
        await settle()
        assert len(line.stage.running) == 1
        await session.retune()
        line.stage.let_go()
        await settle()
        assert len(line.stage.running) == 1
    assert line.stage.most == 2


async def test_a_limit_of_nought_closes_the_intake() -> None:
    """Running jobs finish, nothing new begins, and the session ends."""
    line = Line.make()
    sent = line.send(8)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            line.staff.limit = 0
            await session.retune()
            assert session.intake_ended.is_set()
            await session.retune()
            line.stage.let_go(LIMIT)
    assert sorted(line.stage.ended) == sent[:LIMIT]
    assert sorted(line.broker.ready()) == sent[LIMIT:]


async def test_a_closed_intake_gives_back_what_no_worker_has_taken() -> None:
    """Of what is on loan only running jobs stay; what came back before is sent anew, not back.

    For what comes back unsettled from the queue of the redelivered counts as a death.
    """
    line = Line.make()
    sent = line.send(LIMIT)
    async with line.consuming() as session:
        await settle()
        came_back = line.broker.send(*[act.job() for _ in range(2)], queue=NAMES.redelivered)
        fresh = line.send(1)
        await settle()
        await session.close_intake()
        assert line.broker.ready(NAMES.redelivered) == came_back
        assert line.broker.acked == came_back
        assert line.broker.given_back == []
        assert line.broker.ready(NAMES.work) == fresh
        line.stage.let_go(LIMIT)
        await settle()
        assert sorted(line.stage.begun) == sent


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 6)),
    st.tuples(st.just("let_go"), st.integers(1, 4)),
    st.tuples(st.just("limit"), st.integers(1, 5)),
)


@settings(max_examples=60)
@given(limit=st.integers(1, 5), ways=st.lists(steps, max_size=25))
def test_no_delivery_is_stranded_and_no_limit_is_broken(
    limit: int, ways: list[tuple[str, int]]
) -> None:
    """After any history as many jobs run as may, unless more still run from a higher limit."""

    async def go() -> None:
        line = Line.make(limit)
        sent = 0
        async with line.consuming() as session:
            for what, number in ways:
                standing = len(line.stage.running)
                if what == "send":
                    sent += len(line.send(number))
                elif what == "let_go":
                    line.stage.let_go(number)
                    standing = max(0, standing - number)
                else:
                    line.staff.limit = number
                    await session.retune()
                await settle()
                left = sent - len(line.stage.ended)
                expected = max(standing, min(line.staff.limit, left))
                assert len(line.stage.running) == expected
                assert line.staff.hired <= max(line.staff.limit, standing)
        assert len(line.broker.ready()) + len(line.stage.ended) == sent
        assert line.stage.cancelled == []

    trio.run(go)


# The end of a channel...


async def test_jobs_of_a_lost_channel_go_on_and_nothing_is_settled() -> None:
    """The broker has them already."""
    line = Line.make()
    sent = line.send(5)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            running = session.running
            line.broker.channels[0].lose()
            await settle()
            assert [each.is_orphan for each in running] == [True] * LIMIT
            assert session.running == []
            assert line.stage.running == sent[:LIMIT]
            line.stage.let_go(LIMIT)
    assert line.stage.cancelled == []
    assert line.broker.ready() == sent
    assert (line.broker.acked, line.broker.given_back) == ([], [])
    assert line.staff.hired == 0


async def test_what_ended_without_its_delivery_is_settled_when_it_comes_back() -> None:
    """And is not started again, on this node; so with settlements that the end undid."""
    line = Line.make()
    sent = line.send(LIMIT + 1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(line.session().run)
            await settle()
            line.stage.let_go()
            await settle()
            assert line.broker.acked == sent[:1]
            line.broker.channels[0].lose()
            await settle()
            line.stage.let_go(LIMIT)
            await settle()
            assert sorted(line.stage.ended) == sent
            [undone] = [
                each for each in line.control.done if isinstance(each, Copy) and each.job == sent[0]
            ]
            line.broker.send_again(undone)
            async with line.consuming():
                await settle()
    assert sorted(line.stage.begun) == sent
    assert sorted(line.broker.acked) == sorted([*sent, sent[0]])
    assert line.broker.ready() == []


async def test_what_no_worker_had_taken_is_noted_when_its_channel_is_lost() -> None:
    """It did not kill its process, and must not count as if it had."""
    line = Line.make(limit=1)
    line.send(1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(line.session().run)
            await settle()
            [untaken] = line.broker.send(act.job(), queue=NAMES.redelivered)
            await settle()
            line.broker.channels[0].lose()
            await settle()
            assert [it.copy.job for it in line.control.survived] == [untaken]
            line.stage.let_go()
    assert line.broker.ready(NAMES.redelivered) == [untaken]


async def test_jobs_that_come_back_to_their_node_go_on_and_are_settled_there() -> None:
    """Through two lost channels: none starts anew, and the limit holds all the time."""
    line = Line.make()
    sent = line.send(4)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                await nursery.start(line.session().run)
                await settle()
                line.broker.channels[0].lose()
                await settle()
            async with line.consuming() as third:
                await settle()
                assert (third.started, line.stage.running) == (0, sent[:LIMIT])
                assert sorted(each.envelope.id for each in third.running) == sent[:LIMIT]
                for number in range(1, 5):
                    line.stage.let_go()
                    await settle()
                    assert line.broker.acked == sent[:number]
                assert line.broker.channels[0].on_loan == []
    assert line.stage.most == LIMIT
    assert sorted(line.stage.begun) == sorted(line.stage.ended) == sent
    assert line.stage.cancelled == []


async def test_a_session_stays_open_for_a_job_that_it_only_settles() -> None:
    """Its intake may have been closed long before that job ends."""
    line = Line.make(limit=1)
    sent = line.send(1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(line.session().run)
            await settle()
            line.broker.channels[0].lose()
            second = line.session()
            ended = trio.Event()

            async def run(task_status: trio.TaskStatus[Any]) -> None:
                await second.run(task_status=task_status)
                ended.set()

            await nursery.start(run)
            await settle()
            await second.close_intake()
            await settle()
            assert not ended.is_set()
            line.stage.let_go()
            await ended.wait()
    assert line.broker.acked == sent
    assert line.broker.ready() == []


async def test_a_deleted_queue_ends_the_session_once_its_jobs_have_ended() -> None:
    """They can still be settled, so they are not cancelled."""
    line = Line.make()
    sent = line.send(2)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            line.broker.channels[0].interrupt()
            await session.intake_ended.wait()
            assert line.stage.running == sent
            line.stage.let_go(2)
    assert sorted(line.broker.acked) == sent


async def test_a_cancelled_session_gives_everything_back_and_hires_nobody() -> None:
    """Regression: with a backlog, each worker that ended was replaced by one that ended too."""
    line = Line.make()
    sent = line.send(200)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            nursery.cancel_scope.cancel()
    assert session.started == LIMIT
    assert line.staff.hired == 0
    assert session.intake_ended.is_set()
    assert sorted(line.stage.cancelled) == sent[:LIMIT]
    assert sorted(line.broker.ready()) == sent
    assert line.broker.channels[0].on_loan == []


async def test_control_c_in_a_job_ends_the_session() -> None:
    """It goes to the program; the other jobs are given back."""
    line = Line.make()
    sent = line.send(1)
    session = line.session()
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            sent += line.broker.send(interrupt.job()) + line.send(40)
    assert session.started <= LIMIT
    assert sorted(line.broker.ready()) == sent
    assert line.staff.hired == 0


@pytest.mark.parametrize("error", [QueueRefused("no"), ConnectionLost("gone")])
async def test_a_session_that_cannot_subscribe_raises_and_starts_nobody(error: Any) -> None:
    """What the broker said goes to whoever wanted the session."""
    line = Line.make()
    line.send(3)
    session = line.session()
    line.broker.channels[0].refusal = error
    with trio.fail_after(10), pytest.RaisesGroup(type(error), allow_unwrapped=True):
        await session.run()
    assert session.intake_ended.is_set()
    assert (session.started, line.staff.hired) == (0, 0)


async def test_a_session_that_cannot_subscribe_again_ends_when_its_jobs_have() -> None:
    """A change of the limit that the broker will not have costs no running job."""
    line = Line.make()
    sent = line.send(LIMIT)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            line.broker.channels[0].refusal = QueueRefused("no")
            line.staff.limit = 1
            await session.retune()
            assert session.intake_ended.is_set()
            line.stage.let_go(LIMIT)
    assert sorted(line.broker.acked) == sent


async def test_a_session_that_can_subscribe_only_half_again_takes_nothing_more() -> None:
    """It leaves the queue that it has, so that its workers end and others get their places."""
    line = Line.make()
    sent = line.send(8)
    session = line.session()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            await settle()
            (channel,) = line.broker.channels
            channel.refusal, channel.refused_queue = QueueRefused("no"), NAMES.redelivered
            line.staff.limit = LIMIT + 1
            await session.retune()
            assert session.intake_ended.is_set()
            assert channel.subscriptions == []
            line.stage.let_go(len(sent))
            await settle()
            line.stage.let_go(len(sent))
    assert line.staff.hired == 0
    assert sorted([*line.broker.acked, *line.broker.ready()]) == sent


async def test_a_session_ends_though_the_broker_does_not_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Cancelled, it waits for its settlements to be taken, and not for ever."""
    line = Line.make()
    session = line.session()
    began = trio.current_time()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            line.broker.channels[-1].answers = trio.Event()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(SETTLE_TIMEOUT)
