"""The client: enqueue jobs, look at them, and control them, without running any."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final

import trio

from ._brokers.base import (
    Broker,
    BrokerError,
    ConnectionRefused,
    Message,
    MessageTooLarge,
    QueueMissing,
)
from ._brokers.choose import make_broker
from ._config import Config, default_node_name
from ._errors import BrokerUnavailable, DuplicateJob, InvalidJob, RogerError
from ._jobs import wire
from ._jobs.context import current_client
from ._jobs.envelope import Envelope
from ._jobs.job import Job
from ._messages import (
    checked_names,
    fresh,
    make_envelope,
    read,
    read_buried,
    seconds_to_wait,
)
from ._topology import QueueNames

_CHUNK: Final = 5000
"""Jobs of one `enqueue_many` that have to be confirmed within one `enqueue_timeout`."""
_BATCH: Final = 100
"""Buried jobs replayed at a time."""
_ALL: Final = 2**31 - 1
_PAUSE_EVERY: Final = 250
"""Jobs encoded before other tasks get their turn."""


class Client:
    """Enqueues jobs and looks after queues. Get one from `connect`; a `Node` is one too.

    Methods may be called from any task, also at the same time. Those that need the broker wait
    while it cannot be reached, at most ``enqueue_timeout`` seconds, and then raise
    `BrokerUnavailable`.
    """

    def __init__(self, config: Config, broker: Broker) -> None:
        self._config = config
        self._broker = broker

    # Enqueueing...

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

        The queue need not exist yet, and no node need run.

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
            BrokerUnavailable: Not confirmed within ``enqueue_timeout``: the job may or may not
                have been kept.

        Cancellation: the job may or may not have been enqueued.

        Delivery: a confirmed job survives the death of any process. Where a connection is lost
        before its confirmation arrives, the job is sent again and may be there twice, under the
        same id.
        """
        seconds = seconds_to_wait(delay, at)
        envelope = make_envelope(job, partition, queue, id)
        names = self._names(partition, envelope.queue)
        message = Message(wire.dump(envelope), envelope.id)
        with self._patience(f"job {envelope.id} ({envelope.name}) was not confirmed"):
            await self._broker.declare(names.specs())
            await self._broker.publish(names.work, message, delay=seconds)
        return envelope

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
            For each job, in order, its envelope.

        Raises:
            InvalidJob, ConfigError: As `enqueue`, before any job was enqueued.
            BrokerUnavailable: For ``enqueue_timeout`` seconds the broker confirmed too little: some
                of the jobs may have been kept.
        """
        seconds = seconds_to_wait(delay, at)
        envelopes: list[Envelope] = []
        messages: list[tuple[str, Message]] = []
        for job in jobs:
            envelope = make_envelope(job, partition, queue, None)
            self._names(partition, envelope.queue)
            envelopes.append(envelope)
            messages.append((envelope.queue, Message(wire.dump(envelope), envelope.id)))
            if len(envelopes) % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        for start in range(0, len(messages), _CHUNK):
            chunk = messages[start : start + _CHUNK]
            with self._patience(f"{len(messages) - start} jobs were not confirmed"):
                await self._publish_by_queue(partition, chunk, seconds)
        return list(envelopes)

    async def _publish_by_queue(
        self, partition: str, messages: Sequence[tuple[str, Message]], delay: float
    ) -> None:
        queues: dict[str, list[Message]] = {}
        for queue, message in messages:
            queues.setdefault(queue, []).append(message)
        for queue, ours in queues.items():
            names = self._names(partition, queue)
            await self._broker.declare(names.specs())
            await self._broker.publish_many(names.work, ours, delay=delay)

    # Looking...

    async def queued_jobs(self, partition: str, queue: str, limit: int = 100) -> list[Envelope]:
        """Look at the jobs that wait in a queue, oldest first.

        The look changes neither their order nor their attempts. Delayed jobs are not in the queue
        until their time has come. A payload that is not a job shows up with the name ``""``.

        Args:
            partition: The partition.
            queue: The queue.
            limit: The most to return.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            found = await self._look_at_redelivered(names, partition, queue, limit)
            left = max(0, limit - len(found))
            async with self._broker.browse(names.work, left) as deliveries:
                return found + [read(each, partition, queue) for each in deliveries]

    async def _look_at_redelivered(
        self, names: QueueNames, partition: str, queue: str, limit: int
    ) -> list[Envelope]:
        """Look at the jobs that came back.

        What comes back to that queue once more counts as a death, so those that would be marked
        by the look are sent there anew.
        """
        async with self._broker.browse(names.redelivered, limit) as deliveries:
            found = [read(each, partition, queue) for each in deliveries]
            unmarked = [each for each in deliveries if not each.redelivered]
            anew = [Message(each.body, each.message_id) for each in unmarked]
            await self._broker.publish_many(names.redelivered, anew)
            for each in unmarked:
                each.ack()
        return found

    async def buried_jobs(self, partition: str, queue: str, limit: int = 100) -> list[Envelope]:
        """Look at the buried jobs of a queue, oldest first; each has its ``error``.

        Args:
            partition: The partition.
            queue: The queue.
            limit: The most to return.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            async with self._broker.browse(names.buried, limit) as deliveries:
                return [read_buried(each, partition, queue) for each in deliveries]

    # Moving and deleting...

    async def replay_buried(
        self, partition: str, queue: str, ids: Collection[str] | None = None
    ) -> int:
        """Put buried jobs back into their queue, with all their attempts before them.

        Args:
            partition: The partition.
            queue: The queue.
            ids: The ids of the jobs to replay. Default: all that are buried now.

        Returns:
            How many were put back.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached, or did not confirm.

        Cancellation: jobs are put back one batch at a time; none is lost.

        Delivery: a job leaves the buried ones only when its way into the queue is confirmed.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            await self._broker.count(names.buried)  # Refuses a queue that is not there.
            await self._broker.declare(names.specs())
        if ids is not None:
            wanted = frozenset(ids)
            with self._looking(partition, queue):
                moved = await self._replay(names, partition, queue, _ALL, wanted.__contains__)
            return len(moved)
        # A job that fails at once is buried again behind those that are still to be replayed.
        replayed: set[str] = set()
        while True:
            with self._looking(partition, queue):
                moved = await self._replay(
                    names, partition, queue, _BATCH, lambda id: id not in replayed
                )
            replayed.update(moved)
            if len(moved) < _BATCH:
                return len(replayed)

    async def _replay(
        self,
        names: QueueNames,
        partition: str,
        queue: str,
        limit: int,
        is_wanted: Callable[[str], bool],
    ) -> list[str]:
        """Replay those of the oldest buried jobs that are wanted; return their ids."""
        async with self._broker.browse(names.buried, limit) as deliveries:
            messages = [(each, fresh(each, partition, queue)) for each in deliveries]
            chosen = [pair for pair in messages if is_wanted(pair[1].message_id)]
            await self._broker.publish_many(names.work, [message for _, message in chosen])
            for delivery, _ in chosen:
                delivery.ack()
        return [message.message_id for _, message in chosen]

    async def purge(self, partition: str, queue: str) -> int:
        """Delete all jobs that wait in a queue; return how many.

        Running jobs go on, and jobs that wait for their delay or retry are not in the queue.

        Args:
            partition: The partition.
            queue: The queue.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            purged = await self._broker.purge(names.work)
            return purged + await self._broker.purge(names.redelivered)

    async def purge_buried(self, partition: str, queue: str) -> int:
        """Delete all buried jobs of a queue; return how many.

        Args:
            partition: The partition.
            queue: The queue.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            return await self._broker.purge(names.buried)

    # What these have in common...

    def _names(self, partition: str, queue: str) -> QueueNames:
        return checked_names(self._config.prefix, partition, queue)

    @contextmanager
    def _looking(self, partition: str, queue: str) -> Generator[None]:
        try:
            with self._patience(f"partition {partition!r}, queue {queue!r}: no answer"):
                yield
        except QueueMissing as exc:
            raise RogerError(
                f"partition {partition!r} has no queue {queue!r} on the broker: "
                "nothing was ever enqueued into it, and no node has consumed it"
            ) from exc

    @contextmanager
    def _patience(self, failure: str) -> Generator[None]:
        """Bound what waits for the broker, and put its errors into the user's words."""
        timeout = self._config.enqueue_timeout
        try:
            with trio.move_on_after(timeout) as scope:
                yield
        except MessageTooLarge as exc:
            raise InvalidJob(f"payload: expected one the broker takes: {exc}") from exc
        except QueueMissing:
            raise
        except BrokerError as exc:
            raise BrokerUnavailable(f"{failure}: {exc}") from exc
        if scope.cancelled_caught:
            trouble = self._broker.trouble or "the broker is slow"
            raise BrokerUnavailable(f"{failure} within {timeout:g} s: {trouble}")


@asynccontextmanager
async def connect(config: Config) -> AsyncGenerator[Client]:
    """Open a client, without a node, and make it the ambient client.

    Inside the block ``await job.enqueue(partition)`` goes through it::

        async with roger.connect(config) as client:
            await client.enqueue(send_mail.job("ada@example.com"), "myapp")

    A broker that cannot be reached now does not keep the block from being entered: the connection
    is made when it can be, and what needs it waits, as `Client` says.

    Args:
        config: Where to; partitions, callbacks and the like are not used.

    Raises:
        ConfigError: The configuration is wrong.
        BrokerUnavailable: The broker refused us for good: a wrong password, virtual host,
            certificate or port.
    """
    name = config.node_name or default_node_name()
    broker = make_broker(config, name=f"{name} client", consumes=False)
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(broker.run)
            client = Client(config, broker)
            token = current_client.set(client)
            try:
                yield client
            finally:
                current_client.reset(token)
        except trio.Cancelled:
            raise
        except ConnectionRefused as exc:
            error = BrokerUnavailable(str(exc))
            error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001 -- raised again below, out of the nursery
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
