"""Replay and delete jobs that wait in queues, together with the keys they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import attrs
import trio

from .._brokers.base import Delivery, Message
from .._errors import PartitionNotRunning
from .._jobs.envelope import Envelope
from .._messages import fresh, has_key, read
from .._state.operations import (
    Claimed,
    HeldBy,
    Published,
    Purged,
    PurgeKeyless,
    PurgeWaiting,
    Release,
    ReplayClaim,
)
from .._topology import QueueNames
from .claiming import Claiming

logger = logging.getLogger(__name__)

_BATCH: Final = 100
"""Buried jobs replayed at a time."""
_FURTHER: Final = 10
"""How much further each look for certain buried jobs goes than the one before: one that is near the
head of a long queue is found without taking all of it."""
_PAGE: Final = 500
"""Jobs purged at a time where some of them hold keys."""
_PURGE_PATIENCE: Final = 2.0
"""Seconds the coordinator has to come to a purge; else it is done from here, and not there."""


@attrs.frozen
class _Buried:
    """A buried job that is to be replayed, and what it becomes."""

    delivery: Delivery
    envelope: Envelope | None
    message: Message


@attrs.frozen
class _Moved:
    """What became of one batch of buried jobs."""

    seen: int
    """How many buried jobs it had."""
    replayed: list[str]
    stuck: list[str]
    """Those whose key another job holds, or nobody can be asked for."""

    @property
    def moved(self) -> int:
        """How many jobs were wanted."""
        return len(self.replayed) + len(self.stuck)


class Moving(Claiming):
    """The calls that replay and delete."""

    async def replay_buried(
        self, partition: str, queue: str, ids: Collection[str] | None = None
    ) -> int:
        """Put buried jobs back into their queue, with all their attempts before them.

        A job with a ``queue_key`` takes its key again. While another job holds it, the buried one
        stays buried, a WARNING names it, and it is not counted.

        Args:
            partition: The partition.
            queue: The queue.
            ids: The ids of the jobs to replay. Default: all that are buried now.

        Returns:
            How many were put back.

        Raises:
            RogerError: The broker has no such queue.
            PartitionNotRunning: Some of the jobs have a key, and no node of the partition answers:
                these stay buried, and the others were put back.
            BrokerUnavailable: It cannot be reached, or did not confirm.

        Cancellation: jobs are put back one batch at a time; none is lost.

        Delivery: a job leaves the buried ones only when its way into the queue is confirmed.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            await self._broker.count(names.buried)  # Refuses a queue that is not there.
            await self._broker.declare(names.specs())
            is_asked = await self._has_coordinator(partition)
        replayed: set[str] = set()
        stuck: set[str] = set()

        async def replay(limit: int) -> _Moved:
            def is_wanted(id: str) -> bool:
                return (wanted is None or id in wanted) and id not in replayed and id not in stuck

            with self._looking(partition, queue):
                moved = await self._replay(
                    names, partition, queue, limit, is_wanted, is_asked=is_asked
                )
            replayed.update(moved.replayed)
            stuck.update(moved.stuck)
            return moved

        wanted = None if ids is None else frozenset(ids)
        if wanted is None:
            # A job that fails at once is buried again behind those that are still to be replayed.
            while (await replay(_BATCH + len(stuck))).moved >= _BATCH:
                pass
        else:
            limit = _BATCH
            while (await replay(limit)).seen >= limit and not wanted <= replayed | stuck:
                limit *= _FURTHER
        if stuck and not is_asked:
            text = f"no node can be asked for the keys of {len(stuck)} jobs, which stay buried; "
            text += f"{len(replayed)} others were replayed"
            raise PartitionNotRunning(partition, text)
        return len(replayed)

    async def _replay(
        self,
        names: QueueNames,
        partition: str,
        queue: str,
        limit: int,
        is_wanted: Callable[[str], bool],
        *,
        is_asked: bool,
    ) -> _Moved:
        """Replay those of the oldest buried jobs that are wanted and get their keys."""
        async with self._broker.browse(names.buried, limit) as deliveries:
            buried = [_Buried(each, *fresh(each, partition, queue)) for each in deliveries]
            wanted = [each for each in buried if is_wanted(each.message.message_id)]
            if is_asked:
                free = await self._publish_replayed(names, partition, wanted)
            else:
                free = [each for each in wanted if not (each.envelope and has_key(each.envelope))]
                await self._broker.publish_many(names.work, [each.message for each in free])
            for each in free:
                each.delivery.ack()
        moved = {id(each) for each in free}
        return _Moved(
            len(buried),
            [each.message.message_id for each in free],
            [each.message.message_id for each in wanted if id(each) not in moved],
        )

    async def _publish_replayed(
        self, names: QueueNames, partition: str, wanted: Sequence[_Buried]
    ) -> list[_Buried]:
        """Publish those that get their key back; forget of all that they ended."""
        inbox = self._controls.bus.inbox
        claims = [
            ReplayClaim(
                each.envelope.id,
                each.envelope.queue_key,
                each.envelope.queue,
                self._new_nonce(),
                inbox,
            )
            for each in wanted
            if each.envelope is not None
        ]
        with self._withdrawing(partition, claims) as held:
            answers = dict(
                zip(
                    [claim.job for claim in claims],
                    await self._ask_claims(partition, claims),
                    strict=True,
                )
            )
            free: list[_Buried] = []
            for each in wanted:
                answer = answers.get(each.envelope.id) if each.envelope else None
                if isinstance(answer, HeldBy):
                    text = "job %s stays buried: job %s holds its queue key"
                    logger.warning(text, each.message.message_id, answer.job)
                else:
                    free.append(each)
            await self._broker.publish_many(names.work, [each.message for each in free])
            held.confirm()
            published = [
                Published(claim.job, claim.nonce)
                for claim in claims
                if isinstance(answers[claim.job], Claimed)
            ]
            await self._controls.courier.tell(partition, *published)
        return free

    async def purge(self, partition: str, queue: str) -> int:
        """Delete all jobs that wait in a queue, also those that wait for an execution key.

        The keys of the deleted jobs are free. Running jobs go on and keep theirs, and jobs that
        wait for their delay or retry are not in the queue.

        Args:
            partition: The partition.
            queue: The queue.

        Returns:
            How many were deleted.

        Raises:
            RogerError: The broker has no such queue.
            BrokerUnavailable: It cannot be reached.

        Cancellation: some of the jobs may have been deleted, and their keys are free.
        """
        names = self._names(partition, queue)
        with self._looking(partition, queue):
            await self._broker.count(names.work)  # Refuses a queue that is not there.
            waiting, rest = 0, None
            if await self._has_coordinator(partition):
                waiting, rest = await self._ask_purge(partition, queue)
            if rest is not None:
                return waiting + rest
        purged = waiting
        for each in (names.work, names.redelivered):
            purged += await self._purge_keyed(partition, queue, each)
        return purged

    async def _ask_purge(self, partition: str, queue: str) -> tuple[int, int | None]:
        """Have the coordinator purge a queue, if it comes to it soon.

        Returns:
            How many jobs that waited for a key it has deleted, and how many others; None: none of
            these, and it will not later on.
        """
        controls, bus = self._controls, self._controls.bus
        counts: list[int | None] = [None, None]
        with bus.expect() as gathering, gathering.patience:
            gathering.patience.deadline = trio.current_time() + _PURGE_PATIENCE
            asked = (
                PurgeWaiting(queue, bus.inbox, gathering.request),
                PurgeKeyless(queue, bus.inbox, gathering.request),
            )
            answers = await controls.courier.ask_many(partition, asked)
            counts = [each.count if isinstance(each, Purged) else None for each in answers]
        return counts[0] or 0, counts[1]

    async def _purge_keyed(self, partition: str, queue: str, broker_queue: str) -> int:
        """Delete what is in a broker queue now, page by page, each after its keys are free."""
        with self._looking(partition, queue):
            # RabbitMQ 4 tells it with some delay, so it only says when to let new jobs be.
            enough = (await self._broker.count(broker_queue)).messages + _PAGE
        purged = 0
        while purged < enough:
            with self._looking(partition, queue):
                async with self._broker.browse(broker_queue, _PAGE) as page:
                    envelopes = [read(each, partition, queue) for each in page]
                    # Each as an attempt of its own, so that a copy that runs keeps its keys.
                    keyed = [
                        Release(each.id, self._new_nonce(), each.queued_at.timestamp())
                        for each in envelopes
                        if has_key(each)
                    ]
                    if keyed:
                        await self._controls.courier.tell(partition, *keyed)
                    for each in page:
                        each.ack()
            purged += len(page)
            if len(page) < _PAGE:
                break
        return purged

    async def purge_buried(self, partition: str, queue: str) -> int:
        """Delete all buried jobs of a queue; return how many. Buried jobs hold no keys.

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
