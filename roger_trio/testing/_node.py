"""A node for one test: on the broker in memory, and able to say when all is done."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Final

import attrs
import trio
import trio.testing

from .._brokers.embedded.open import Memory, memory_of_this_run
from .._config import Config
from .._jobs.callbacks import Callbacks
from .._jobs.context import current_client
from .._topology import QueueNames
from .._tree.node import Node
from .._tree.partition import Partition
from ._faults import FaultyBroker

DEFAULT_CONFIG: Final = Config(
    broker="memory:", partitions={"test": {"default": 10}}, shutdown_timeout=1.0
)
"""What runs where a test does not say; a job that hangs holds the tests up for a second only."""

_nodes: trio.lowlevel.RunVar[list[RunningNode]] = trio.lowlevel.RunVar("roger_trio_test_nodes")


def nodes_of_this_run() -> list[RunningNode]:
    """Return the list of the nodes that `running_node` runs now; it is theirs to change."""
    try:
        return _nodes.get()
    except LookupError:
        nodes: list[RunningNode] = []
        _nodes.set(nodes)
        return nodes


class RunningNode(Node):
    """The ``Node`` of a test: get one from `running_node`, or the ``roger_node`` fixture.

    It has everything a node and a client have, and besides: `run_until_idle`, and the faults
    `drop_connections`, `lose_acks`, `refuse_publishes` and `delay_publishes`. A fault concerns
    this node and what is enqueued through it, not others of the same run.
    """

    def __init__(self, config: Config, broker: FaultyBroker, memory: Memory) -> None:
        super().__init__(config, broker, config.make_node_name())
        self._faulty = broker
        self._memory = memory

    @property
    def prefix(self) -> str:
        """The prefix its names have on the broker."""
        return self._config.prefix

    # Waiting...

    async def run_until_idle(self) -> None:
        """Wait until no job runs, and none waits in a queue that this run consumes.

        Jobs that are delayed, or wait for a retry or for their execution key, are waited for; so
        are those that other jobs enqueue, the callbacks of all of them, and other tasks of this run
        that do not wait for anything. Jobs in queues that are paused, or that nobody consumes, and
        buried ones, are left alone. Under
        `trio.testing.MockClock` with autojump hours of delays take milliseconds; on a real clock
        they take hours.

        A job that snoozes for ever, or enqueues itself again, never lets it return: put a
        `trio.fail_after` around it.

        Cancellation: nothing happens to the jobs.
        """
        while True:
            while not self._is_idle():
                await self._memory.changed.park()
            # Whoever was about to enqueue something, or to end, gets to it.
            await trio.testing.wait_all_tasks_blocked()
            if self._is_idle():
                return

    def _is_idle(self) -> bool:
        nodes = nodes_of_this_run()
        # The broker does not know as consumed what lost its connection a moment ago.
        names = {name for node in nodes for name in node.consumed_names()}
        return self._memory.engine.is_quiet(names)

    def consumed_names(self) -> list[str]:
        """Return the broker queues this node consumes, or will once it is connected."""
        found: list[str] = []
        for id, queue in self._consumed():
            names = QueueNames.of(self.prefix, id, queue)
            found += [names.work, names.redelivered]
        return found

    def consumed_places(self) -> list[str]:
        """Return what it consumes, as ``partition/queue``."""
        return [f"{id}/{queue}" for id, queue in self._consumed()]

    def _consumed(self) -> Iterator[tuple[str, str]]:
        """Yield the partition and name of each queue that it takes jobs from: no paused ones."""
        for id, partition in self._partitions.items():
            for queue in partition.queues:
                consumer = partition.consumers.get(queue)
                if consumer is None or not consumer.is_paused:
                    yield id, queue

    async def _host(self, partition: Partition) -> None:
        try:
            await super()._host(partition)
        finally:
            self._memory.changed.unpark_all()

    # Faults...

    async def drop_connections(self) -> None:
        """Cut this node off from the broker for a moment, as if its connection were lost.

        Jobs that run go on, and have their deliveries back when the node is connected again. What
        no worker had begun comes back with ``redelivered`` set, to this node or another one. The
        node consumes again by itself, 0.1 s later at most. Returns when the connection is lost,
        before all that has happened.
        """
        await self._faulty.drop_connections()

    def lose_acks(self, count: int = 1) -> None:
        """Let the acknowledgements of the next jobs that end on this node get lost.

        Such a job runs to its end, whatever that is: it succeeds and ``after_run`` is
        called, or its retry is enqueued. But the broker is not told, and delivers the job once
        more, at once and with ``redelivered`` set. So a job that succeeded runs again, and one
        that failed runs again beside its retry: what at-least-once means. A job that it happens
        to ``max_deliveries`` times in a row is buried, as one that kills its process would be.

        Args:
            count: How many acknowledgements, at least 1; a job that came back loses one more. It
                adds up with what is still to be lost. So many more times jobs are performed.

        Raises:
            ValueError: ``count`` is less than 1.
        """
        if count < 1:
            raise ValueError(f"count: expected at least 1, got {count!r}")
        self._faulty.lose_acks(count)

    def refuse_publishes(self) -> AbstractContextManager[None]:
        """Let the broker take no message from this node while the block lasts.

        As with a broker that is down, or short of memory or disk: ``enqueue`` waits, and raises
        ``BrokerUnavailable`` after ``enqueue_timeout`` seconds on Trio's clock; nothing was kept.
        Under a clock that jumps that takes no time; on a real clock give the node a ``Config`` with
        a short ``enqueue_timeout``. What still waits when the block ends goes on. A job that ends
        in a retry or a burial is given back after 10 s, and runs again. Blocks may overlap.
        """
        return self._faulty.refuse_publishes()

    def delay_publishes(self, seconds: float) -> AbstractContextManager[None]:
        """Let the broker's confirmations come late while the block lasts.

        The message is kept at once, and jobs may run already; ``enqueue`` returns after ``seconds``
        on Trio's clock. With more than ``enqueue_timeout`` it raises ``BrokerUnavailable`` although
        the job was kept: the other half of "may or may not have been enqueued". Blocks within
        blocks add up.

        Args:
            seconds: How late, at least 0.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds: expected a finite number, at least 0, got {seconds!r}")
        return self._faulty.delay_publishes(seconds)


