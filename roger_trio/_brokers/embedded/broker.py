"""The embedded broker: the `Broker` protocol over transactions."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, NoReturn, TypeVar

import trio

from ..base import (
    BrokerError,
    Channel,
    ConnectionLost,
    ConnectionRefused,
    Delivery,
    Message,
    MessageTooLarge,
    PublishRefused,
    QueueCount,
    QueueSpec,
)
from .channels import EmbeddedChannel, EmbeddedDelivery, Subscription
from .engine import Engine
from .listeners import Listeners
from .presence import Presence
from .pump import Pump
from .runner import Runner
from .values import News

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds to wait for the database when something ends."""
_STOP_TIMEOUT: Final = 2.0
"""Seconds to wait for the database at the very end, when nobody else must be kept waiting. What it
was asked for by then it still does, unless it is locked."""
_RETRY: Final = 0.25
"""Seconds after which is published again what the database was not even told."""
_PURGED_AT_ONCE: Final = 20_000
"""Messages deleted in one transaction, so that others get their turn in between."""
MAX_DELAY: Final = 10 * 365 * 86400.0
"""Longest delay, in seconds."""
MAX_BODY: Final = 128 * 1024 * 1024
"""Bytes of the largest message, as in RabbitMQ 3.10."""

T = TypeVar("T")


