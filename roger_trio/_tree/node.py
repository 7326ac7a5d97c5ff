"""The node: one running process that hosts partitions."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import trio

from .._brokers.base import Broker, BrokerError, ConnectionRefused
from .._client import Client
from .._config import Config, MemoryConfig, check_partition_name, check_queues
from .._control.cluster import Info, dump_clock, dump_info, dump_jobs, node_info
from .._control.controls import Controls
from .._control.coordinator import Coordinator
from .._control.gathering import Asker
from .._control.roster import Card, Identity
from .._control.view import Pulse, View
from .._errors import BrokerUnavailable, ConfigError, PartitionNotRunning, RogerError
from .._info import VERSION, Health, QueueInfo
from .._jobs.envelope import Envelope
from .._state.binding import bind_persister
from .._state.operations import Event, Sync
from .._state.store import Store
from .._topology import PartitionNames, QueueNames
from . import doorbell
from .consumer import QueueConsumer
from .control import SETTLE_TIMEOUT, Control, sync_with
from .health import QueueState, judge
from .membership import CLEAN_UP_TIMEOUT, Membership
from .partition import Partition
from .process_pool import ProcessPool, check_node
from .settings import WorkerSettings
from .starts import Starts
from .supervise import RestartPolicy, supervise
from .worker import Worker

logger = logging.getLogger(__name__)


_HURRY: Final = 2.0
"""Seconds that a node which stops at once gives to the ``finally`` blocks of its jobs."""
_BYE_TIMEOUT: Final = 1.0
_COUNT_TIMEOUT: Final = 1.0
"""Seconds for the broker to tell how full the queues are, when somebody asks."""
_HELLO_EVERY: Final = 1.0


class Node(Client):
    """One running process that hosts partitions; a `Client` that also runs jobs.

    Get one from `serve`. Its methods may be called from any task of the program it runs in.
    """

    def __init__(
        self,
        config: Config,
        broker: Broker,
        name: str,
        set_up_process: Callable[[], None] | None = None,
    ) -> None:
        check_node()
        self._processes = ProcessPool(config.max_job_processes, set_up_process)
        self._identity = Identity(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=VERSION,
            started_at=datetime.now(UTC),
        )
        controls = Controls(broker, config.prefix, self._identity)
        super().__init__(config, broker, controls)
        self._name = name
        self._bus = controls.bus
        self._courier = controls.courier
        self._bus.partitions = self._hosted
        self._bus.on_event = self._take_event
        self._bus.on_question = self._take_question
        self._persister = bind_persister(config.persister, config, broker)
        # In memory there is one process: if that is frozen, nothing happens meanwhile.
        in_memory = isinstance(config.broker_config(), MemoryConfig)
        self._pulse = None if in_memory else Pulse()
        self._infrastructure: trio.Nursery | None = None
        self._changed = trio.Event()
        self._partitions: dict[str, Partition] = {}
        self._starts = Starts()
        self._nursery: trio.Nursery | None = None
        self._stop_requested = trio.Event()
        self._starting = trio.CancelScope()
        self._running = trio.CancelScope()
        self._is_running = False

    @property
    def name(self) -> str:
        """The node's name, unique in the cluster."""
        return self._name

    def health(self) -> Health:
        """Tell how this node is: alive, and ready or not, with the reasons.

        It asks nobody and does not block, so that it can be told while the broker is away. A
        broker's outage makes a node unready, not dead.
        """
        return judge(
            self._name,
            is_running=self._is_running,
            is_stopping=self._stop_requested.is_set(),
            trouble=self._broker.trouble,
            queues=[
                each
                for partition in self._partitions.values()
                if not partition.stopping.is_set()
                for each in _states(partition)
            ],
        )

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
        partition = Partition(
            id,
            queues,
            self._make_consumer,
            self._join(id),
            self._config.shutdown_timeout,
        )
        self._partitions[id] = partition
        self._changed.set()
        self._nursery.start_soon(self._host, partition, name=f"partition {id}")
        return partition

    def _join(self, id: str) -> Membership:
        """Make a partition's part in the cluster."""
        store = Store(self._persister, id)
        coordinator = Coordinator(
            self._broker,
            self._config.prefix,
            id,
            store,
            self._bus.is_heard,
            self._bus.is_wanted,
        )
        sync = Sync(self._name, self._bus.inbox, self._identity.host)
        ask = sync_with(self._courier, id, sync, coordinator.declared)
        view = View(id, ask, self._pulse)
        control = Control(id, self._name, self._courier, self._bus, view)
        return Membership(control, coordinator, self._bus, self._broker, self._changed_soon)

    async def _host(self, partition: Partition) -> None:
        """Run a partition to its end; its failures never reach another one."""
        try:
            name = f"partition {partition.id!r}"
            policy = RestartPolicy(max_restarts=None)
            view = partition.membership.control.view
            with view.following(self._pulse):
                if self._nursery is not None and await self._starts.wait_place(partition):
                    self._nursery.start_soon(self._starts.see_start, partition)
                    await supervise(
                        partition.run, name=name, policy=policy, stopping=partition.stopping
                    )
        finally:
            del self._partitions[partition.id]
            self._changed.set()
            partition.ended.set()

    def _make_consumer(
        self, partition: str, queue: str, max_workers: int, control: Control
    ) -> QueueConsumer:
        config = self._config
        names = QueueNames.of(config.prefix, partition, queue)
        settings = WorkerSettings(
            partition=partition,
            queue=queue,
            names=names,
            waiting=PartitionNames.of(config.prefix, partition).waiting,
            broker=self._broker,
            control=control,
            client=self,
            callbacks=config.callbacks,
            retry_levels=config.retry_levels,
            max_deliveries=config.max_deliveries,
            max_buried=config.max_buried,
            processes=self._processes,
        )
        return QueueConsumer(self._broker, queue, names, Worker(settings), max_workers)

    # What runs here...

    @property
    def _own_name(self) -> str:
        return self._name

    def _hosted(self) -> dict[str, dict[str, int]]:
        return {id: dict(each.queues) for id, each in list(self._partitions.items())}

    async def _own_info(self) -> Info:
        hosted = self._hosted()
        node = node_info(self._identity, hosted)
        if not self._broker.is_connected:
            return Info(node=node, running={}, waiting=hosted)
        consumed = {id: _consumed(each) for id, each in self._partitions.items()}
        waiting: dict[str, dict[str, int]] = {}
        for id, queues in hosted.items():
            left = {queue: size for queue, size in queues.items() if queue not in consumed[id]}
            if left and not self._partitions[id].stopping.is_set():
                waiting[id] = left
        running: dict[str, dict[str, QueueInfo]] = {id: {} for id in consumed}
        with trio.CancelScope(deadline=trio.current_time() + _COUNT_TIMEOUT) as patience:
            for id, consumers in consumed.items():
                for queue, consumer in consumers.items():
                    running[id][queue] = await self._queue_info(id, queue, consumer)
        if patience.cancelled_caught:
            logger.debug("the broker does not tell in time how full the queues are")
        return Info(node=node, running=running, waiting=waiting)

    async def _queue_info(self, id: str, queue: str, consumer: QueueConsumer) -> QueueInfo:
        names, messages, consumers = self._names(id, queue), 0, 0
        try:
            work = await self._broker.count(names.work)
            redelivered = await self._broker.count(names.redelivered)
            messages, consumers = work.messages + redelivered.messages, work.consumers
        except BrokerError as exc:  # One that was paused before it was ever consumed, for example.
            logger.debug("queue %r cannot be counted: %s", names.work, exc)
        return QueueInfo(
            max_workers=consumer.max_workers,
            paused=consumer.is_paused,
            message_count=messages,
            consumer_count=consumers,
            running=len(consumer.running),
        )

    def _own_jobs(self, partition: str | None) -> Mapping[str, Sequence[Envelope]]:
        return {
            id: [job.envelope for job in each.running]
            for id, each in self._partitions.items()
            if partition is None or id == partition
        }

    # What others ask and tell...

    def _take_event(self, id: str, event: Event) -> None:
        partition = self._partitions.get(id)
        if partition is not None:
            partition.membership.take_event(event)

    def _take_question(self, question: Mapping[str, Any], asker: Asker) -> None:
        id = question.get("partition")
        match question.get("ask"):
            case "info":
                if self._infrastructure is not None:
                    self._infrastructure.start_soon(self._tell_info, asker)
            case "clock":
                self._bus.reply_soon(asker, dump_clock(datetime.now(UTC)))
            case "jobs" if id is None or isinstance(id, str):
                self._bus.reply_soon(asker, dump_jobs(self._own_jobs(id)))
            case "cancel" | "pause" | "ended" | "fate" if isinstance(id, str):
                partition = self._partitions.get(id)
                if partition is not None:
                    partition.membership.take_question(question, asker)
                else:  # What is not here does not run here.
                    nothing = {"found": "absent", "done": True, "ended": True, "fate": "absent"}
                    self._bus.reply_soon(asker, nothing)
            case _:
                pass  # Nothing that this version knows.

    async def _tell_info(self, asker: Asker) -> None:
        self._bus.reply_soon(asker, dump_info(await self._own_info()))

    def _changed_soon(self) -> None:
        self._changed.set()

    async def _introduce(self) -> None:
        """Tell the others what runs here, whenever that has changed or they may have missed it."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self._bus.hello_soon()
            await trio.sleep(_HELLO_EVERY)

    # Life...

    async def run(self, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; started once the configured partitions consume.

        Raises:
            BrokerUnavailable: The broker refused us for good at the first attempt.
        """
        refusal: BrokerError | None = None
        namesake: Card | None = None
        self._is_running = True
        async with aclosing(self._processes), trio.open_nursery() as infrastructure:
            if not isinstance(self._config.broker_config(), MemoryConfig):
                infrastructure.start_soon(doorbell.answer, self._config, self.health)
            try:
                with self._starting:
                    await infrastructure.start(self._broker.run)
                    self._infrastructure = infrastructure
                    namesake = await self._enter(infrastructure)
            except ConnectionRefused as exc:
                refusal = exc
            else:
                if namesake is None:
                    with self._running:
                        await self._run_partitions(task_status)
                    await self._say_bye()
            self._infrastructure = None
            self._is_running = False
            infrastructure.cancel_scope.cancel()
        if refusal is not None:
            raise BrokerUnavailable(str(refusal)) from refusal
        if namesake is not None:
            other = namesake.identity
            raise ConfigError(
                f"node_name: expected a name that no other node has, got {self._name!r}: process "
                f"{other.pid} on host {other.host!r} runs under it; give each node its own, or "
                "leave it out"
            )

    async def _enter(self, infrastructure: trio.Nursery) -> Card | None:
        """Get in touch with the other nodes; return one that has this one's name."""
        await infrastructure.start(self._controls.run)
        infrastructure.start_soon(self._introduce)
        if self._pulse is not None:
            infrastructure.start_soon(self._pulse.run)
        # A name of its own making is unlike any other: there is nothing to wait for.
        if self._config.node_name is not None and self._broker.is_connected:
            return await self._bus.join()
        infrastructure.start_soon(self._bus.join)
        return None

    async def _say_bye(self) -> None:
        """Let the others know; what was told in the background gets its moment, too."""
        if self._broker.is_connected:
            with trio.move_on_after(_BYE_TIMEOUT):
                await self._courier.flush()
                await self._bus.say_bye()

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
            self._end_within(budget)

    def stop_now(self) -> None:
        """Stop at once: running jobs are cancelled and given back."""
        self.stop()
        for partition in self._partitions.values():
            partition.stop_now()
        self._end_within(_HURRY)

    def _end_within(self, seconds: float) -> None:
        """Cancel what is left of the jobs after some seconds, and then the way to the broker.

        A broker that does not answer would hold up each of the calls that end a subscription.
        """
        self._running.deadline = trio.current_time() + seconds
        if self._infrastructure is not None:
            self._infrastructure.cancel_scope.deadline = self._running.deadline + _BYE_TIMEOUT


def _consumed(partition: Partition) -> dict[str, QueueConsumer]:
    """Return the consumers of the queues that jobs are taken from, or would be but for a pause."""
    wanted = partition.queues
    return {
        queue: consumer
        for queue, consumer in partition.consumers.items()
        if queue in wanted and (consumer.is_consuming or consumer.is_paused)
    }


def _states(partition: Partition) -> Iterator[QueueState]:
    """Tell of each queue that a partition shall consume how far it is."""
    consumers = partition.consumers
    for queue in partition.queues:
        consumer = consumers.get(queue)
        yield QueueState(
            partition=partition.id,
            queue=queue,
            is_consuming=consumer is not None and consumer.is_consuming,
            is_paused=consumer is not None and consumer.is_paused,
            failure=str((consumer and consumer.failure) or ""),
        )
