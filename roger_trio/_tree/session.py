"""One channel's life: its deliveries, the workers they go to, and the end of both."""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

import trio

from .._brokers.base import (
    BrokerError,
    Channel,
    ConnectionLost,
    Delivery,
    QueueMissing,
    SubscriptionRenewed,
)
from .control import SETTLE_TIMEOUT
from .loans import Done
from .performing import Running
from .worker import Worker

logger = logging.getLogger(__name__)

_QUEUES_CONSUMED: Final = 2
"""The jobs, and the redelivered ones; each may have as many deliveries on loan as there are
workers."""
_PATIENCE: Final = 0.5
"""Seconds that a delivery may wait for a worker here while other nodes may have a free one."""
_MAY_BE_UNDONE: Final = 1000
"""Settlements that may be on their way when a connection is lost."""


class Staff:
    """How many workers a queue has on this node, over all of its sessions.

    Invariant: no more than `limit` start a job, through reconfiguration and reconnection. After
    the limit was lowered, those above it end with the job they have.

    Args:
        limit: Workers there may be.
        on_vacancy: Called when a worker has gone.
    """

    def __init__(self, limit: int, on_vacancy: Callable[[], None]) -> None:
        self.limit = limit
        self.hired = 0
        self.on_vacancy = on_vacancy

    @property
    def has_vacancy(self) -> bool:
        """Whether another worker may be started."""
        return self.hired < self.limit

    @property
    def is_overstaffed(self) -> bool:
        """Whether a worker that is between two jobs has to go."""
        return self.hired > self.limit


class Intake:
    """Deliveries on their way from the bridge to workers: a memory channel and its counts."""

    def __init__(self, prefetch: int, on_arrival: Callable[[], None]) -> None:
        size = prefetch * _QUEUES_CONSUMED
        self._send, self._receive = trio.open_memory_channel[tuple[int, Delivery]](size)
        self.arrived = 0
        """Deliveries that have come in."""
        self._on_arrival = on_arrival
        self._untaken = 0
        self.idle = 0
        """Workers that wait for a delivery, or are about to."""

    @property
    def needs_more(self) -> bool:
        """Whether there are more deliveries than workers to take them."""
        return self._untaken > self.idle

    def put(self, delivery: Delivery) -> None:
        """Take a delivery from the bridge: neither blocks nor raises."""
        try:
            self._send.send_nowait((self.arrived, delivery))
        except (trio.ClosedResourceError, trio.BrokenResourceError, trio.WouldBlock):
            _give_back(delivery)
        else:
            self.arrived += 1
            self._untaken += 1
            self._on_arrival()

    async def take(self) -> tuple[int, Delivery]:
        """Wait for a delivery; return it with its number: they are counted as they come in.

        Raises:
            trio.EndOfChannel: The intake was closed and there are no more.
        """
        taken = await self._receive.receive()
        self._untaken -= 1
        return taken

    def take_late(self, arrived: int) -> list[Delivery]:
        """Return what no worker has taken of the first so many that came in."""
        waiting = self._receive.statistics().current_buffer_used
        late = [
            self._receive.receive_nowait()[1]
            for _ in range(waiting - (self.arrived - arrived))  # What waits came in last.
        ]
        self._untaken -= len(late)
        return late

    def close(self) -> list[Delivery]:
        """Take no more; return what no worker has taken."""
        self._send.close()
        untaken: list[Delivery] = []
        with suppress(trio.EndOfChannel):
            while True:
                untaken.append(self._receive.receive_nowait()[1])
        self._untaken -= len(untaken)
        return untaken


def _give_back(delivery: Delivery) -> None:
    with suppress(ConnectionLost):  # Then the broker takes it back by itself.
        delivery.give_back()


