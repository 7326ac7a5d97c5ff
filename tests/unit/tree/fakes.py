"""A broker in this process's memory, as far as the tree's unit tests need one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn, cast

import attrs
import trio

import roger_trio as roger
from roger_trio._brokers.base import (
    AlreadySettled,
    Broker,
    BrokerError,
    ConnectionLost,
    Message,
    QueueMissing,
    QueueSpec,
)
from roger_trio._control.gathering import Asker
from roger_trio._control.view import View
from roger_trio._jobs import wire
from roger_trio._jobs.codec import encode_args
from roger_trio._jobs.copies import Copy
from roger_trio._jobs.job import Job
from roger_trio._state import operations as op
from roger_trio._topology import PartitionNames, QueueNames
from roger_trio._tree.control import Control
from roger_trio._tree.membership import Membership
from roger_trio._tree.process_pool import ProcessPool
from roger_trio._tree.settings import WorkerSettings
from roger_trio._tree.worker import Worker

NAMES = QueueNames.of("", "myapp", "default")
_ids = itertools.count(1)


def make_envelope(**fields: Any) -> roger.Envelope:
    """Make an envelope of myapp/default."""
    return roger.Envelope(
        **{
            "id": f"j{next(_ids):06}",
            "name": "app:job",
            "args": {},
            "partition": "myapp",
            "queue": "default",
            "queued_at": datetime.now(UTC),
            **fields,
        }
    )


@attrs.define(eq=False)
class FakeDelivery:
    """A message on loan."""

    channel: FakeChannel
    subscription: Subscription
    queue: str
    message: Message
    redelivered: bool
    settled: bool = False

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def message_id(self) -> str:
        return self.message.message_id

    @property
    def headers(self) -> Mapping[str, object]:
        return self.message.headers or {}

    def ack(self) -> None:
        self._settle()
        self.channel.broker.acked.append(self.message_id)
        self.channel.broker.pump()

    def give_back(self) -> None:
        self._settle()
        self.channel.broker.given_back.append(self.message_id)
        self.channel.broker.queues[self.queue].appendleft((self.message, True))
        self.channel.broker.pump()

    def forward(self) -> None:
        raise AssertionError("no queue of these tests forwards")

    def drop_body(self) -> None:
        raise AssertionError("workers need it")

    def _settle(self) -> None:
        if self.channel.is_lost.is_set():
            raise ConnectionLost("lost by a test")
        if self.settled:
            raise AlreadySettled(self.message_id)
        self.settled = True
        self.subscription.on_loan.remove(self)


@attrs.define(eq=False)
class Subscription:
    """A consumer, and what it has on loan."""

    queue: str
    prefetch: int
    on_delivery: Callable[[FakeDelivery], None]
    on_loan: list[FakeDelivery] = attrs.Factory(list)


class FakeChannel:
    """A lane to a `FakeBroker`; `lose` it, or `interrupt` its subscriptions."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.subscriptions: list[Subscription] = []
        self.everything: list[Subscription] = []
        self.is_lost = trio.Event()
        self.is_interrupted = trio.Event()
        self.refusal: BrokerError | None = None
        """What `subscribe` raises."""
        self.refused_queue: str | None = None
        """Of which queue alone; None: of each."""
        self.answers = trio.Event()
        """Whether the broker says that it has what was settled."""
        self.answers.set()

    @property
    def on_loan(self) -> list[FakeDelivery]:
        """What was delivered and not yet settled."""
        return [each for subscription in self.everything for each in subscription.on_loan]

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Any], None]
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None and self.refused_queue in (None, queue):
            raise self.refusal
        assert prefetch > 0, "a prefetch of 0 is one without end"
        subscription = Subscription(queue, prefetch, on_delivery)
        self.subscriptions.append(subscription)
        self.everything.append(subscription)
        self.broker.pump()

    async def unsubscribe(self) -> Sequence[Any]:
        await trio.lowlevel.checkpoint()
        self.subscriptions.clear()
        return ()

    async def wait_settled(self) -> Sequence[Any]:
        await self.answers.wait()
        return ()

    async def wait_interrupted(self) -> NoReturn:
        await self.is_interrupted.wait()
        if self.is_lost.is_set():
            raise ConnectionLost("lost by a test")
        raise QueueMissing("deleted by a test")

    async def wait_lost(self) -> NoReturn:
        await self.is_lost.wait()
        raise ConnectionLost("lost by a test")

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def interrupt(self) -> None:
        """Delete the queues under the subscriptions."""
        self.subscriptions.clear()
        self.is_interrupted.set()

    def lose(self) -> None:
        """Lose the connection: what is on loan goes back."""
        self.is_lost.set()
        self.is_interrupted.set()
        self.close()

    def close(self) -> None:
        """End the channel: what is on loan goes back."""
        self.subscriptions.clear()
        for each in reversed(self.on_loan):
            self.broker.queues[each.queue].appendleft((each.message, True))
            each.subscription.on_loan.remove(each)
        if self in self.broker.channels:
            self.broker.channels.remove(self)
        self.broker.pump()