class EmbeddedBroker:
    """A `Broker` (see ``base.py``) in a SQLite database.

    Args:
        runner: Runs transactions.
        presence: Who else uses the database.
        now: The clock of delays, in seconds; the same for all who use the database.
        where: What errors and logs call it.
        prefix: The cluster's prefix, which keeps its topics apart from those of others.
    """

    def __init__(
        self,
        runner: Runner,
        presence: Presence,
        now: Callable[[], float],
        where: str,
        prefix: str = "",
    ) -> None:
        self._runner = runner
        self._presence = presence
        self._now = now
        self._where = where
        self._prefix = prefix
        self._listeners = Listeners()
        hand_out = self._listeners.hand_out
        self._pump = Pump(runner, now, presence.name, hand_out, self._report_overdue, where)
        self._declared: dict[str, QueueSpec] = {}
        self._made: set[str] = set()
        """Queues that we made, and that no call of `declare` has returned yet."""
        self._overdue: set[str] = set()
        self._up = trio.Event()
        self._closed = False

    # Running...

    @property
    def is_connected(self) -> bool:
        """Whether it can be used right now."""
        return self._up.is_set()

    @property
    def trouble(self) -> str:
        """What keeps publishes from being confirmed right now, or ''."""
        trouble = self._runner.trouble or self._pump.trouble
        if trouble:
            return f"{self._where}: {trouble}"
        return "" if self.is_connected else f"{self._where} is not open"

    async def wait_connected(self) -> None:
        """Wait until it can be used."""
        await self._up.wait()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve until cancelled; then what was settled is written, and the rest given back.

        Started once the database is open, or found to be locked by another process: then it is
        waited for, and so do those who call.

        Raises:
            ConnectionRefused: The database cannot be used.
        """
        refusal: list[ConnectionRefused] = []
        transactions = trio.CancelScope()
        waiting = trio.Event()

        def wait() -> None:
            waiting.set()
            task_status.started()

        async with trio.open_nursery() as infrastructure:
            try:
                await infrastructure.start(self._run_transactions, transactions, wait)
                self._presence.enter(self._pump.look_again)
            except ConnectionRefused as exc:
                refusal.append(exc)
            except OSError as exc:
                reason = f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": ")
                refusal.append(ConnectionRefused(f"{self._where}: {reason}"))
            else:
                transactions.shield = True  # Needed until the last settlement is written.
                await self._serve(trio.TASK_STATUS_IGNORED if waiting.is_set() else task_status)
            finally:
                transactions.cancel()
        self._close()
        raise refusal[0]

    async def _run_transactions(
        self,
        scope: trio.CancelScope,
        on_locked: Callable[[], None],
        task_status: trio.TaskStatus[None],
    ) -> None:
        with scope:
            await self._runner.run(self._on_news, on_locked, task_status=task_status)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> NoReturn:
        is_clean = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump.run)
                nursery.start_soon(self._presence.listen)
                nursery.start_soon(self._watch_neighbours)
                self._up.set()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._close()
            with trio.move_on_after(_STOP_TIMEOUT, shield=True):
                is_clean = await self._pump.stop()
            self._listeners.close()
            self._presence.leave(is_clean=is_clean)

    def _close(self) -> None:
        """Take no more calls: as with any broker that cannot be reached, they wait."""
        self._closed = True
        self._up = trio.Event()

    async def _wait_open(self) -> None:
        """Wait until the database is open; once it is closed, that is never again."""
        if not self._up.is_set():
            await self._up.wait()

    async def _call(self, work: Callable[[Engine], T]) -> T:
        """Run a piece of work in a transaction, once the database is open."""
        await self._wait_open()
        return await self._runner.call(work)

    def _on_news(self, news: News) -> None:
        """Tell those whom a commit concerns, here and elsewhere."""
        self._pump.stir_queues(news.queues)
        if self._presence.name in news.processes:
            self._pump.stir()
        self._presence.wake(news.processes)

    async def drop_connections(self, reason: str = "dropped") -> None:
        """Lose every channel, as if a connection were cut: what is on loan is redelivered."""
        await self._pump.drop_all(reason)

    # Neighbours...

    async def _watch_neighbours(self) -> NoReturn:
        """Take back what died with other processes, moments after they died."""
        trouble = ""
        was_lost = False
        suspects: frozenset[str] | None = None
        while True:
            try:
                if suspects is None:
                    suspects = await self._call(lambda engine: engine.processes())
                    await self._take_back_strays()
                for process in self._presence.find_dead(suspects):
                    await self._take_back(process)
                suspects = frozenset()
                was_lost = self._presence.renew() or was_lost
                if was_lost:
                    await self._come_back()
                was_lost, trouble = False, ""
            except (BrokerError, OSError) as exc:
                if str(exc) != trouble:
                    trouble = str(exc)
                    logger.error("%s: no watch over other processes: %s", self._where, trouble)
            await self._presence.wait_death()
            self._pump.check_due()

    async def _take_back(self, process: str) -> None:
        channels = await self._call(lambda engine: engine.close_process(process))
        self._presence.bury(process)
        if channels:
            text = "%s: process %s is gone; what it had goes to others"
            logger.warning(text, self._where, process)
        # It may have died after a commit and before it told of it.
        self._pump.look_again()
        self._presence.wake_all()

    async def _come_back(self) -> None:
        """Be as before, where others may have taken us for dead and closed all we had."""
        topics = self._listeners.topics
        await self._call(lambda engine: engine.post.listen(topics, self._presence.name))
        self._listeners.hear_again()
        self._pump.look_again()  # Channels learn that they are lost when they want something.

    async def _take_back_strays(self) -> None:
        strays = await self._call(lambda engine: engine.close_strays())
        if strays:
            text = "%s: what channels of unknown processes had goes to others: %d channels"
            logger.warning(text, self._where, strays)

    # Declaring and publishing...

    async def declare(self, queues: Sequence[QueueSpec], *, afresh: bool = False) -> frozenset[str]:
        """Make sure that `queues` exist; see `Broker`. Nobody deletes one behind our back."""
        if afresh or any(self._declared.get(each.name) != each for each in queues):
            # Noted where they are made: who is cancelled then does not take the news with it.
            await self._call(lambda engine: self._made.update(engine.declare(queues)))
            self._declared.update({each.name: each for each in queues})
        made = self._made.intersection(each.name for each in queues)
        self._made -= made
        return frozenset(made)

    async def publish(self, queue: str, message: Message, *, delay: float = 0.0) -> None:
        """Publish and return once it is committed; see `Broker`."""
        await self.publish_many(queue, (message,), delay=delay)

    async def publish_many(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0
    ) -> None:
        """Publish all in one transaction: all are kept, or none; see `Broker`."""
        for message in messages:
            self.check_size(message.body)
        if delay > MAX_DELAY:
            raise PublishRefused(f"a delay of {delay:g} s; at most {MAX_DELAY:g} s are possible")
        await self._wait_open()  # What time it is there is known then.
        due = self._now() + delay if delay > 0 else None
        while True:
            try:
                return await self._call(lambda engine: engine.publish(queue, messages, due))
            except ConnectionLost:  # Not done; once the broker is closed, the next call waits.
                await trio.sleep(_RETRY)

    # Consuming, looking, counting...

    def check_size(self, body: bytes) -> None:
        """Raise `MessageTooLarge` if a body is larger than is kept."""
        if len(body) > MAX_BODY:
            raise MessageTooLarge(f"{len(body)} bytes; at most {MAX_BODY} are kept")

    def stir(self, channel: EmbeddedChannel) -> None:
        """A channel has something to tell, or room for more."""
        self._pump.stir_channel(channel)

    def note_subscription(self, channel: EmbeddedChannel, subscription: Subscription) -> None:
        """A channel consumes one more queue."""
        self._pump.note_subscription(channel, subscription)

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is committed."""
        await self._pump.wait_settled()

    async def consume(self, channel: int, queue: str) -> int:
        """Note that a channel consumes a queue; return the queue's number."""
        return await self._call(lambda engine: engine.consume(channel, queue))

    async def stop_consuming(self, channel: int) -> None:
        """Note that a channel consumes nothing any more."""
        await self._call(lambda engine: engine.stop_consuming(channel))

    @asynccontextmanager
    async def open_channel(self, *, speaks: bool = False) -> AsyncGenerator[Channel]:
        """Open a channel to consume on."""
        async with self._channel() as channel:
            yield channel

    @asynccontextmanager
    async def _channel(self) -> AsyncGenerator[EmbeddedChannel]:
        channel = EmbeddedChannel(self)
        await self._wait_open()  # Before that nobody would close it.
        self._pump.add(channel)
        try:
            await self._call(
                lambda engine: engine.open_channel(channel.number, self._presence.name)
            )
            yield channel
        finally:
            with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await self._pump.close(channel, "closed")

    @asynccontextmanager
    async def browse(self, queue: str, limit: int) -> AsyncGenerator[Sequence[Delivery]]:
        """Take up to `limit` messages from the head; what is unsettled at exit goes back."""
        async with self._channel() as channel:
            await self._promote()
            rows = await self._call(
                lambda engine: engine.take(channel.number, engine.queue_id(queue), limit)
            )
            yield [EmbeddedDelivery(channel, row, queue, None) for row in rows]

    async def purge(self, queue: str) -> int:
        """Delete all that is ready in the queue; return how many that was."""
        await self._promote()
        purged = last = await self._call(lambda engine: engine.purge(queue, _PURGED_AT_ONCE))
        while last == _PURGED_AT_ONCE:
            last = await self._call(lambda engine: engine.purge(queue, _PURGED_AT_ONCE))
            purged += last
        return purged

    async def count(self, queue: str) -> QueueCount:
        """Count what the queue holds; see `Broker`."""
        await self._promote()
        return await self._call(lambda engine: engine.count(queue))

    async def _promote(self) -> None:
        """Make ready all that is due: nobody may have consumed since."""
        await self._wait_open()
        now = self._now()
        while True:
            next_due = await self._call(lambda engine: engine.promote(now))
            if next_due is None or next_due > now:
                return

    # Fan-out...

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Hand `body` to everybody who listens to `topic` now; see `Broker`."""
        self.check_size(body)
        full = self.full_topic(topic)
        audience = await self._call(lambda engine: engine.post.broadcast(full, body))
        self._report_overdue(audience.overdue)
        return any(map(self._presence.lives, audience.listening))

    def full_topic(self, topic: str) -> str:
        """Return what the database knows a topic of our cluster by."""
        return f"{self._prefix}{topic}"

    def _report_overdue(self, processes: Collection[str]) -> None:
        """Say once of each process that it misses broadcasts."""
        for process in set(processes) - self._overdue:
            text = "%s: process %s collects no broadcasts; newer ones are lost to it"
            logger.warning(text, self._where, process)
        self._overdue.update(processes)

    @asynccontextmanager
    async def listen(
        self, *topics: str, on_again: Callable[[], None] | None = None
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[bytes]]:
        """Receive what is broadcast to any of `topics` from now on; see `Broker`.

        It goes on while channels are lost: `on_again` is called only where others may have taken
        this process for dead.
        """
        each_once = tuple(dict.fromkeys(map(self.full_topic, topics)))
        name = self._presence.name
        await self._wait_open()
        listener = self._listeners.add(each_once, on_again)
        try:
            await self._call(lambda engine: engine.post.listen(each_once, name))
            yield listener.receive
        finally:
            left = self._listeners.remove(each_once, listener)
            if left and not self._closed:
                with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await self._stop_listening(left)

    async def _stop_listening(self, topics: Sequence[str]) -> None:
        name = self._presence.name
        try:
            await self._call(lambda engine: engine.post.stop_listening(topics, name))
        except BrokerError as exc:  # Then what is said there goes unheard, until we leave.
            logger.warning("%s: %s", self._where, exc)
