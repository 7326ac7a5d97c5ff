"""One job through a worker, without a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeAlias

import attrs
import trio

from .._brokers.base import Broker, Message
from .._brokers.embedded.open import Memory
from .._client import connect
from .._config import Config
from .._control.gathering import NobodyListens
from .._control.view import View
from .._errors import RogerError
from .._jobs import outcome as o, wire
from .._jobs.callbacks import Callbacks
from .._jobs.context import AmbientClient, current_client
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.signals import Discard, Snooze
from .._messages import checked_names, make_envelope
from .._state import operations as op
from .._topology import PartitionNames, QueueNames
from .._tree.control import Control
from .._tree.process_pool import ProcessPool, check_node
from .._tree.settings import WorkerSettings
from .._tree.worker import Worker

Kind: TypeAlias = Literal["succeeded", "failed", "retried", "snoozed", "buried", "discarded"]


@attrs.frozen(kw_only=True)
class Performed:
    """What became of one attempt at a job; see `perform_job`."""

    kind: Kind
    """How it ended: ``"succeeded"``; ``"failed"``, which is over, as the job is not retryable;
    ``"retried"`` and ``"snoozed"``, which come back; ``"buried"``; ``"discarded"``."""
    result: Any = None
    """What ``perform`` returned."""
    error: BaseException | None = None
    """What ``perform`` raised, or kept it from running; ``JobTimeout`` for a timeout. None if it
    succeeded."""
    delay: float | None = None
    """Seconds until it comes back; None if it does not."""
    retry_count: int
    """How many attempts have failed so far, this one included where it is retried."""
    envelope: Envelope
    """The job as ``perform`` and the callbacks saw it."""


async def perform_job(
    job: Job,
    *,
    partition: str = "test",
    queue: str | None = None,
    retry_count: int = 0,
    callbacks: Callbacks | None = None,
    retry_levels: Sequence[float] | None = None,
) -> Performed:
    """Perform one attempt at a job as a worker does, and tell what became of it.

    ::

        done = await perform_job(send_mail.job("ada@example.com"))
        assert done.kind == "succeeded"

    Everything is as in a node but for the broker: arguments are checked, written to the wire form
    and read back; callbacks are called; the job runs in a scope and a context of its own, a plain
    function in a thread, or with ``process=True`` in a worker process, which is started for it and
    takes some tenths of a second; ``max_execution_time`` counts on Trio's clock. What would follow,
    a retry or a burial, is in the answer and happens nowhere.

    What the job enqueues goes to the ambient client of the caller, or, where there is none, into
    the broker in memory, where `enqueued` finds it.

    Args:
        job: The job.
        partition: The partition it believes to be in.
        queue: The queue it believes to be in. Default: what its ``queue_type`` returns.
        retry_count: How many attempts have failed before, at least 0.
        callbacks: What is called around it. Default: nothing.
        retry_levels: What a node would have. Default: those of ``Config``.

    Returns:
        What became of it. An exception in the job is part of that, and not raised.

    Raises:
        InvalidJob: The job breaks a rule, and could not be enqueued.
        ConfigError: A name, the retry levels or the callbacks break a rule; or the job has
            ``process=True``, and the extra ``roger_trio[process]`` is not installed.
        ValueError: ``retry_count`` is out of range.

    Cancellation: the job is cancelled.
    """
    if not 0 <= retry_count <= wire.MAX_COUNT:
        raise ValueError(f"retry_count: expected 0 to {wire.MAX_COUNT}, got {retry_count!r}")
    check_node([type(job)])
    given: dict[str, Any] = {"callbacks": callbacks, "retry_levels": retry_levels}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = Config(broker="memory:", **chosen)
    attempt = _Attempt(config, job, partition, queue, retry_count)
    client = current_client.get()
    if client is not None:
        return await attempt.make(client)
    async with connect(Config(broker="memory:")) as client:
        return await attempt.make(client)


@attrs.frozen
class _Attempt:
    config: Config
    job: Job
    partition: str
    queue: str | None
    retry_count: int

    async def make(self, client: AmbientClient) -> Performed:
        """Enqueue the job into a broker of its own, and have a worker perform it."""
        broker = Memory().open_broker()
        result: Performed | RogerError = RogerError("the job was not performed")
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            try:
                envelope = await self._enqueue(broker)
                result = await self._perform(envelope, client, broker)
            except RogerError as exc:
                result = exc  # Raised again below, out of the nursery.
            nursery.cancel_scope.cancel()
        if isinstance(result, RogerError):
            raise result
        return result

    async def _perform(
        self, envelope: Envelope, client: AmbientClient, broker: Broker
    ) -> Performed:
        names = QueueNames.of("", envelope.partition, envelope.queue)
        ends: list[Performed] = []
        processes = ProcessPool(1)
        worker = Worker(
            WorkerSettings(
                partition=envelope.partition,
                queue=envelope.queue,
                names=names,
                waiting=PartitionNames.of("", envelope.partition).waiting,
                broker=broker,
                control=_alone(envelope.partition),
                client=client,
                callbacks=self.config.callbacks,
                retry_levels=self.config.retry_levels,
                max_deliveries=self.config.max_deliveries,
                max_buried=None,
                processes=processes,
            ),
            lambda *end: ends.append(_performed(*end)),
        )
        async with (
            aclosing(processes),
            broker.browse(names.work, 1) as [delivery],
            trio.open_nursery() as nursery,
        ):
            # In a task, for what a job does to its context must not reach the test.
            nursery.start_soon(worker.handle, delivery, _NoSession())
        return ends[-1]

    async def _enqueue(self, broker: Broker) -> Envelope:
        """Put the job where a worker finds it; its keys are not held, as nobody else is there."""
        envelope = make_envelope(self.job, self.partition, self.queue, None)
        envelope = attrs.evolve(envelope, retry_count=self.retry_count)
        names = checked_names("", envelope.partition, envelope.queue)
        await broker.declare(names.specs())
        await broker.publish(names.work, Message(wire.dump(envelope), envelope.id))
        return envelope


class _NobodyElse:
    """Stands for the coordinator and the other nodes: a job has all keys it asks for."""

    inbox = ""

    async def ask(self, partition: str, operation: op.Operation) -> op.Answer:
        """Let every job start, and conclude it."""
        return op.First(is_first=True) if isinstance(operation, op.Conclude) else op.Run()

    def post(self, partition: str, operation: op.Operation) -> Callable[[], Awaitable[op.Answer]]:
        """Ask later."""
        return lambda: self.ask(partition, operation)

    async def tell(self, partition: str, *operations: op.Operation) -> None:
        """Remember nothing."""

    async def find_mates(self, partition: str) -> Sequence[str]:
        """Name nobody."""
        return ()

    def is_dead(self, inbox: str) -> bool:
        """Take them all for dead."""
        return True

    def note_silence(self, inbox: str, seconds: float) -> None:
        """Remember nothing."""

    def is_silent(self, inbox: str) -> bool:
        """Say no: there are none."""
        return False

    def is_given_up(self, inbox: str) -> bool:
        """Take them all for dead."""
        return True

    async def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Mapping[str, Any]:
        """Never be there."""
        raise NobodyListens(inbox)


def _alone(partition: str) -> Control:
    """Make what a worker asks, where nobody else is there."""
    nobody = _NobodyElse()

    async def sync() -> op.Synced:
        return op.Synced(0, (), ())

    return Control(partition, "", nobody, nobody, View(partition, sync))


class _NoSession:
    """Stands for the session of a job that came without one."""

    async def flush(self) -> None:
        """Have nothing to wait for."""

    def hold(self, job: object) -> None:
        """Stay."""

    def let_go(self, job: object) -> None:
        """Stay."""

    def note_settled(self, done: object) -> None:
        """Never lose a settlement."""


def _performed(envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement) -> Performed:
    delay, retry_count = None, envelope.retry_count
    if isinstance(settlement, o.RunAgain):
        delay, retry_count = settlement.delay, settlement.retry_count
    return Performed(
        kind=_kind(outcome, settlement),
        result=outcome.result if isinstance(outcome, o.Succeeded) else None,
        error=_error(outcome),
        delay=delay,
        retry_count=retry_count,
        envelope=envelope,
    )


def _kind(outcome: o.Outcome, settlement: o.Settlement) -> Kind:
    match outcome, settlement:
        case o.Succeeded(), _:
            return "succeeded"
        case o.Discarded(), _:
            return "discarded"
        case o.Snoozed(), _:
            return "snoozed"
        case _, o.RunAgain():
            return "retried"
        case _, o.PutAway():
            return "buried"
        case _:
            return "failed"


def _error(outcome: o.Outcome) -> BaseException | None:
    match outcome:
        case o.Failed(error) | o.NotRunnable(error) | o.RetryRequested(error):
            return error
        case o.BuryRequested(error):
            return error
        case o.Snoozed(seconds):
            return Snooze(seconds)
        case o.Discarded(reason):
            return Discard(reason)
        case _:
            return None