class FakeBroker:
    """Queues in memory that deliver within each consumer's prefetch."""

    is_connected = True

    def __init__(self) -> None:
        self.queues: dict[str, deque[tuple[Message, bool]]] = {
            each.name: deque() for each in NAMES.specs()
        }
        self.channels: list[FakeChannel] = []
        self.acked: list[str] = []
        self.given_back: list[str] = []
        self._pumping = False

    def add_channel(self) -> FakeChannel:
        """Open a channel."""
        channel = FakeChannel(self)
        self.channels.append(channel)
        return channel

    @asynccontextmanager
    async def open_channel(self, *, speaks: bool = False) -> AsyncGenerator[FakeChannel]:
        await trio.lowlevel.checkpoint()
        channel = self.add_channel()
        try:
            yield channel
        finally:
            channel.close()

    async def wait_connected(self) -> None:
        await trio.lowlevel.checkpoint()

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        for each in queues:
            self.queues.setdefault(each.name, deque())

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()
        self.put(queue, message)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        for each in messages:
            await self.publish(queue, each, delay=delay)

    def put(self, queue: str, message: Message) -> None:
        """Have a message ready for delivery."""
        self.queues[queue].append((message, False))
        self.pump()

    def send(self, *jobs: Job, queue: str = NAMES.work) -> list[str]:
        """Put jobs into a queue; return their ids."""
        envelopes = [wire_form(each) for each in jobs]
        for each in envelopes:
            self.put(queue, Message(wire.dump(each), each.id))
        return [each.id for each in envelopes]

    def send_again(self, copy: Copy, queue: str = NAMES.work) -> None:
        """Have a copy of a job come back, as if its settlement had never arrived."""
        envelope = make_envelope(
            id=copy.job,
            queued_at=copy.queued_at,
            retry_count=copy.retry_count,
            edition=copy.edition,
        )
        self.queues[queue].appendleft((Message(wire.dump(envelope), envelope.id), True))
        self.pump()

    def ready(self, queue: str | None = None) -> list[str]:
        """Name what waits for delivery, in one queue or in the two that are consumed."""
        queues = (NAMES.work, NAMES.redelivered) if queue is None else (queue,)
        return [message.message_id for each in queues for message, _ in self.queues[each]]

    def pump(self) -> None:
        """Deliver what the prefetches allow."""
        if self._pumping:
            return  # The loop below sees to what a delivery brought about.
        self._pumping = True
        try:
            while any(self._deliver_one(*each) for each in list(self._open())):
                pass
        finally:
            self._pumping = False

    def _open(self) -> Iterator[tuple[FakeChannel, Subscription]]:
        for channel in self.channels:
            for subscription in channel.subscriptions:
                yield channel, subscription

    def _deliver_one(self, channel: FakeChannel, subscription: Subscription) -> bool:
        queue = self.queues[subscription.queue]
        if not queue or len(subscription.on_loan) >= subscription.prefetch:
            return False
        message, redelivered = queue.popleft()
        delivery = FakeDelivery(channel, subscription, subscription.queue, message, redelivered)
        subscription.on_loan.append(delivery)
        subscription.on_delivery(delivery)
        return True