class Session:
    """Consumes a queue on one channel until the channel ends or the intake is closed.

    Workers are standing tasks, started as the backlog asks for them: a task for each job would
    cost three times as much.

    Args:
        channel: Where deliveries come from and are settled.
        queues: The broker queues to consume.
        worker: Handles deliveries.
        staff: Counts workers; shared by all sessions of the queue.
    """

    def __init__(
        self, channel: Channel, queues: tuple[str, ...], worker: Worker, staff: Staff
    ) -> None:
        self._channel = channel
        self._queues = queues
        self._worker = worker
        self._staff = staff
        # The limit may have become 0 by now, and a prefetch of 0 would be one without end.
        self._prefetch = max(1, staff.limit)
        self._intake = Intake(self._prefetch, self.staff_up)
        self._live = 0
        self._quiet = trio.Event()
        self._crowded = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.copy_context()
        self._retuning = trio.Lock()
        self._held: set[object] = set()
        """Jobs that run elsewhere, and are settled here."""
        self._settled: deque[Done] = deque(maxlen=_MAY_BE_UNDONE)
        self.intake_ended = trio.Event()
        """Set once nothing new comes in."""

    async def run(
        self, *, task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Consume until the intake is closed and every job has ended; started once subscribed.

        Raises:
            BrokerError: It could not be subscribed.

        Cancellation: running jobs are cancelled and given back, waiting deliveries too.
        """
        try:
            await self._subscribe()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.staff_up()
                task_status.started(self)
                async with trio.open_nursery() as watchers:
                    watchers.start_soon(self._watch_queues)
                    watchers.start_soon(self._watch_channel)
                    watchers.start_soon(self._watch_waiting)
                    await self.intake_ended.wait()
                    self._check_quiet()
                    await self._quiet.wait()
                    watchers.cancel_scope.cancel()
        finally:
            self._nursery = None
            if not self.intake_ended.is_set():
                with trio.CancelScope(shield=True):
                    await self.close_intake()
            await self._settle()

    @property
    def running(self) -> list[Running]:
        """The jobs whose deliveries this session brought and that run now."""
        return [
            each for each in self._worker.running if any(loan.origin is self for loan in each.loans)
        ]

    # Intake...

    async def retune(self) -> None:
        """Bring the intake in line with the staff's limit; at 0, close it.

        Deliveries that no worker has taken go back to the broker.
        """
        async with self._retuning:
            if self.intake_ended.is_set() or self._prefetch == self._staff.limit:
                return
            await self._unsubscribe()
            if self._staff.limit and not self.intake_ended.is_set():
                self._prefetch = self._staff.limit
                self._intake = Intake(self._prefetch, self.staff_up)
                try:
                    await self._subscribe()
                except BrokerError as exc:
                    logger.info("queue %r: the intake ended: %s", self._queues[0], exc)
                    await self._unsubscribe()  # One of the queues may bring jobs already.
                else:
                    return
            self.intake_ended.set()

    async def close_intake(self) -> None:
        """Take no more; deliveries that no worker has taken go back to the broker."""
        async with self._retuning:
            await self._unsubscribe()
            self.intake_ended.set()

    async def _subscribe(self) -> None:
        prefetch, take = self._prefetch, partial(self._take, self._intake)
        for queue in self._queues:
            await self._channel.subscribe(queue, prefetch=prefetch, on_delivery=take)

    def _take(self, intake: Intake, delivery: Delivery) -> None:
        if not self._worker.take_back(delivery, self):
            intake.put(delivery)

    async def _unsubscribe(self) -> None:
        taken: Sequence[Delivery] = ()
        with suppress(BrokerError):  # Then the subscription is gone, which is what was wanted.
            taken = await self._channel.unsubscribe()
        strange = [each for each in taken if not self._worker.take_back(each, self)]
        await self._worker.returns.return_untouched([*self._intake.close(), *strange])

    async def _settle(self) -> None:
        """See to it that the end of the channel loses no settlement, if the broker takes them."""
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True), suppress(ConnectionLost):
            await self._worker.returns.return_untouched(await self._channel.wait_settled())

    async def _watch_queues(self) -> None:
        """Once a queue is deleted, leave the others too; a new session starts over."""
        try:
            await self._channel.wait_interrupted()
        except ConnectionLost:
            return  # The other watcher's business.
        except QueueMissing as exc:
            logger.warning("queue %r: %s", self._queues[0], exc)
        except SubscriptionRenewed as exc:
            logger.debug("queue %r: %s", self._queues[0], exc)
        await self.close_intake()

    async def _watch_channel(self) -> None:
        """Once the channel is lost, the broker gives what is on loan to somebody; jobs go on."""
        try:
            await self._channel.wait_lost()
        except ConnectionLost as exc:
            orphans = self._worker.lose(self, self._intake.close(), self._settled)
            text = "queue %r: %s; %d running jobs go on without their deliveries"
            logger.warning(text, self._queues[0], exc, len(orphans))
        self.intake_ended.set()

    async def _watch_waiting(self) -> NoReturn:
        """Let go of what waits for a worker here, if there are other nodes.

        Of both queues together more may be on loan than there are workers.
        """
        while True:
            await self._crowded.wait()
            self._crowded = trio.Event()
            intake, arrived = self._intake, self._intake.arrived
            await trio.sleep(_PATIENCE)
            if intake is self._intake and intake.needs_more:
                self._crowded.set()
                if await self._worker.has_mates():
                    await self._worker.returns.return_untouched(intake.take_late(arrived))

    def hold(self, job: object) -> None:
        """Stay open for a job that runs elsewhere and is settled here."""
        self._held.add(job)

    def let_go(self, job: object) -> None:
        """Stay open for it no longer."""
        if job in self._held:
            self._held.discard(job)
            self._check_quiet()

    def note_settled(self, done: Done) -> None:
        """Take note of what was settled; the end of the channel may undo that."""
        self._settled.append(done)

    async def flush(self) -> None:
        """Wait until every settlement so far has left this process."""
        await self._channel.flush()

    # Workers...

    def staff_up(self) -> None:
        """Start the workers that are needed and allowed."""
        nursery = self._nursery
        while nursery is not None and self._intake.needs_more and self._staff.has_vacancy:
            self._intake.idle += 1
            self._staff.hired += 1
            self._live += 1
            # Not in the context of the bridge, which is what called us.
            self._context.copy().run(nursery.start_soon, self._work, self._intake)
        if self._intake.needs_more:
            self._crowded.set()

    async def _work(self, intake: Intake) -> None:
        """Handle deliveries until there are no more, or there are too many workers."""
        task = trio.lowlevel.current_task()
        try:
            while not self._staff.is_overstaffed:
                # A fresh context for each job: what one sets, the next must not see. It takes
                # effect when the task resumes, and taking a delivery always suspends it.
                task.context = self._context.copy()
                arrival, delivery = await intake.take()
                intake.idle -= 1
                if self._staff.is_overstaffed:  # The limit fell while it waited.
                    await self._worker.returns.return_untouched((delivery,))
                else:
                    await self._worker.handle(delivery, self, arrival)
                intake.idle += 1
        except trio.EndOfChannel:
            pass
        except BaseException:
            self._nursery = None  # The session ends: a worker hired now would end like this one.
            raise
        finally:
            intake.idle -= 1
            self._staff.hired -= 1
            self._live -= 1
            self._check_quiet()
            self._staff.on_vacancy()

    def _check_quiet(self) -> None:
        if self.intake_ended.is_set() and not self._live and not self._held:
            self._quiet.set()
