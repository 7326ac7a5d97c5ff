"""The worker: one delivery, one outcome, one settlement."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import trio

from .._brokers.base import BrokerError, ConnectionLost, Delivery
from .._control.fates import TELL_WITHIN, Fate
from .._jobs import outcome as o, wire
from .._jobs.context import current_client, current_envelope
from .._jobs.copies import Copy, Instance, copy_of, instance_of
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._logs import log_job
from .._state import operations as op
from .concluding import Concluder, OnOutcome, has_keys
from .ending import was_forwarded
from .hooks import Hooks
from .leave import Leave
from .loans import Done, Loan, Origin
from .performing import Running, StopReason, perform, stopped
from .returning import Returns
from .settings import WorkerSettings
from .settling import Settler

logger = logging.getLogger("roger_trio.jobs")

T = TypeVar("T")


def _ignore(envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement) -> None:
    """Do nothing."""


class Worker:
    """Turns deliveries of one queue into outcomes and settles each exactly once.

    One object serves all workers of the queue; `running` says what they do.

    Args:
        settings: Of the queue.
        on_outcome: Called with each outcome, before anything is done about it.
    """

    def __init__(self, settings: WorkerSettings, on_outcome: OnOutcome = _ignore) -> None:
        self._settings = settings
        self.view = settings.control.view
        """What is known of the partition."""
        self._control = settings.control
        self._settler = Settler(settings.broker, settings.names, settings.control.done)
        self._hooks = Hooks(settings.callbacks)
        self._concluder = Concluder(settings, self._settler, self._hooks, on_outcome)
        self._leave = Leave(settings, self._settler, self._concluder)
        self.returns = Returns(settings, self._settler, self._concluder)
        """What came back."""
        # Plain functions run in as many threads as there are workers; that is their limit.
        self._threads = trio.CapacityLimiter(math.inf)
        self.running: set[Running] = set()
        """The jobs that run now, and those that wait for leave to."""
        self._by_id: dict[str, list[Running]] = {}
        """The same by their ids: a job can be in the broker more than once."""
        self.is_paused = False
        """Whether no job must be started: those that wait for leave to are given back."""
        self._ended = trio.lowlevel.ParkingLot()

    async def handle(self, delivery: Delivery, origin: Origin, arrival: int = 0) -> None:
        """Turn a delivery into an outcome and settle it.

        Args:
            delivery: The delivery.
            origin: What brought it.
            arrival: Numbers the origin's deliveries as they came in.

        Cancellation: a job that did not end is given back, and `trio.Cancelled` goes on.
        """
        came_back = self._came_back(delivery)
        loan = Loan(delivery, origin)
        try:
            envelope = self._read(delivery, came_back=came_back)
        except wire.NotAJob as exc:
            await self._concluder.bury_foreign(loan, exc)
            return
        current_envelope.set(envelope)
        current_client.set(self._settings.client)
        running = Running(envelope, [loan], arrival=arrival)
        if envelope.id in self._by_id:
            running.wait_turn = partial(self._wait_turn, running)
        self._note(running)
        try:
            if (
                not came_back
                and running.wait_turn is None
                and envelope.queue_key is None
                and envelope.execution_key is None
                and envelope.id not in self.view.cancelled
                and monotonic() < self.view.fresh_until
            ) or await self._gain_leave(running, delivery if came_back else None):
                running.has_begun = True
                outcome, job_type, state = await self._reach_outcome(running)
                await self._concluder.conclude(running, outcome, job_type, state)
        finally:
            self._part(running)
            self._ended.unpark_all()

    def _came_back(self, delivery: Delivery) -> bool:
        return delivery.redelivered or delivery.queue == self._settings.names.redelivered

    def _read(self, delivery: Delivery, *, came_back: bool) -> Envelope:
        return wire.load(
            delivery.body,
            partition=self._settings.partition,
            queue=self._settings.queue,
            redelivered=came_back and (delivery.redelivered or not was_forwarded(delivery)),
            started_at=datetime.now(UTC),
        )

    def _note(self, running: Running) -> None:
        self.running.add(running)
        self._by_id.setdefault(running.envelope.id, []).append(running)

    def _part(self, running: Running) -> None:
        """Let go of a job and what brought it, and remember one that is still to come back."""
        self.running.discard(running)
        copies = self._by_id[running.envelope.id]
        copies.remove(running)
        if not copies:
            del self._by_id[running.envelope.id]
        for loan in running.loans:
            loan.origin.let_go(running)
        if not running.loans:
            self._control.survived.add(instance_of(running.envelope))

    # Losing deliveries, and having them back...

    def lose(
        self, origin: Origin, untaken: Iterable[Delivery], settled: Iterable[Done]
    ) -> list[Running]:
        """Take note that an origin is gone; the jobs that it brought go on without it.

        Args:
            origin: What brought them.
            untaken: Its deliveries that no worker has taken.
            settled: What was settled of late, and may come back, as that may be lost.

        Returns:
            Those that have no delivery any more.
        """
        for delivery in untaken:
            with suppress(wire.NotAJob):
                envelope = self._read(delivery, came_back=True)
                self._control.survived.add(instance_of(envelope))
        self._control.done.update(settled)
        orphans: list[Running] = []
        for running in self.running:
            kept = [each for each in running.loans if each.origin is not origin]
            if kept or not running.loans:
                running.loans = kept
                continue
            running.loans = []
            running.lost_at = trio.current_time()
            origin.let_go(running)
            if running.has_begun:
                orphans.append(running)
            elif running.asking is not None:  # It is asked anew when it comes back.
                running.stop(StopReason.LOST)
        if orphans:
            self._control.orphaned.set()
        return orphans

    def take_back(self, delivery: Delivery, origin: Origin) -> bool:
        """Take a delivery that needs no worker: its job runs here, or has ended here.

        Only of what came back. Neither blocks nor raises.

        Returns:
            Whether it was one; if not, it is anybody's.
        """
        if not self._came_back(delivery) or not (self.running or self._control.done):
            return False
        try:
            envelope = self._read(delivery, came_back=True)
        except wire.NotAJob:
            return False
        if self._control.is_done(instance_of(envelope)) and not has_keys(envelope):
            with suppress(ConnectionLost):  # Then it comes back once more.
                delivery.ack()
            log_job(logger, logging.INFO, envelope, "it was done here; now that is settled")
            return True
        return any(
            each.copy == copy_of(envelope) and self._adopt(each, delivery, origin)
            for each in self._same(envelope.id)
        )

    def _adopt(self, running: Running, delivery: Delivery, origin: Origin) -> bool:
        """Give a running job its delivery back, if it can do with one."""
        # Before it has begun it may be put elsewhere: this may be that very copy.
        if not running.has_begun or running.is_settled or running.stopped is StopReason.LOST:
            return False
        if running.is_orphan:
            text = "its delivery came back after its connection was lost; it goes on with that"
            log_job(logger, logging.INFO, running.envelope, text)
        running.loans.append(Loan(delivery, origin))
        origin.hold(running)
        return True

    # What other nodes ask, and whether there are any...

    async def has_mates(self) -> bool:
        """Tell whether other nodes run the partition."""
        return await self._control.has_mates()

    @property
    def orphans(self) -> list[Running]:
        """The jobs that go on without their deliveries, and can be stopped."""
        return [each for each in self.running if each.is_orphan and not each.is_beyond_stopping]

    async def tell_fate(self, instance: Instance) -> Fate:
        """Say what became of a job whose delivery another node has got.

        Waits for its end, but not for long.
        """
        with trio.move_on_after(TELL_WITHIN):
            while self._find(instance.copy) is not None:
                await self._ended.park()
            return self._control.fate_of(instance)
        return Fate.RUNS

    def has_delivery(self, copy: Copy) -> bool:
        """Tell whether a job runs here that has its delivery."""
        running = self._find(copy)
        return running is not None and bool(running.loans)

    def _find(self, copy: Copy) -> Running | None:
        found = (each for each in self._same(copy.job) if each.has_begun and each.copy == copy)
        return next(found, None)

    def _same(self, job: str) -> Sequence[Running]:
        return self._by_id.get(job, ())

    # Stopping...

    def turn_away(self, reason: StopReason) -> None:
        """Give back the jobs that wait for leave to start."""
        for each in self.running:
            if each.asking is not None:
                each.stop(reason)

    async def wait_ended(self, running: Running) -> None:
        """Wait until all that follows a job has been done."""
        while running in self.running:
            await self._ended.park()

    def _copies(self, running: Running) -> Iterator[Running]:
        """Find the same job, running here for another delivery."""
        return (each for each in self._same(running.envelope.id) if each is not running)

    async def _wait_turn(self, running: Running) -> None:
        while any(each.wait_turn is None for each in self._copies(running)):
            await self._ended.park()
        running.wait_turn = None

    # Starting...

    async def _gain_leave(self, running: Running, came_back: Delivery | None) -> bool:
        """Find out whether a job may start; if not, see to it."""
        if came_back is not None:
            judge = partial(self.returns.judge, running, came_back)
            admission = await self._while_wanted(running, judge)
            if admission is None or not await self.returns.follow(running, admission):
                return False
            if isinstance(admission, o.Forget):
                await self._forget(running, admission)
                return False
        return await self._ask_leave(running)

    async def _ask_leave(self, running: Running, *, to_forget: bool = False) -> bool:
        ask = partial(self._leave.ask, running, to_forget=to_forget)
        verdict = await self._while_wanted(running, ask)
        return verdict is not None and await self._leave.follow(running, verdict)

    async def _forget(self, running: Running, admission: o.Forget) -> None:
        """Settle a job that has ended before, with the keys that it still may have.

        A delivery that was started elsewhere meanwhile took the keys over, and may be lost: they
        are freed by who has taken them from that one.
        """
        if not has_keys(running.envelope) or await self._ask_leave(running, to_forget=True):
            await self._concluder.forget(running, is_over=admission.is_over)

    async def _while_wanted(self, running: Running, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask something of a job that has not begun; if it is stopped meanwhile, see to that.

        Returns:
            The answer; None: the job has been settled.
        """
        answer: T | None = None
        try:
            with trio.CancelScope() as running.asking:
                if not self.is_paused and running.stopped is None:
                    answer = await ask()
        except BrokerError as exc:  # The broker will never take the question.
            await self._concluder.conclude(running, o.NotRunnable(exc))
            return None
        except BaseException:
            await self._settler.abandon(running)
            raise
        finally:
            running.asking = None
        if running.stopped is None and self.is_paused:
            running.stop(StopReason.PAUSED)
        if running.stopped is not None and not isinstance(answer, op.Finished):
            await self._concluder.conclude(running, stopped(running))
            return None
        return answer

    async def _reach_outcome(self, running: Running) -> tuple[o.Outcome, type[Job] | None, Any]:
        """Perform the job; return what became of it, its class, and the callbacks' state."""
        envelope = running.envelope
        state: Any = None
        try:
            if "before_run" in self._hooks:
                state = await self._hooks.call("before_run", envelope)
            try:
                job = envelope.load()
            except Exception as exc:  # noqa: BLE001 -- the user's own checks may raise anything
                if running.stopped is StopReason.CANCELLED:
                    return stopped(running), None, state
                return o.NotRunnable(exc), None, state
            started = monotonic()
            outcome = await perform(job, running, self._threads, self._settings.processes)
        except BaseException:
            await self._settler.abandon(running)
            raise
        if logger.isEnabledFor(logging.INFO) and isinstance(outcome, o.Succeeded):
            seconds = monotonic() - started
            log_job(logger, logging.INFO, envelope, "succeeded in %.3f s", seconds)
        return outcome, type(job), state
