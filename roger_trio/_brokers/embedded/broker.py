"""The embedded broker: channels and deliveries over transactions.

One task, the pump, moves messages: it settles what was settled since, and borrows as many
messages as the subscriptions have room for, all in one transaction. It runs when there is
something to do and at no other time.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, NoReturn, Protocol, TypeVar

import attrs
import trio

from ..base import (
    AlreadySettled,
    BrokerError,
    Channel,
    ConnectionLost,
    ConnectionRefused,
    Delivery,
    Message,
    MessageTooLarge,
    QueueCount,
    QueueSpec,
)
from .engine import Engine, Promotion, Row
from .runner import Runner

logger = logging.getLogger(__name__)

_PAUSE_AFTER_ERROR: Final = 0.25
"""Seconds before another try, after the database failed."""
_CLOSE_TIMEOUT: Final = 10.0
MAX_BODY: Final = 128 * 1024 * 1024
"""Bytes of the largest message, as in RabbitMQ 3.10."""

T = TypeVar("T")


class Presence(Protocol):
    """This broker among those that use the same database; see ``presence.py``."""

    @property
    def name(self) -> str:
        """What the others know this one by."""
        ...

    @property
    def seconds_between_looks(self) -> float:
        """How often to look whether a process that borrowed messages has died."""
        ...

    def enter(self, on_woken: Callable[[], None]) -> None:
        """Be present; `on_woken` is called when another wakes this one."""
        ...

    def leave(self) -> None:
        """Be gone."""
        ...

    async def listen(self) -> NoReturn:
        """Wait for the others' calls."""
        ...

    def wake(self, processes: Iterable[str]) -> None:
        """Wake others."""
        ...

    def find_dead(self, processes: Iterable[str]) -> list[str]:
        """Return those that do not live any more: of `processes`, and of those that left files."""
        ...

    def bury(self, process: str) -> None:
        """Remove what a dead one left behind."""
        ...


