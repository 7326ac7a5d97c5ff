"""The queue consumer: one queue of a partition on this node, through all its connections."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from .._brokers.base import Broker, BrokerError, ConnectionLost, QueueMissing
from .._control.fates import Fate
from .._jobs.copies import Instance
from .._topology import QueueNames
from .performing import Running, StopReason
from .session import Session, Staff
from .worker import Worker

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 30.0
"""Seconds between attempts to consume a queue the broker refuses."""
_PATIENCE: Final = 10.0
"""Seconds to wait for the coordinator before a WARNING says so."""


class QueueConsumer:
    """Consumes one queue with up to `max_workers` workers; 0 takes nothing.

    Args:
        broker: Where the queue is.
        queue: Its name.
        names: Its broker queues.
        worker: Handles deliveries.
        max_workers: Jobs that may run at once.
    """

    def __init__(
        self, broker: Broker, queue: str, names: QueueNames, worker: Worker, max_workers: int
    ) -> None:
        self.queue = queue
        """Its name."""
        self._broker = broker
        self._names = names
        self._worker = worker
        self._view = worker.view
        self._staff = Staff(max_workers, self._on_vacancy)
        self._max_workers = max_workers
        self._session: Session | None = None
        self._wanted = trio.Event()
        self._drained = trio.lowlevel.ParkingLot()
        self._intake_scope = trio.CancelScope()
        self.stopping = trio.Event()
        """Set once it has been asked to stop."""
        self.intake_closed = trio.Event()
        """Set once it has been stopped and takes nothing more."""
        self.tried = trio.Event()
        """Set once it has consumed, has been refused, or has failed."""
        self.failure: BrokerError | None = None
        """Why it does not consume, where the broker refused."""

    @property
    def max_workers(self) -> int:
        """Jobs that may run at once, when it is not paused."""
        return self._max_workers

    @property
    def is_paused(self) -> bool:
        """Whether no job of it must be started."""
        return self._worker.is_paused

    @property
    def is_consuming(self) -> bool:
        """Whether the broker sends us deliveries now."""
        return self._session is not None

    @property
    def running(self) -> list[Running]:
        """The jobs that run now."""
        return list(self._worker.running)

    # Running...

    async def run(self) -> None:
        """Consume until `stop`, then wait for the running jobs.

        Cancellation: running jobs are cancelled and given back.
        """
        self._session = None
        try:
            async with trio.open_nursery() as sessions:
                with trio.CancelScope() as self._intake_scope:
                    if not self.stopping.is_set():
                        await self._keep_consuming(sessions)
                await self._close_intake()
                self.intake_closed.set()
        finally:
            # Nobody shall wait for what may never come.
            self.tried.set()
            if self.stopping.is_set():
                self.intake_closed.set()

    async def _close_intake(self) -> None:
        if self._session is not None:
            await self._session.close_intake()

    def stop(self) -> None:
        """Take no more jobs; `run` returns when the running ones have ended."""
        self.stopping.set()
        self._max_workers = 0
        self._staff.limit = 0  # So that no worker takes what is still in the intake.
        self._worker.turn_away(StopReason.SHUTDOWN)
        self._intake_scope.cancel()

    def stop_jobs(self) -> None:
        """Cancel the running jobs; they are given back and spend no attempt."""
        for each in self.running:
            each.stop(StopReason.SHUTDOWN)

    async def resize(self, max_workers: int) -> None:
        """Change how many jobs may run at once; 0 takes no more, and running ones finish."""
        if max_workers == self._max_workers:
            return
        self._max_workers = max_workers
        self._set_limit()
        await self._retune()

    def set_paused(self, *, is_paused: bool) -> None:
        """Start no more jobs, or start them again; from now on. `settle_pause` sees to the rest."""
        if is_paused == self._worker.is_paused or self.stopping.is_set():
            return
        self._worker.is_paused = is_paused
        if is_paused:
            self._worker.turn_away(StopReason.PAUSED)
            logger.info("queue %r is paused", self._names.work)
        else:
            logger.info("queue %r is resumed", self._names.work)
        self._set_limit()

    async def settle_pause(self) -> None:
        """Give back what was delivered and not started, if it is paused."""
        await self._retune()

    def _set_limit(self) -> None:
        self._staff.limit = 0 if self._worker.is_paused else self._max_workers
        if self._max_workers:
            self._wanted.set()  # Also one that is paused: it has to say that it was tried.

    async def _retune(self) -> None:
        if self._session is not None:
            await self._session.retune()

    async def wait_ended(self, running: Running) -> None:
        """Wait until all that follows one of its jobs has been done."""
        await self._worker.wait_ended(running)

    @property
    def orphans(self) -> list[Running]:
        """The running jobs that have lost their deliveries, and can be stopped."""
        return self._worker.orphans

    async def tell_fate(self, instance: Instance, *, has: bool) -> Fate:
        """Say what became of a job here; see `Inquiry`."""
        if has:
            return await self._worker.tell_fate(instance)
        return Fate.RUNS if self._worker.has_delivery(instance.copy) else Fate.ABSENT

    async def wait_drained(self) -> None:
        """Wait until no job runs."""
        while self._staff.hired:
            await self._drained.park()

    def _on_vacancy(self) -> None:
        if not self._staff.hired:
            self._drained.unpark_all()
        if self._session is not None:
            self._session.staff_up()

    async def _keep_consuming(self, sessions: trio.Nursery) -> NoReturn:
        """Open one session after the other, until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            await self._wait_wanted()
            await self._broker.wait_connected()
            try:
                await self._prepare()
                if not self._staff.limit:
                    continue
                session = await sessions.start(self._open_session)
            except ConnectionLost as exc:
                logger.debug("queue %r: %s", self._names.work, exc)
                await trio.sleep(_FIRST_PAUSE)
            except BrokerError as exc:
                self._refused(exc)
                await trio.sleep(pause)
                pause = min(_MAX_PAUSE, pause * 2)
            else:
                pause = _FIRST_PAUSE
                await self._use(session)

    async def _wait_wanted(self) -> None:
        while not self._staff.limit:
            if self._worker.is_paused and self._max_workers:
                self.tried.set()
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _prepare(self) -> None:
        """Have the queues there, and know what must not be started; both take their time."""
        refusal: BrokerError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._learn)
            try:
                await self._broker.declare(self._names.specs(), afresh=True)
            except BrokerError as exc:
                refusal = exc
                nursery.cancel_scope.cancel()
        if refusal is not None:
            raise refusal

    async def _learn(self) -> None:
        """Find out what is paused and cancelled, before anything is started."""
        with trio.move_on_after(_PATIENCE) as scope:
            await self._view.sync()
        if scope.cancelled_caught:
            text = "queue %r waits for the coordinator of its partition"
            logger.warning(text, self._names.work)
            self.tried.set()
            await self._view.sync()

    async def _open_session(
        self, *, task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Consume on one channel, to the end of its last job; started once it consumes."""
        async with self._broker.open_channel() as channel:
            queues = (self._names.work, self._names.redelivered)
            session = Session(channel, queues, self._worker, self._staff)
            await session.run(task_status=task_status)
            await channel.flush()

    async def _use(self, session: Session) -> None:
        """Let a session be the one that takes jobs, until its intake ends."""
        self._session, self.failure = session, None
        self.tried.set()
        logger.info("consuming %r with up to %d workers", self._names.work, self.max_workers)
        # The limit may have changed, and a worker have gone, while the session was opened.
        await session.retune()
        session.staff_up()
        await session.intake_ended.wait()
        self._session = None

    def _refused(self, exc: BrokerError) -> None:
        if isinstance(exc, QueueMissing):
            logger.warning("queue %r went while it was set up: %s", self._names.work, exc)
            return
        if str(exc) != str(self.failure):
            logger.error("cannot consume: %s", exc)
        self.failure = exc
        self.tried.set()