def wire_form(job: Job) -> roger.Envelope:
    """Make the envelope of a job."""
    options = job.options
    return make_envelope(
        name=options.name,
        args=encode_args(job),
        max_execution_time=options.max_execution_time,
    )


def make_worker(broker: FakeBroker, queue: str = "default", **options: Any) -> Worker:
    """Make a worker of a queue of myapp."""
    settings: dict[str, Any] = {
        "partition": "myapp",
        "queue": queue,
        "names": QueueNames.of("", "myapp", queue),
        "waiting": PartitionNames.of("", "myapp").waiting,
        "broker": cast("Broker", broker),
        "control": make_control(),
        "client": NoClient(),
        "callbacks": roger.Callbacks(),
        "retry_levels": (1.0,),
        "max_deliveries": 5,
        "processes": ProcessPool(1),
        "max_buried": None,
        **options,
    }
    return Worker(WorkerSettings(**settings))


class FakeOrigin:
    """Brings deliveries, and notes what it is told of them."""

    def __init__(self) -> None:
        self.held: list[object] = []
        self.settled: list[object] = []

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def hold(self, job: object) -> None:
        self.held.append(job)

    def let_go(self, job: object) -> None:
        if job in self.held:
            self.held.remove(job)

    def note_settled(self, done: object) -> None:
        self.settled.append(done)


def make_control(desk: Desk | None = None) -> Control:
    """Make what the workers of myapp share, on a node called one."""
    desk = desk or Desk()
    view = View("myapp", desk.sync)
    return Control("myapp", "one", desk, desk, view)


def make_membership(broker: FakeBroker, desk: Desk | None = None) -> Membership:
    """Make the part of myapp in a cluster whose coordinator is elsewhere."""
    return Membership(
        make_control(desk), Elsewhere(), desk or Desk(), cast("Broker", broker), lambda: None
    )


class Elsewhere:
    """A coordinator whose turn never comes."""

    def __init__(self) -> None:
        self.stopping = trio.Event()

    async def run(self) -> None:
        await self.stopping.wait()

    def stop(self) -> None:
        self.stopping.set()


class Desk:
    """A coordinator that lets every job start, and the inbox it is asked from."""

    inbox = "inbox.one"

    def __init__(self) -> None:
        self.asked: list[op.Operation] = []
        self.told: list[op.Operation] = []
        self.replies: list[tuple[Asker, Mapping[str, Any]]] = []
        self.synced = op.Synced(0, (), ())
        self.answers: list[op.Answer] = []
        """What to answer; then: `Run`."""
        self.mates: list[str] = []
        self.given_up: set[str] = set()
        self.fate = "absent"
        """What another node answers."""
        self.questions: list[Mapping[str, Any]] = []

    async def sync(self) -> op.Synced:
        await trio.lowlevel.checkpoint()
        return self.synced

    async def ask(self, partition: str, operation: op.Operation) -> op.Answer:
        await trio.lowlevel.checkpoint()
        self.asked.append(operation)
        if isinstance(operation, op.Conclude):
            return op.First(is_first=True)
        return self.answers.pop(0) if self.answers else op.Run()

    def post(self, partition: str, operation: op.Operation) -> Callable[[], Awaitable[op.Answer]]:
        return partial(self.ask, partition, operation)

    async def tell(self, partition: str, *operations: op.Operation) -> None:
        await trio.lowlevel.checkpoint()
        self.told.extend(operations)

    async def find_mates(self, partition: str) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return self.mates

    def is_dead(self, inbox: str) -> bool:
        return True

    def is_given_up(self, inbox: str) -> bool:
        return inbox in self.given_up

    async def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        self.questions.append(question)
        return {"ended": True, "fate": self.fate}

    def note_silence(self, inbox: str, seconds: float) -> None:
        raise AssertionError("in these tests all answer")

    def is_silent(self, inbox: str) -> bool:
        return False

    def reply_soon(self, asker: Asker, reply: Mapping[str, Any]) -> None:
        self.replies.append((asker, reply))


class NoClient:
    """Enqueues nothing."""

    async def enqueue(self, *args: object, **options: object) -> roger.Envelope:
        raise AssertionError("no job of these tests enqueues")
