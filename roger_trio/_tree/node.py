"""The node: one running process that hosts partitions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, overload

import trio

from .._brokers.base import Broker, BrokerError, ConnectionRefused
from .._client import Client
from .._config import Config, check_partition_name, check_queues
from .._errors import BrokerUnavailable, PartitionNotRunning, RogerError
from .._info import QueueInfo
from .._jobs.envelope import Envelope
from .._topology import QueueNames
from .consumer import QueueConsumer
from .partition import CLEAN_UP_TIMEOUT, Partition
from .supervise import RestartPolicy, supervise
from .worker import SETTLE_TIMEOUT, Worker, WorkerSettings

logger = logging.getLogger(__name__)


_HURRY: Final = 2.0
"""Seconds that a node which stops at once gives to the ``finally`` blocks of its jobs."""


class Node(Client):
    """One running process that hosts partitions; a `Client` that also runs jobs.

    Get one from `serve`. Its methods may be called from any task of the program it runs in.
    """

    def __init__(self, config: Config, broker: Broker, name: str) -> None:
        super().__init__(config, broker)
        self._name = name
        self._partitions: dict[str, Partition] = {}
        self._nursery: trio.Nursery | None = None
        self._stop_requested = trio.Event()
        self._starting = trio.CancelScope()
        self._running = trio.CancelScope()

    @property
    def name(self) -> str:
        """The node's name, unique in the cluster."""
        return self._name

    # Partitions at run time...

    async def start_partition(self, id: str, queues: Mapping[str, int]) -> None:
        """Start a partition, or reconfigure it if it is running here.

        Args:
            id: The partition's name, printable text of up to 120 bytes.
            queues: Queue to max workers.

        Returns once its queues are consumed, or refused by the broker (the log says why); at once
        while the broker cannot be reached: the partition is then waiting and starts by itself.

        A partition that is being stopped is started once it has stopped.

        Raises:
            ConfigError: A name or number breaks its rule.
            RogerError: The node is stopping.
        """
        check_partition_name(id)
        queues = check_queues(queues, key=f"partitions.{id}")
        partition = self._partitions.get(id)
        while partition is not None and partition.stopping.is_set():
            await partition.ended.wait()
            partition = self._partitions.get(id)
        if partition is not None:
            await partition.reconfigure(queues)
        else:
            partition = self._launch(id, queues)
        if self._broker.is_connected:
            await partition.wait_tried()

    async def stop_partition(self, id: str) -> None:
        """Stop a partition on this node; return when it has stopped.

        Running jobs get ``shutdown_timeout`` seconds; the rest are cancelled and given back, and
        spend no attempt.

        Args:
            id: The partition's name.

        Raises:
            PartitionNotRunning: It does not run here.

        Cancellation: the partition stops all the same.
        """
        partition = self._partition(id)
        partition.stop()
        await partition.ended.wait()

    async def reconfigure(self, id: str, queues: Mapping[str, int]) -> None:
        """Change the queues of a partition that runs here.

        Args:
            id: The partition's name.
            queues: Queue to max workers, complete: queues not mentioned stop consuming here, and
                their running jobs finish. More workers start at once; with fewer, the jobs above
                the number finish and no further ones start.

        Raises:
            PartitionNotRunning: It does not run here, or is being stopped.
            ConfigError: A name or number breaks its rule.

        Cancellation: a change that has begun is made whole.
        """
        partition = self._partition(id)
        if partition.stopping.is_set():
            raise PartitionNotRunning(id, "it is being stopped")
        await partition.reconfigure(check_queues(queues, key=f"partitions.{id}"))
        if self._broker.is_connected:
            await partition.wait_tried()

    async def drain(self) -> None:
        """Take no more jobs in any partition, and wait for the running ones.

        The node and its partitions stay; `reconfigure` has them take jobs again.

        Cancellation: the node goes on taking no jobs.
        """
        async with trio.open_nursery() as nursery:
            for partition in list(self._partitions.values()):
                nursery.start_soon(partition.drain)

    def _partition(self, id: str) -> Partition:
        partition = self._partitions.get(id)
        if partition is None:
            here = ", ".join(repr(each) for each in self._partitions) or "none"
            raise PartitionNotRunning(id, f"this node runs {here}")
        return partition

    def _launch(self, id: str, queues: Mapping[str, int]) -> Partition:
        if self._nursery is None or self._stop_requested.is_set():
            raise RogerError(f"partition {id!r} cannot be started: the node is not running")
        timeout = self._config.shutdown_timeout
        partition = Partition(id, queues, self._make_consumer, timeout)
        self._partitions[id] = partition
        self._nursery.start_soon(self._host, partition, name=f"partition {id}")
        return partition

    async def _host(self, partition: Partition) -> None:
        """Run a partition to its end; its failures never reach another one."""
        try:
            name = f"partition {partition.id!r}"
            policy = RestartPolicy(max_restarts=None)
            await supervise(partition.run, name=name, policy=policy, stopping=partition.stopping)
        finally:
            del self._partitions[partition.id]
            partition.ended.set()

    def _make_consumer(self, partition: str, queue: str, max_workers: int) -> QueueConsumer:
        config = self._config
        names = QueueNames.of(config.prefix, partition, queue)
        settings = WorkerSettings(
            partition=partition,
            queue=queue,
            names=names,
            broker=self._broker,
            client=self,
            callbacks=config.callbacks,
            retry_levels=config.retry_levels,
            max_deliveries=config.max_deliveries,
            max_buried=config.max_buried,
        )
        return QueueConsumer(self._broker, names, Worker(settings), max_workers)

    # What runs here...

    async def running_partitions(self) -> dict[str, dict[str, dict[str, QueueInfo]]]:
        """Tell what runs: node → partition → queue → `QueueInfo`.

        Partitions that wait for the broker are in `waiting_partitions` instead.
        """
        if not self._broker.is_connected:
            return {self._name: {}}
        running: dict[str, dict[str, QueueInfo]] = {}
        for id, partition in list(self._partitions.items()):
            running[id] = {}
            for queue in partition.queues:
                consumer = partition.consumers.get(queue)
                if consumer is not None and consumer.is_consuming:
                    running[id][queue] = await self._queue_info(id, queue, consumer)
        return {self._name: running}

    async def _queue_info(self, id: str, queue: str, consumer: QueueConsumer) -> QueueInfo:
        names = self._names(id, queue)
        with self._looking(id, queue):
            work = await self._broker.count(names.work)
            redelivered = await self._broker.count(names.redelivered)
        return QueueInfo(
            max_workers=consumer.max_workers,
            paused=False,
            message_count=work.messages + redelivered.messages,
            consumer_count=work.consumers,
            running=len(consumer.running),
        )

    async def waiting_partitions(self) -> dict[str, dict[str, dict[str, int]]]:
        """Tell what waits for the broker: node → partition → queue → max workers."""
        if self._broker.is_connected:
            return {self._name: {}}
        return {self._name: {id: dict(each.queues) for id, each in self._partitions.items()}}

    @overload
    async def running_jobs(self) -> dict[str, dict[str, list[Envelope]]]: ...
    @overload
    async def running_jobs(self, partition: str) -> dict[str, list[Envelope]]: ...

    async def running_jobs(
        self, partition: str | None = None
    ) -> dict[str, dict[str, list[Envelope]]] | dict[str, list[Envelope]]:
        """Tell which jobs run: node → partition → jobs, or node → jobs of one partition.

        Args:
            partition: The partition. Default: all.

        Raises:
            PartitionNotRunning: The partition does not run here.
        """
        if partition is not None:
            return {self._name: _envelopes(self._partition(partition))}
        return {self._name: {id: _envelopes(each) for id, each in self._partitions.items()}}

    # Life...

    async def run(self, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; started once the configured partitions consume.

        Raises:
            BrokerUnavailable: The broker refused us for good at the first attempt.
        """
        refusal: BrokerError | None = None
        async with trio.open_nursery() as infrastructure:
            try:
                with self._starting:
                    await infrastructure.start(self._broker.run)
            except ConnectionRefused as exc:
                refusal = exc
            else:
                with self._running:
                    await self._run_partitions(task_status)
            infrastructure.cancel_scope.cancel()
        if refusal is not None:
            raise BrokerUnavailable(str(refusal)) from refusal

    async def _run_partitions(self, task_status: trio.TaskStatus[Node]) -> None:
        if self._stop_requested.is_set():
            return
        async with trio.open_nursery() as self._nursery:
            for id, queues in self._config.partitions.items():
                self._launch(id, queues)
            with trio.CancelScope() as self._starting:
                for partition in list(self._partitions.values()):
                    await partition.wait_tried()
                logger.info("node %r is ready", self._name)
                task_status.started(self)
            await self._stop_requested.wait()
            for partition in self._partitions.values():
                partition.stop()
        logger.info("node %r has stopped", self._name)

    def stop(self) -> None:
        """Stop gracefully: no new jobs, and ``shutdown_timeout`` for the running ones."""
        if not self._stop_requested.is_set():
            self._stop_requested.set()
            self._starting.cancel()
            budget = self._config.shutdown_timeout + CLEAN_UP_TIMEOUT + SETTLE_TIMEOUT
            self._running.deadline = trio.current_time() + budget

    def stop_now(self) -> None:
        """Stop at once: running jobs are cancelled and given back."""
        self.stop()
        for partition in self._partitions.values():
            partition.stop_now()
        self._running.deadline = trio.current_time() + _HURRY


def _envelopes(partition: Partition) -> list[Envelope]:
    return [job.envelope for job in partition.running]
