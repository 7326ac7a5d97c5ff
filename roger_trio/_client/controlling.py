"""Cancel jobs, pause queues, look at keys and free them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from .._brokers.base import QueueMissing
from .._control.gathering import FromMembers, Gathering
from .._errors import PartitionNotRunning, RogerError
from .._info import CancelResult, KeyInfo
from .._messages import MAX_KEY_BYTES, checked_id, is_key
from .._state.operations import (
    Cancel,
    Conclude,
    Finished,
    First,
    FreeKey,
    Gone,
    HeldKey,
    Keys,
    ListKeys,
    ListPaused,
    Pause,
    PausedQueues,
    Recorded,
    Resume,
)
from .base import ClientBase

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT: Final = 7.0
"""Seconds for nodes to stop a job: longer than they let it clean up."""
PAUSE_TIMEOUT: Final = 5.0
"""Seconds for nodes to take no more jobs of a queue."""
_RUNNING: Final = (CancelResult.STOPPED, CancelResult.STOPPING, CancelResult.UNSTOPPABLE)
"""What the node finds on which a job runs: no other one has to be heard then."""
_TELLING: Final = (*_RUNNING, CancelResult.FINISHED)
"""What nodes find, the most telling first."""
_FOUND: Final = {each.value: each for each in _TELLING}


class Controlling(ClientBase):
    """The calls that control what runs."""

    async def cancel(self, job_id: str, partition: str) -> CancelResult:
        """Cancel a job: stop it wherever it runs; if it does not run, never start it.

        Args:
            job_id: Its id. One that is not known is remembered, for 30 days: the job may be on its
                way, delayed, or in any of the partition's queues.
            partition: Its partition.

        Returns:
            What is true now, see `CancelResult`. A job that runs is stopped as soon as it was
            found; this returns when it has ended, or after some seconds of its cleaning up.

        Raises:
            InvalidJob: The id breaks a rule.
            ConfigError: The name of the partition breaks a rule.
            PartitionNotRunning: No node runs the partition, or none answers in time: then the job
                may still be cancelled when one does.
            BrokerUnavailable: The broker cannot be reached.

        Cancellation: the job may or may not be cancelled.

        Delivery: once this has returned, no copy of the job is started any more; ``on_cancel`` is
        called exactly once, when the job has been stopped or is met.
        """
        checked_id(job_id)
        bus = self._controls.bus
        with bus.expect() as gathering:
            operation = Cancel(job_id, bus.inbox, gathering.request)
            answer: Recorded | Finished = await self._ask(partition, operation, Recorded, Finished)
            if isinstance(answer, Finished):
                return CancelResult.FINISHED
            found = await self._gather(
                partition,
                gathering,
                answer,
                {"ask": "cancel", "partition": partition, "job": job_id},
                CANCEL_TIMEOUT,
            )
        results = {_result(reply) for reply in found.replies.values()}
        if not results.isdisjoint(_TELLING):
            result = next(each for each in _TELLING if each in results)
            if result is CancelResult.FINISHED:  # Then there is nothing to remember.
                nonce = f"{bus.inbox}.{gathering.request}"
                await self._ask(partition, Conclude(job_id, bus.inbox, nonce), First)
            return result
        if found.silent:
            text = "job %s: cancelled; if it runs on a node that does not answer now (%s), it is "
            text += "stopped when that node answers again"
            logger.warning(text, job_id, ", ".join(sorted(found.silent)))
        return CancelResult.RECORDED

    async def pause(self, partition: str, queue: str) -> frozenset[str]:
        """Start no more jobs of a queue, on any node; running ones finish.

        Remembered through restarts, until `resume`. Jobs may still be enqueued.

        Args:
            partition: The partition.
            queue: The queue.

        Returns:
            The names of nodes that listen and did not answer, being frozen or very busy. All others
            start none any more, and so do these once they answer again; if it is empty, it holds
            everywhere.

        Raises:
            ConfigError: A name breaks a rule.
            RogerError: No node has such a queue, nor has the broker.
            PartitionNotRunning: No node runs the partition, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.

        Cancellation: the queue may or may not be paused.
        """
        await self._check_queue(partition, queue)
        return await self._set_paused(partition, queue, paused=True)

    async def resume(self, partition: str, queue: str) -> frozenset[str]:
        """Start jobs of a paused queue again; one that is not paused stays as it is.

        Args:
            partition: The partition.
            queue: The queue.

        Returns:
            Names of nodes that listen and did not answer; they resume once they do.

        Raises:
            ConfigError: A name breaks a rule.
            RogerError: No node has such a queue, nor has the broker, and it is not paused.
            PartitionNotRunning: No node runs the partition, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.

        Cancellation: the queue may or may not be resumed.
        """
        self._names(partition, queue)
        if queue not in await self.paused(partition):
            await self._check_queue(partition, queue)
        return await self._set_paused(partition, queue, paused=False)

    async def _set_paused(self, partition: str, queue: str, *, paused: bool) -> frozenset[str]:
        bus = self._controls.bus
        with bus.expect() as gathering:
            kind = Pause if paused else Resume
            operation = kind(queue, bus.inbox, gathering.request)
            answer = await self._ask(partition, operation, Recorded)
            question = {"ask": "pause", "partition": partition, "queue": queue}
            found = await self._gather(partition, gathering, answer, question, PAUSE_TIMEOUT)
        return frozenset(found.silent)

    async def _gather(
        self,
        partition: str,
        gathering: Gathering,
        recorded: Recorded,
        question: Mapping[str, Any],
        timeout: float,
    ) -> FromMembers:
        """Collect what the members found; those that turn out to be dead are members no more."""
        controls = self._controls
        found = await controls.bus.gather_from(
            gathering,
            recorded.members,
            question,
            timeout=timeout,
            until=lambda reply: _result(reply) in _RUNNING,
        )
        # It may have been about to connect again, and be back since.
        gone = [
            Gone(inbox) for inbox in found.gone.values() if not await controls.bus.is_heard(inbox)
        ]
        if gone:
            controls.courier.tell_soon(partition, *gone)
        return found

    async def paused(self, partition: str) -> frozenset[str]:
        """Tell which queues of a partition are paused.

        Args:
            partition: The partition.

        Raises:
            ConfigError: The name of the partition breaks a rule.
            PartitionNotRunning: No node runs the partition, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.
        """
        answer = await self._ask(partition, ListPaused(), PausedQueues)
        return frozenset(answer.queues)

    async def keys(self, partition: str) -> list[KeyInfo]:
        """Tell which keys are held in a partition, and by which jobs; the oldest first.

        Args:
            partition: The partition.

        Raises:
            ConfigError: The name of the partition breaks a rule.
            PartitionNotRunning: No node runs the partition, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.
        """
        found: dict[tuple[str, str], HeldKey] = {}
        answer = await self._ask(partition, ListKeys(), Keys)
        while True:
            found.update({(each.kind, each.key): each for each in answer.keys})
            if answer.is_all or not answer.keys:
                return _infos(found.values())
            answer = await self._ask(partition, ListKeys(answer.keys[-1].since), Keys)

    async def release_key(self, partition: str, key: str) -> list[KeyInfo]:
        """Free a key by hand, whoever holds it: queue key and execution key of that name.

        Keys are freed with their jobs, so this is never needed. What it does to a job that does
        hold the key: another one may be enqueued, or started, beside it.

        Args:
            partition: The partition.
            key: The key.

        Returns:
            What was freed.

        Raises:
            RogerError: The text is no key, or no job holds it.
            ConfigError: The name of the partition breaks a rule.
            PartitionNotRunning: No node runs the partition, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.

        Cancellation: the key may or may not be free.
        """
        if not isinstance(key, str) or not is_key(key):
            rule = f"text of 1 to {MAX_KEY_BYTES} bytes in UTF-8"
            raise RogerError(f"key: expected {rule}, got {key!r}")
        bus = self._controls.bus
        with bus.expect() as gathering:
            operation = FreeKey(key, bus.inbox, gathering.request)
            freed = _infos((await self._ask(partition, operation, Keys)).keys)
        if not freed:
            raise RogerError(f"partition {partition!r}: no job holds the key {key!r}")
        return freed

    async def _check_queue(self, partition: str, queue: str) -> None:
        """Refuse a queue that neither the broker nor a node has."""
        names = self._names(partition, queue)
        with self._patience(f"partition {partition!r}, queue {queue!r}: no answer"):
            try:
                await self._broker.count(names.work)
            except QueueMissing:
                pass
            else:
                return
        hosted = await self._queues_by_partition()
        if partition not in hosted:
            running = ", ".join(repr(each) for each in sorted(hosted)) or "none"
            text = f"no node runs it; partitions that run: {running}"
            raise PartitionNotRunning(partition, text)
        if queue not in hosted[partition]:
            has = ", ".join(repr(each) for each in sorted(hosted[partition])) or "none"
            raise RogerError(f"partition {partition!r} has no queue {queue!r}; its queues: {has}")


def _result(reply: Mapping[str, Any]) -> CancelResult | None:
    """Read what a node found; None: nothing."""
    found = reply.get("found")
    return _FOUND.get(found) if isinstance(found, str) else None


def _infos(keys: Iterable[HeldKey]) -> list[KeyInfo]:
    return [_info(each) for each in sorted(keys, key=lambda each: each.since)]


def _info(held: HeldKey) -> KeyInfo:
    return KeyInfo(
        key=held.key,
        kind=cast("Literal['queue', 'execution']", held.kind),
        job_id=held.job,
        queue=held.queue,
        since=datetime.fromtimestamp(held.since, UTC),
        node=held.node,
        waiting=held.waiting,
    )