@asynccontextmanager
async def running_node(
    config: Config | None = None,
    *,
    partitions: Mapping[str, Mapping[str, int]] | None = None,
    callbacks: Callbacks | None = None,
) -> AsyncGenerator[RunningNode]:
    """Run a node for a test, on the broker in memory, whatever broker the configuration names.

    ::

        async with running_node() as node:
            await send_mail.job("ada@example.com").enqueue("test")
            await node.run_until_idle()

    Its partitions consume when the block is entered, and it is the ambient client inside. At the
    end it stops gracefully: running jobs get ``shutdown_timeout`` seconds; where the block raised,
    they are cancelled at once. What the block raises comes out as it is.

    All nodes and clients in memory of one `trio.run` share their jobs, as if they were a cluster;
    the jobs end with the run. So each test has its own.

    Args:
        config: What to run. Default: ``Config(shutdown_timeout=1.0)``.
        partitions: Replaces the configuration's. Default: those of the configuration, or, where it
            has none, ``{"test": {"default": 10}}``. With ``{}`` no job is performed, and all that
            is enqueued stays to be looked at.
        callbacks: Replaces the configuration's.

    Raises:
        ConfigError: The partitions or callbacks break a rule.

    Cancellation: the node stops at once.
    """
    config = _config_for_test(config or DEFAULT_CONFIG, partitions, callbacks)
    memory = memory_of_this_run()
    node = RunningNode(config, FaultyBroker(memory.open_broker(config.prefix)), memory)
    nodes = nodes_of_this_run()
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_cancellation, node)
        await nursery.start(_run, node)
        nodes.append(node)
        token = current_client.set(node)
        try:
            yield node
        except trio.Cancelled:
            node.stop_now()
            raise
        except BaseException as exc:  # noqa: BLE001 -- raised again below, out of the nursery
            error = exc
            node.stop_now()
        finally:
            current_client.reset(token)
            nodes.remove(node)
            node.stop()
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


def _config_for_test(
    config: Config,
    partitions: Mapping[str, Mapping[str, int]] | None,
    callbacks: Callbacks | None,
) -> Config:
    if partitions is None:
        partitions = config.partitions or DEFAULT_CONFIG.partitions
    if callbacks is None:
        callbacks = config.callbacks
    return attrs.evolve(config, broker="memory:", partitions=partitions, callbacks=callbacks)


async def _run(
    node: Node, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    # Shielded, so that a cancelled node can stop in good order.
    with trio.CancelScope(shield=True):
        await node.run(task_status=task_status)
    await trio.lowlevel.checkpoint_if_cancelled()  # It may have ended before it had started.


async def _stop_on_cancellation(node: Node) -> None:
    try:
        await trio.sleep_forever()
    finally:
        node.stop()