class Subscription:
    """A queue that a channel consumes."""

    def __init__(
        self, queue: str, number: int, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        self.queue = queue
        self.number = number
        self.prefetch = prefetch
        self.on_delivery = on_delivery
        self.lent = 0
        self.may_have_more = True
        """Whether the queue may hold messages that were not delivered for lack of room."""

    @property
    def room(self) -> int:
        """How many messages to ask for now."""
        return max(0, self.prefetch - self.lent) if self.may_have_more else 0


class EmbeddedDelivery:
    """One message on loan; see `Delivery` in ``base.py``."""

    __slots__ = ("_channel", "_row", "_settled", "_subscription", "queue")

    def __init__(
        self, channel: EmbeddedChannel, row: Row, queue: str, subscription: Subscription | None
    ) -> None:
        self._channel = channel
        self._row = row
        self._subscription = subscription
        self._settled = False
        self.queue = queue

    @property
    def body(self) -> bytes:
        """The message's body."""
        return self._row.body

    @property
    def message_id(self) -> str:
        """The publisher's id for it, or ''."""
        return self._row.message_id

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher put beside the body."""
        headers: dict[str, object] = json.loads(self._row.headers) if self._row.headers else {}
        return headers

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before."""
        return self._row.deliveries > 1

    def ack(self) -> None:
        """Settle: the broker forgets the message."""
        self._settle(self._channel.acked)

    def give_back(self) -> None:
        """Settle: the broker puts the message back where it was."""
        self._settle(self._channel.returned)

    def _settle(self, pile: list[int]) -> None:
        if self._settled:
            raise AlreadySettled(f"message {self._row.id} of queue {self.queue!r}")
        self._settled = True
        self._channel.settle(pile, self._row.id)
        if self._subscription is not None:
            self._subscription.lent -= 1


class EmbeddedChannel:
    """A lane to the broker; see `Channel` in ``base.py``."""

    def __init__(self, broker: EmbeddedBroker, number: int) -> None:
        self._broker = broker
        self.number = number
        self.acked: list[int] = []
        self.returned: list[int] = []
        self.subscriptions: list[Subscription] = []
        self._lost: ConnectionLost | None = None
        self._ended = trio.Event()

    async def subscribe(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        """Have deliveries of `queue` handed to `on_delivery`, at most `prefetch` unsettled."""
        self.check_open()
        number = await self._broker.call(lambda engine: engine.consume(self.number, queue))
        self.check_open()
        self.subscriptions.append(Subscription(queue, number, prefetch, on_delivery))
        self._broker.stir()

    async def unsubscribe(self) -> None:
        """End all subscriptions. What was delivered stays on loan and can be settled."""
        self.check_open()
        self.subscriptions.clear()  # What is on its way to them goes back.
        queues = await self._broker.call(lambda engine: engine.stop_consuming(self.number))
        await self._broker.announce(queues)

    def check_open(self) -> None:
        """Raise `ConnectionLost` if the channel is gone."""
        if self._lost is not None:
            raise ConnectionLost(str(self._lost))

    def settle(self, pile: list[int], number: int) -> None:
        """Note a settlement; the pump sees to it."""
        self.check_open()
        pile.append(number)
        self._broker.stir()

    def take_settlements(self) -> tuple[list[int], list[int]]:
        """Take what has been settled since."""
        taken = self.acked, self.returned
        self.acked, self.returned = [], []
        return taken

    def receive(self, subscription: Subscription, rows: Sequence[Row]) -> None:
        """Hand over what was delivered; what comes too late goes back."""
        for row in rows:
            if subscription in self.subscriptions:
                subscription.lent += 1
                delivery = EmbeddedDelivery(self, row, subscription.queue, subscription)
                subscription.on_delivery(delivery)
            elif self._lost is None:
                self.returned.append(row.id)
                self._broker.stir()

    def lose(self, error: ConnectionLost) -> None:
        """Take the channel for gone."""
        if self._lost is None:
            self._lost = error
            self.subscriptions.clear()
            self.take_settlements()
            self._ended.set()

    async def wait_interrupted(self) -> NoReturn:
        """Wait until the channel is gone: a queue never goes under a subscription."""
        await self.wait_lost()

    async def wait_lost(self) -> NoReturn:
        """Wait until the channel is gone; raise why."""
        await self._ended.wait()
        raise ConnectionLost(str(self._lost))

    async def flush(self) -> None:
        """Wait until every settlement so far is committed."""
        acked, returned = self.take_settlements()
        queues = await self._broker.call(lambda engine: engine.settle(self.number, acked, returned))
        await self._broker.announce(queues)


@attrs.frozen
class Round:
    """What one turn of the pump found."""

    promotion: Promotion
    claimed: Sequence[Sequence[Row]]
    stirred: frozenset[int]
    others: frozenset[str]


class EmbeddedBroker:
    """A `Broker` (see ``base.py``) in a SQLite database.

    Args:
        runner: Runs transactions.
        presence: Who else uses the database.
        now: The clock of delays, in seconds; the same for all who use the database.
        where: What errors and logs call it.
    """

    def __init__(
        self, runner: Runner, presence: Presence, now: Callable[[], float], where: str
    ) -> None:
        self._runner = runner
        self._presence = presence
        self._now = now
        self._where = where
        self._channels: dict[int, EmbeddedChannel] = {}
        self._work = trio.Event()
        self._next_due = math.inf
        self._declared: dict[str, QueueSpec] = {}
        self._up = trio.Event()

    # Running...

    @property
    def is_connected(self) -> bool:
        """Whether it can be used right now."""
        return self._up.is_set()

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, or ''."""
        return "" if self.is_connected else f"{self._where} is not open"

    async def wait_connected(self) -> None:
        """Wait until it can be used."""
        await self._up.wait()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve until cancelled.

        Raises:
            ConnectionRefused: The database cannot be used.
        """
        refusal: list[ConnectionRefused] = []
        async with trio.open_nursery() as infrastructure:
            try:
                await infrastructure.start(self._runner.run)
            except ConnectionRefused as exc:
                refusal.append(exc)
            else:
                await self._serve(task_status)
            infrastructure.cancel_scope.cancel()
        raise refusal[0]

    async def _serve(self, task_status: trio.TaskStatus[None]) -> NoReturn:
        self._presence.enter(self._look_again)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump)
                nursery.start_soon(self._presence.listen)
                nursery.start_soon(self._watch_neighbours)
                self._up.set()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._up = trio.Event()
            for channel in list(self._channels.values()):
                await self._close_channel(channel, "the broker is closed")
            self._presence.leave()

    async def drop_connections(self, reason: str = "dropped") -> None:
        """Lose every channel, as if a connection were cut: what is on loan is redelivered."""
        channels = list(self._channels.values())
        for channel in channels:
            channel.lose(ConnectionLost(reason))
        for channel in channels:
            await self._close_channel(channel, reason)

    # The pump...

    def stir(self) -> None:
        """There is something to do."""
        self._work.set()

    def _look_again(self) -> None:
        """Another process has done something that may concern us."""
        for channel in self._channels.values():
            for subscription in channel.subscriptions:
                subscription.may_have_more = True
        self.stir()

    async def _pump(self) -> NoReturn:
        """Settle and deliver, whenever there is something to do."""
        while True:
            wait = max(0.0, self._next_due - self._now()) if self._is_consuming else math.inf
            with trio.move_on_after(wait):
                await self._work.wait()
            self._work = trio.Event()
            try:
                await self._turn()
            except BrokerError as exc:
                logger.error("%s: %s", self._where, exc)
                await trio.sleep(_PAUSE_AFTER_ERROR)
                self.stir()

    @property
    def _is_consuming(self) -> bool:
        return any(channel.subscriptions for channel in self._channels.values())

    async def _turn(self) -> None:
        settlements = [
            (channel.number, *channel.take_settlements()) for channel in self._channels.values()
        ]
        asked = [
            (channel, subscription, subscription.room)
            for channel in self._channels.values()
            for subscription in channel.subscriptions
            if subscription.room
        ]
        for _, subscription, _ in asked:
            # Before the question, not after: what is published while it is answered counts.
            subscription.may_have_more = False
        claims = [(channel.number, each.number, room) for channel, each, room in asked]
        now = self._now()
        try:
            result = await self.call(lambda engine: _one_round(engine, settlements, claims, now))
        except BrokerError:
            self._undo(settlements, [subscription for _, subscription, _ in asked])
            raise
        due = result.promotion.next_due
        self._next_due = math.inf if due is None else due
        for (channel, subscription, room), rows in zip(asked, result.claimed, strict=True):
            if len(rows) == room:
                subscription.may_have_more = True
            channel.receive(subscription, rows)
        self._stir_consumers(result.stirred)
        self._presence.wake(result.others)

    def _stir_consumers(self, queues: frozenset[int]) -> None:
        for channel in self._channels.values():
            for subscription in channel.subscriptions:
                if subscription.number in queues:
                    subscription.may_have_more = True
                    self.stir()

    async def announce(self, queues: frozenset[int]) -> None:
        """Tell the consumers of these queues, here and elsewhere, to look again."""
        if queues:
            self._stir_consumers(queues)
            self._presence.wake(await self.call(lambda engine: engine.consuming_processes(queues)))

    async def call(self, work: Callable[[Engine], T]) -> T:
        """Run a piece of work in a transaction."""
        return await self._runner.call(work)

    def _undo(
        self, settlements: Sequence[Settlements], subscriptions: Sequence[Subscription]
    ) -> None:
        """A turn failed; what it was to settle and to ask for is still to be done."""
        for number, acked, returned in settlements:
            channel = self._channels.get(number)
            if channel is not None:
                channel.acked[:0] = acked
                channel.returned[:0] = returned
        for subscription in subscriptions:
            subscription.may_have_more = True

    # Neighbours...

    async def _watch_neighbours(self) -> NoReturn:
        """Take back what died with other processes, moments after they died."""
        suspects = await self.call(lambda engine: engine.processes())
        while True:
            for process in self._presence.find_dead(suspects):
                queues = await self.call(partial(Engine.close_process, process=process))
                self._presence.bury(process)
                if queues:
                    text = "%s: process %s is gone; what it had goes to others"
                    logger.warning(text, self._where, process)
                    await self.announce(queues)
            suspects = frozenset()
            await trio.sleep(self._presence.seconds_between_looks)

    # Declaring and publishing...

    async def declare(self, queues: Sequence[QueueSpec]) -> None:
        """Make sure that `queues` exist; see `Broker`."""
        if any(self._declared.get(each.name) != each for each in queues):
            await self.call(lambda engine: engine.declare(queues))
            self._declared.update({each.name: each for each in queues})

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish and return once it is committed; see `Broker`."""
        await self.publish_many(queue, (message,), delay=delay)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish all in one transaction; see `Broker`."""
        for message in messages:
            if len(message.body) > MAX_BODY:
                raise MessageTooLarge(f"{len(message.body)} bytes; at most {MAX_BODY} are kept")
        due = self._now() + delay if delay > 0 else None
        number, others = await self.call(lambda engine: _publish(engine, queue, messages, due))
        if due is not None:
            self._next_due = min(self._next_due, due)
        self._stir_consumers(frozenset((number,)))
        self._presence.wake(others)

    # Consuming, looking, counting...

    @asynccontextmanager
    async def open_channel(self) -> AsyncGenerator[Channel]:
        """Open a channel to consume on."""
        channel = await self._open_channel()
        self._channels[channel.number] = channel
        try:
            yield channel
        finally:
            await self._close_channel(channel, "closed")

    async def _open_channel(self) -> EmbeddedChannel:
        name = self._presence.name
        with trio.CancelScope(shield=True):  # One transaction: its number must not get lost.
            number = await self.call(lambda engine: engine.open_channel(name))
        return EmbeddedChannel(self, number)

    async def _close_channel(self, channel: EmbeddedChannel, reason: str) -> None:
        """Settle what was settled, take back the rest."""
        self._channels.pop(channel.number, None)
        acked, returned = channel.take_settlements()
        channel.lose(ConnectionLost(reason))
        with trio.move_on_after(_CLOSE_TIMEOUT, shield=True), suppress(BrokerError):
            queues = await self.call(lambda engine: _close(engine, channel.number, acked, returned))
            await self.announce(queues)

    @asynccontextmanager
    async def browse(self, queue: str, limit: int) -> AsyncGenerator[Sequence[Delivery]]:
        """Take up to `limit` messages from the head; what is unsettled at exit goes back."""
        channel = await self._open_channel()
        try:
            now = self._now()
            rows = await self.call(lambda engine: _take(engine, channel.number, queue, limit, now))
            yield [EmbeddedDelivery(channel, row, queue, None) for row in rows]
        finally:
            await self._close_channel(channel, "closed")

    async def purge(self, queue: str) -> int:
        """Delete all that is ready in the queue; return how many that was."""
        now = self._now()
        return await self.call(lambda engine: (engine.promote(now), engine.purge(queue))[1])

    async def count(self, queue: str) -> QueueCount:
        """Count what the queue holds; see `Broker`."""
        now = self._now()
        return await self.call(lambda engine: (engine.promote(now), engine.count(queue))[1])


Settlements = tuple[int, list[int], list[int]]
"""Channel number, messages acknowledged, messages given back."""


def _one_round(
    engine: Engine,
    settlements: Sequence[Settlements],
    claims: Sequence[tuple[int, int, int]],
    now: float,
) -> Round:
    stirred: frozenset[int] = frozenset()
    for channel, acked, returned in settlements:
        stirred |= engine.settle(channel, acked, returned)
    promotion = engine.promote(now)
    stirred |= promotion.queues
    claimed = [engine.claim(channel, queue, room) for channel, queue, room in claims]
    others = engine.consuming_processes(stirred)
    return Round(promotion, claimed, stirred, others)


def _publish(
    engine: Engine, queue: str, messages: Sequence[Message], due: float | None
) -> tuple[int, frozenset[str]]:
    number = engine.publish(queue, messages, due)
    return number, engine.consuming_processes((number,))


def _take(engine: Engine, channel: int, queue: str, limit: int, now: float) -> list[Row]:
    engine.promote(now)
    return engine.take(channel, engine.queue_id(queue), limit)


def _close(
    engine: Engine, channel: int, acked: Sequence[int], returned: Sequence[int]
) -> frozenset[int]:
    return engine.settle(channel, acked, returned) | engine.close_channel(channel)
