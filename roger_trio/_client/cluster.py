"""What the nodes of the cluster run."""

from __future__ import annotations

from typing import overload

from .._control.cluster import ask_jobs, read_jobs, silent_node
from .._control.roster import Unreadable
from .._errors import PartitionNotRunning
from .._info import Answers, NodeInfo, QueueInfo
from .._jobs.envelope import Envelope
from .._messages import checked_names
from .base import ClientBase


class Cluster(ClientBase):
    """The calls that ask all nodes.

    Each node has 2 seconds to answer. One that listens and does not answer is frozen, very busy or
    has just died; it is named in `Answers.not_answering`. A node asks itself without the broker,
    and does not wait for the others while the broker is away.
    """

    async def nodes(self) -> Answers[NodeInfo]:
        """Tell which nodes there are: node → `NodeInfo`; also those that do not answer.

        Raises:
            BrokerUnavailable: The broker cannot be reached, and this is no node.
        """
        infos, silent = await self._infos()
        nodes = {name: silent_node(card) for name, card in silent.items()}
        nodes.update({name: info.node for name, info in infos.items()})
        return Answers(nodes, silent.keys() - infos.keys())

    async def running_partitions(self) -> Answers[dict[str, dict[str, QueueInfo]]]:
        """Tell what runs: node → partition → queue → `QueueInfo`.

        Queues that wait for the broker are in `waiting_partitions` instead.

        Raises:
            BrokerUnavailable: The broker cannot be reached, and this is no node.
        """
        infos, silent = await self._infos()
        running = {
            name: {partition: dict(queues) for partition, queues in info.running.items()}
            for name, info in infos.items()
        }
        return Answers(running, silent)

    async def waiting_partitions(self) -> Answers[dict[str, dict[str, int]]]:
        """Tell what waits for the broker: node → partition → queue → max workers.

        These queues are to be consumed, and are not: the node is not connected to the broker, the
        broker refuses the queue, or it is being opened. The node's log and health say which.

        Raises:
            BrokerUnavailable: The broker cannot be reached, and this is no node.
        """
        infos, silent = await self._infos()
        waiting = {
            name: {partition: dict(queues) for partition, queues in info.waiting.items()}
            for name, info in infos.items()
        }
        return Answers(waiting, silent)

    async def partitions(self) -> Answers[dict[str, dict[str, QueueInfo | int]]]:
        """Tell what runs and what waits: node → partition → queue → `QueueInfo` or max workers.

        Raises:
            BrokerUnavailable: The broker cannot be reached, and this is no node.
        """
        infos, silent = await self._infos()
        every: dict[str, dict[str, dict[str, QueueInfo | int]]] = {}
        for name, info in infos.items():
            hosted = every.setdefault(name, {})
            for waiting in (info.waiting, info.running):
                for partition, queues in waiting.items():
                    hosted.setdefault(partition, {}).update(queues)
        return Answers(every, silent)

    @overload
    async def running_jobs(self) -> Answers[dict[str, list[Envelope]]]: ...
    @overload
    async def running_jobs(self, partition: str) -> Answers[list[Envelope]]: ...

    async def running_jobs(
        self, partition: str | None = None
    ) -> Answers[dict[str, list[Envelope]]] | Answers[list[Envelope]]:
        """Tell which jobs run: node → partition → jobs, or node → jobs of one partition.

        Args:
            partition: The partition: only nodes that run it are told of. Default: all.

        Raises:
            ConfigError: The name of the partition breaks a rule.
            PartitionNotRunning: No node that answers runs the partition.
            BrokerUnavailable: The broker cannot be reached, and this is no node.
        """
        if partition is not None:
            checked_names(self._config.prefix, partition, "any")  # The same rules.
        jobs: dict[str, dict[str, list[Envelope]]] = {}
        if self._own_name:
            own = self._own_jobs(partition)
            jobs[self._own_name] = {name: list(found) for name, found in own.items()}
        replies, silent = await self._ask_nodes(ask_jobs(partition))
        for node, reply in replies.items():
            try:
                jobs[node] = read_jobs(reply)
            except Unreadable as exc:
                self._controls.bus.complain(f"node {node!r}: {exc}")
        if partition is None:
            return Answers(jobs, silent)
        here = {node: found[partition] for node, found in jobs.items() if partition in found}
        if not here:
            raise await self._runs_nowhere(partition)
        return Answers(here, silent)

    async def _runs_nowhere(self, partition: str) -> PartitionNotRunning:
        hosted = await self._queues_by_partition()
        running = ", ".join(repr(each) for each in sorted(hosted)) or "none"
        return PartitionNotRunning(
            partition, f"no node that answers runs it; partitions that run: {running}"
        )
