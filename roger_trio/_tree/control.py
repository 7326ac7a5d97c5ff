"""What the workers of a partition on this node ask of its coordinator, and tell it."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex
from typing import Final, Protocol

import attrs
import trio

from .._brokers.base import BrokerError
from .._control.asking import DEAD_AFTER
from .._control.fates import Fate, Fates, Inquiry, Knows
from .._control.gathering import NobodyListens, NoReply
from .._control.view import View
from .._jobs.copies import Instance, instance_of
from .._jobs.envelope import Envelope
from .._state import operations as op
from .loans import Done, Lately

logger = logging.getLogger(__name__)

SETTLE_TIMEOUT: Final = 10.0
"""Seconds that what must follow a job may take to be confirmed, also while the node stops."""
ENDED_TIMEOUT: Final = 5.0
"""Seconds that a node lets another one wait for the end of a job; then that one asks again."""
_ASK_EVERY: Final = 0.25
_ASK_AGAIN_AFTER: Final = 2.0
"""Seconds between looks whether one that asks for as long as it takes has been cancelled."""
_REMEMBERED: Final = 10_000

Verdict = op.Run | op.Wait | op.Cancelled | op.Finished | op.Duplicate


def new_attempt() -> str:
    """Name one delivery of a job unlike any other."""
    return token_hex(8)


class Asks(Protocol):
    """The way to coordinators: a `Courier`."""

    def ask(self, partition: str, operation: op.Operation) -> Awaitable[op.Answer]:
        """Ask, for as long as it takes."""
        ...

    def post(self, partition: str, operation: op.Operation) -> Callable[[], Awaitable[op.Answer]]:
        """Put it in line at once; return what waits for the answer."""
        ...

    def tell(self, partition: str, *operations: op.Operation) -> Awaitable[None]:
        """Tell, and return once it is kept."""
        ...


class Hears(Knows, Protocol):
    """The way to the other nodes: a `Bus`."""

    @property
    def inbox(self) -> str:
        """Where this node hears."""
        ...

    def is_given_up(self, inbox: str) -> bool:
        """Tell whether nobody has listened at a known node's inbox for so long that it is dead."""
        ...


class FinishedJobs:
    """The ids of jobs that ended here of late: of the last 10,000 at least, of 20,000 at most."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, job: str) -> None:
        """Note that a job is over."""
        if len(self._newer) >= self._remembered:
            self._older, self._newer = self._newer, set()
        self._newer.add(job)

    def discard(self, job: str) -> None:
        """Forget that a job is over: it starts anew."""
        self._newer.discard(job)
        self._older.discard(job)

    def __contains__(self, job: str) -> bool:
        return job in self._newer or job in self._older


@attrs.define(eq=False)
class _Place:
    """A job's place in the line of those that ask for leave."""

    arrival: int
    operation: op.Start
    answer: Callable[[], Awaitable[op.Answer]] | None = None
    """Waits for it, once it was asked."""


