"""Enqueue jobs: each is confirmed by the broker, and holds its queue key before it is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import attrs
import trio

from .._brokers.base import Message
from .._errors import DuplicateJob
from .._jobs import wire
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._messages import make_envelope, seconds_to_wait
from .._state.operations import Claim, HeldBy, Published
from .claiming import Claiming

_CHUNK: Final = 5000
"""Jobs of one `enqueue_many` that have to be confirmed within one `enqueue_timeout`."""
_PAUSE_EVERY: Final = 250
"""Jobs encoded before other tasks get their turn."""


@attrs.frozen
class _Outgoing:
    """A job that is about to be published."""

    envelope: Envelope
    message: Message


class Enqueueing(Claiming):
    """The calls that enqueue."""

    async def enqueue(
        self,
        job: Job,
        partition: str,
        *,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        id: str | None = None,
    ) -> Envelope:
        """Enqueue a job; return once the broker has confirmed that it keeps it.

        The queue need not exist yet, and no node need run, unless the job has a ``queue_key``.

        Args:
            job: What to do, such as ``ResizeImage("cat.png")`` or ``send_mail.job("ada@…")``.
            partition: Whose job it is.
            queue: The queue. Default: what the job's ``queue_type`` returns.
            delay: Seconds before it may run, from 0: never sooner, at most a second later.
            at: The aware time before which it does not run; in the past: now. Not with ``delay``.
            id: The job's id, text of 1 to 200 bytes. Default: a new one.

        Returns:
            The job with its bookkeeping.

        Raises:
            InvalidJob: The job breaks a rule; the message names field, rule and value.
            ConfigError: The name of the partition or queue breaks a rule.
            DuplicateJob: A queued or running job holds its ``queue_key``; nothing was enqueued.
            PartitionNotRunning: It has a ``queue_key``, and no node of the partition answered
                within ``enqueue_timeout``; nothing was enqueued.
            BrokerUnavailable: Not confirmed within ``enqueue_timeout``: the job may or may not
                have been kept.

        Cancellation: the job may or may not have been enqueued. A key it does not need is free
        again moments later.

        Delivery: a confirmed job survives the death of any process. Where a connection is lost
        before its confirmation arrives, the job is sent again and may be there twice, under the
        same id.
        """
        seconds = seconds_to_wait(delay, at)
        envelope = make_envelope(job, partition, queue, id)
        names = self._names(partition, envelope.queue)
        message = Message(wire.dump(envelope), envelope.id)
        if envelope.queue_key is not None:
            return await self._enqueue_unique(_Outgoing(envelope, message), seconds)
        with self._patience(f"job {envelope.id} ({envelope.name}) was not confirmed"):
            await self._broker.declare(names.specs())
            await self._broker.publish(names.work, message, delay=seconds)
        return envelope

    async def _enqueue_unique(self, job: _Outgoing, delay: float) -> Envelope:
        """Enqueue a job with a queue key."""
        failure = f"job {job.envelope.id} ({job.envelope.name}) was not confirmed"
        [result] = await self._publish(job.envelope.partition, [job], delay, failure)
        if isinstance(result, DuplicateJob):
            raise result
        return result

    async def enqueue_many(
        self,
        jobs: Iterable[Job],
        partition: str,
        *,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> list[Envelope | DuplicateJob]:
        """Enqueue many jobs, pipelined; return once the broker has confirmed all of them.

        Args:
            jobs: The jobs. In each queue they keep their order.
            partition: Whose jobs they are.
            queue: The queue. Default: what each job's ``queue_type`` returns.
            delay: Seconds before they may run.
            at: The aware time before which they do not run.

        Returns:
            For each job, in order, its envelope; or a `DuplicateJob`, which is not raised, where
            another job holds its ``queue_key``: also one that comes before it in this call.

        Raises:
            InvalidJob, ConfigError: As `enqueue`, before any job was enqueued.
            PartitionNotRunning: Some have a ``queue_key``, and no node of the partition answered
                within ``enqueue_timeout``. They go in groups of 5,000, in order; nothing of that
                group, or of later ones, was enqueued.
            BrokerUnavailable: For ``enqueue_timeout`` seconds the broker confirmed too little: some
                of the jobs may have been kept.

        Cancellation: some of the jobs may have been enqueued.
        """
        seconds = seconds_to_wait(delay, at)
        outgoing: list[_Outgoing] = []
        for job in jobs:
            envelope = make_envelope(job, partition, queue, None)
            self._names(partition, envelope.queue)
            outgoing.append(_Outgoing(envelope, Message(wire.dump(envelope), envelope.id)))
            if len(outgoing) % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        results: list[Envelope | DuplicateJob] = []
        for start in range(0, len(outgoing), _CHUNK):
            chunk = outgoing[start : start + _CHUNK]
            failure = f"{len(outgoing) - start} jobs were not confirmed"
            results += await self._publish(partition, chunk, seconds, failure)
        return results

    async def _publish(
        self, partition: str, jobs: Sequence[_Outgoing], delay: float, failure: str
    ) -> list[Envelope | DuplicateJob]:
        """Publish all that get their keys."""
        unique = [each for each in jobs if each.envelope.queue_key is not None]
        if not unique:
            with self._patience(failure):
                await self._publish_by_queue(partition, jobs, delay)
            return [each.envelope for each in jobs]
        claims = [self._claim(each.envelope) for each in unique]
        deadline = trio.current_time() + self._config.enqueue_timeout  # For all steps together.
        with self._withdrawing(partition, claims) as held:
            with self._patience(failure, deadline):
                await self._declare(partition, jobs)
            duplicates = await self._claim_all(partition, claims, deadline)
            ours = [each for each in jobs if each.envelope.id not in duplicates]
            with self._patience(failure, deadline):
                await self._publish_by_queue(partition, ours, delay)
                held.confirm()
                await self._controls.courier.tell(
                    partition,
                    *(
                        Published(each.job, each.nonce)
                        for each in claims
                        if each.job not in duplicates
                    ),
                )
        return [duplicates.get(each.envelope.id, each.envelope) for each in jobs]

    def _claim(self, envelope: Envelope) -> Claim:
        inbox = self._controls.bus.inbox
        key = envelope.queue_key or ""
        return Claim(envelope.id, key, envelope.queue, self._new_nonce(), inbox)

    async def _claim_all(
        self, partition: str, claims: Sequence[Claim], deadline: float
    ) -> dict[str, DuplicateJob]:
        """Ask for the keys; return, by id, those jobs whose key another one holds."""
        answers = await self._ask_claims(partition, claims, deadline)
        return {
            claim.job: DuplicateJob(claim.key, answer.job)
            for claim, answer in zip(claims, answers, strict=True)
            if isinstance(answer, HeldBy)
        }

    async def _declare(self, partition: str, jobs: Sequence[_Outgoing]) -> None:
        for queue in dict.fromkeys(each.envelope.queue for each in jobs):
            await self._broker.declare(self._names(partition, queue).specs())

    async def _publish_by_queue(
        self, partition: str, jobs: Sequence[_Outgoing], delay: float
    ) -> None:
        queues: dict[str, list[Message]] = {}
        for each in jobs:
            queues.setdefault(each.envelope.queue, []).append(each.message)
        for queue, ours in queues.items():
            names = self._names(partition, queue)
            await self._broker.declare(names.specs())
            await self._broker.publish_many(names.work, ours, delay=delay)