class Control:
    """What all workers of one partition on this node share.

    Args:
        partition: Its name.
        node: The name of this node.
        courier: The way to the coordinator.
        bus: The way to the other nodes.
        view: What this node knows of the partition.
    """

    def __init__(self, partition: str, node: str, courier: Asks, bus: Hears, view: View) -> None:
        self.partition = partition
        self.view = view
        self.finished = FinishedJobs()
        """Jobs that ended here."""
        self.done: Lately[Done] = Lately()
        """What was settled here and may still come back, as its settlement was lost."""
        self.survived: Lately[Instance] = Lately()
        """What was lost here with its connection, and does not run here any more."""
        self.orphaned = trio.Event()
        """Set when running jobs have lost their deliveries."""
        self._fates = Fates(bus)
        self._line: list[_Place] = []
        self._node = node
        self._courier = courier
        self._bus = bus

    def needs_leave(self, envelope: Envelope) -> bool:
        """Tell whether the coordinator is to be asked before the job starts."""
        return (
            envelope.queue_key is not None
            or envelope.execution_key is not None
            or envelope.id in self.view.cancelled
        )

    async def ask_leave(
        self, envelope: Envelope, attempt: str, arrival: int, *, to_forget: bool = False
    ) -> Verdict:
        """Ask whether a job may be started here, for as long as it takes to find out.

        Args:
            envelope: The job.
            attempt: What `new_attempt` gave for this delivery.
            arrival: Numbers the deliveries of a queue as they came in.
            to_forget: Whether it has ended before, and only what it still may hold is asked for.

        Cancellation: it may have been registered as started here.
        """
        start = op.Start(
            job=envelope.id,
            queue=envelope.queue,
            queue_key=envelope.queue_key,
            execution_key=envelope.execution_key,
            node=self._node,
            inbox=self._bus.inbox,
            attempt=attempt,
            born=envelope.queued_at.timestamp(),
            to_forget=to_forget,
        )
        answer = await self._ask_in_order(start, arrival)
        while isinstance(answer, op.Elsewhere):
            await self._wait_ended(answer, envelope.id)
            start = attrs.evolve(start, instead_of=answer.attempt)
            answer = await self._courier.ask(self.partition, start)
        if isinstance(answer, Verdict):
            return answer
        raise TypeError(f"expected leave to start a job or a refusal, got {answer!r}")

    async def _ask_in_order(self, operation: op.Start, arrival: int) -> op.Answer:
        """Ask; of those that ask at the same moment, the first to arrive goes first.

        Workers that get their deliveries at one moment run in any order, but who is first to ask
        is first to have the execution key.
        """
        place = _Place(arrival, operation)
        self._line.append(place)
        await trio.lowlevel.cancel_shielded_checkpoint()
        if place.answer is None:
            # Those before this one are in line by now. Of those behind it some may be still to
            # come, so they are left to ask for themselves.
            for each in sorted(self._line, key=lambda each: each.arrival):
                if each.operation.queue == operation.queue and each.arrival <= arrival:
                    each.answer = self._courier.post(self.partition, each.operation)
            self._line = [each for each in self._line if each.answer is None]
        if place.answer is None:
            raise RuntimeError("a job that was in line has not asked")
        return await place.answer()

    async def _wait_ended(self, other: op.Elsewhere, job: str) -> None:
        """Wait until a job does not run any more where it was started, or that node is dead."""
        question = {"ask": "ended", "partition": self.partition, "job": job}
        dead_since: float | None = None
        while True:
            try:
                reply = await self._bus.ask_inbox(
                    other.inbox, question, timeout=ENDED_TIMEOUT + 1.0
                )
                if reply.get("ended") is True:
                    return
                dead_since = None
            except NoReply:
                dead_since = None
                logger.debug("node %r does not say whether job %s still runs", other.node, job)
            except NobodyListens:
                now = trio.current_time()
                dead_since = now if dead_since is None else dead_since
                # Mostly that was found out already, when it was asked for the job's fate.
                if self._bus.is_given_up(other.inbox) or now - dead_since >= DEAD_AFTER:
                    return
                await trio.sleep(_ASK_EVERY)

    async def find_fate(self, envelope: Envelope, *, has: bool) -> Fate:
        """Find out what became of a job that another node of the partition may have had.

        Args:
            envelope: The job.
            has: Whether its delivery is here; else it runs here without one.
        """
        inquiry = Inquiry(self.partition, envelope.queue, instance_of(envelope), has)
        return await self._fates.find(inquiry)

    def is_done(self, instance: Instance) -> bool:
        """Tell whether what came back has only to be settled."""
        return instance in self.done or instance.copy in self.done

    def fate_of(self, instance: Instance) -> Fate:
        """Tell what became of a job that does not run here."""
        if self.is_done(instance):
            return Fate.OVER if instance.copy.job in self.finished else Fate.DONE
        return Fate.SURVIVED if instance in self.survived else Fate.ABSENT

    async def has_mates(self) -> bool:
        """Tell whether other nodes run the partition."""
        return bool(await self._bus.find_mates(self.partition))

    # At the end...

    async def requeue(self, envelope: Envelope, attempt: str) -> str:
        """Tell that the job comes back; return what was in the way, or ''."""
        return await self._tell(op.Requeue(envelope.id, attempt))

    async def release(self, envelope: Envelope, attempt: str) -> str:
        """Tell that the job is over for good; return what was in the way, or ''."""
        return await self._tell(op.Release(envelope.id, attempt, envelope.queued_at.timestamp()))

    async def conclude(self, envelope: Envelope, attempt: str) -> bool | None:
        """Tell that a cancelled job has ended or been met, for as long as it takes.

        Who was the first to tell may have been told so by an answer that was lost, and nobody else
        is the first then.

        Returns:
            Whether this is the first to tell; None if that could not be found out.

        Cancellation: it is found out all the same, if that is possible within `SETTLE_TIMEOUT`.
        """
        born = envelope.queued_at.timestamp()
        operation = op.Conclude(envelope.id, self._bus.inbox, attempt, born)
        give_up_at = trio.current_time() + SETTLE_TIMEOUT
        while True:
            with trio.move_on_after(_ASK_AGAIN_AFTER, shield=True):
                try:
                    answer = await self._courier.ask(self.partition, operation)
                except BrokerError:
                    return None
                return answer.is_first if isinstance(answer, op.First) else None
            is_cancelled = trio.current_effective_deadline() == -math.inf
            if is_cancelled and trio.current_time() >= give_up_at:
                return None

    async def forget_cancellation(self, job: str) -> None:
        """Tell that a job that is to be cancelled had ended before."""
        operation = op.Conclude(job, self._bus.inbox, new_attempt())
        with suppress(BrokerError):
            await self._courier.ask(self.partition, operation)

    async def leave(self) -> None:
        """Tell that this node runs the partition no more."""
        await self._courier.tell(self.partition, op.Leave(self._bus.inbox))

    async def _tell(self, operation: op.Operation) -> str:
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
            try:
                await self._courier.tell(self.partition, operation)
            except BrokerError as exc:
                return str(exc)
            return ""
        return f"it was not confirmed within {SETTLE_TIMEOUT:g} s"


def sync_with(
    courier: Asks, partition: str, operation: op.Sync, declared: trio.Event
) -> Callable[[], Awaitable[op.Synced]]:
    """Make what a `View` asks with, once there is something to ask."""

    async def ask() -> op.Synced:
        await declared.wait()
        answer = await courier.ask(partition, operation)
        if not isinstance(answer, op.Synced):
            raise TypeError(f"expected what is paused and cancelled, got {answer!r}")
        return answer

    return ask
