"""What the client's calls have in common: patience, errors in the user's words, who to ask."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import trio

from .._brokers.base import Broker, BrokerError, MessageTooLarge, QueueMissing, TooManyMessages
from .._config import Config
from .._control.cluster import INFO, Info, read_info
from .._control.controls import Controls
from .._control.lane import Call
from .._control.roster import Card, Unreadable
from .._errors import BrokerUnavailable, InvalidJob, PartitionNotRunning, RogerError
from .._jobs.envelope import Envelope
from .._messages import checked_names
from .._state.operations import Answer, Operation
from .._topology import PartitionNames, QueueNames

_DOUBT_AFTER: Final = 0.5
"""Seconds without a coordinator's answer after which the nodes are asked who runs the partition."""
GATHER_TIMEOUT: Final = 2.0
"""Seconds that nodes have to answer."""

A = TypeVar("A")


class ClientBase:
    """The configuration and the broker of a client, and how both are used.

    Args:
        config: The configuration.
        broker: The way to the broker.
        controls: The way to nodes and coordinators, which somebody else runs. Default: one is
            made and run in ``nursery`` when the first call needs it.
        nursery: Where to run it.
    """

    def __init__(
        self,
        config: Config,
        broker: Broker,
        controls: Controls | None = None,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self._config = config
        self._broker = broker
        self._given_controls = controls
        self._control_nursery = nursery
        self._nonces = itertools.count()

    # What a node answers itself...

    @property
    def _own_name(self) -> str:
        """The name of the node that this client is, or ''."""
        return ""

    async def _own_info(self) -> Info | None:
        """Tell what this node runs; None: this is no node."""
        return None

    def _own_jobs(self, partition: str | None) -> Mapping[str, Sequence[Envelope]]:
        """Tell which jobs run on this node, by partition: of one that runs here, or of all."""
        return {}

    # Names and errors...

    def _names(self, partition: str, queue: str) -> QueueNames:
        return checked_names(self._config.prefix, partition, queue)

    def _partition_names(self, partition: str) -> PartitionNames:
        self._names(partition, "any")  # The same rules.
        return PartitionNames.of(self._config.prefix, partition)

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
    def _patience(self, failure: str, deadline: float | None = None) -> Generator[None]:
        """Bound what waits for the broker, and put its errors into the user's words.

        Args:
            failure: What has failed then, in words.
            deadline: Until when to wait, where this is one of several steps. Default: for
                ``enqueue_timeout`` seconds.
        """
        timeout = self._config.enqueue_timeout
        if deadline is None:
            deadline = trio.current_time() + timeout
        try:
            with trio.move_on_at(deadline) as scope:
                yield
        except QueueMissing:
            raise
        except BrokerError as exc:
            raise _in_users_words(failure, exc) from exc
        if scope.cancelled_caught:
            trouble = self._broker.trouble or "the broker is slow"
            raise BrokerUnavailable(f"{failure} within {timeout:g} s: {trouble}")

    # Nodes...

    @property
    def _controls(self) -> Controls:
        if self._given_controls is None:
            if self._control_nursery is None:
                raise RogerError("this client reaches no nodes: get one from roger.connect()")
            self._given_controls = Controls(self._broker, self._config.prefix)
            self._control_nursery.start_soon(self._given_controls.run)
        return self._given_controls

    def _new_nonce(self) -> str:
        """Make what tells one operation of this client from all others."""
        return f"{self._controls.bus.inbox}.{next(self._nonces)}"

    async def _flush_controls(self, timeout: float) -> None:
        """Give what was told in the background a moment to reach the broker."""
        if self._given_controls is not None:
            with trio.move_on_after(timeout, shield=True):
                await self._given_controls.courier.flush()

    async def _infos(self) -> tuple[dict[str, Info], Mapping[str, Card]]:
        """Ask all nodes what they run: who answered, and who did not."""
        own = await self._own_info()
        infos = {self._own_name: own} if own is not None else {}
        replies, silent = await self._ask_nodes(INFO)
        for name, reply in replies.items():
            try:
                infos[name] = read_info(reply)
            except Unreadable as exc:
                self._controls.bus.complain(f"node {name!r}: {exc}")
        return infos, silent

    async def _ask_nodes(
        self, question: Mapping[str, object]
    ) -> tuple[Mapping[str, Mapping[str, object]], Mapping[str, Card]]:
        """Ask all other nodes; a node does so without waiting for a broker that is away."""
        bus = self._controls.bus
        if bus.is_node and not self._broker.is_connected:
            return {}, {card.identity.name: card for card in bus.roster.cards}
        with self._patience("the nodes could not be asked"):
            gathered = await bus.ask_nodes(question, deadline=GATHER_TIMEOUT)
        return gathered.replies, gathered.not_answering

    # Coordinators...

    async def _ask(self, partition: str, operation: Operation, *kinds: type[A]) -> A:
        """Ask a partition's coordinator.

        Raises:
            PartitionNotRunning: No node runs it, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.
        """
        self._partition_names(partition)
        deadline = trio.current_time() + self._config.enqueue_timeout
        [answer] = await self._ask_all(partition, (operation,), deadline, gives_up=True)
        return _expected(partition, answer, kinds)

    async def _ask_all(
        self,
        partition: str,
        operations: Sequence[Operation],
        deadline: float,
        *,
        gives_up: bool = False,
    ) -> list[Answer]:
        """Ask a partition's coordinator several things.

        Args:
            partition: Its name.
            operations: What to ask.
            deadline: Until when to wait.
            gives_up: Whether to wait no longer than it takes to find that nobody runs it.

        Raises:
            PartitionNotRunning: No node runs it, or none answers in time.
            BrokerUnavailable: The broker cannot be reached.
        """
        hosts: list[dict[str, frozenset[str]]] = []
        with self._controls.courier.asking(partition, operations) as call:
            try:
                # Mostly there is an answer before a task that doubts it need be started.
                with trio.move_on_at(min(deadline, trio.current_time() + self._doubt_after)):
                    await call.wait()
                if not call.is_over:
                    with trio.move_on_at(deadline):
                        await self._ask_and_doubt(partition, call, hosts, gives_up=gives_up)
            except BrokerError as exc:
                raise _in_users_words(f"partition {partition!r} could not be asked", exc) from exc
            if call.is_over:
                return call.given
        raise self._not_running(partition, hosts[0] if hosts else None)

    @property
    def _doubt_after(self) -> float:
        return min(_DOUBT_AFTER, self._config.enqueue_timeout / 4)

    async def _ask_and_doubt(
        self, partition: str, call: Call, hosts: list[dict[str, frozenset[str]]], *, gives_up: bool
    ) -> None:
        """Find out, beside a question that is not answered, who could answer it.

        Args:
            partition: Who is asked.
            call: The question.
            hosts: Gets which partitions run, if that is found.
            gives_up: Whether to return once it is found that nobody runs it.
        """

        async def doubt(scope: trio.CancelScope) -> None:
            await self._controls.bus.wait_listening()
            with suppress(RogerError):
                hosts.append(await self._queues_by_partition())
            if gives_up and hosts and partition not in hosts[0]:
                scope.cancel()

        trouble: BrokerError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doubt, nursery.cancel_scope)
            try:
                await call.wait()
            except BrokerError as exc:
                trouble = exc
            nursery.cancel_scope.cancel()
        if trouble is not None:
            raise trouble

    def _not_running(
        self, partition: str, hosts: Mapping[str, Iterable[str]] | None
    ) -> PartitionNotRunning | BrokerUnavailable:
        """Make the error for a partition whose coordinator does not answer.

        Args:
            partition: Its name.
            hosts: Which partitions run, if that could be found out.
        """
        if not self._broker.is_connected or hosts is None:
            return self._unreachable(partition)
        if partition in hosts:
            seconds = f"{self._config.enqueue_timeout:g} s"
            return PartitionNotRunning(partition, f"no node that runs it answered within {seconds}")
        running = ", ".join(repr(each) for each in sorted(hosts)) or "none"
        return PartitionNotRunning(partition, f"no node runs it; partitions that run: {running}")

    def _unreachable(self, partition: str) -> BrokerUnavailable:
        timeout, trouble = self._config.enqueue_timeout, self._broker.trouble
        trouble = trouble or "the broker is slow"
        text = f"partition {partition!r} could not be asked within {timeout:g} s: {trouble}"
        return BrokerUnavailable(text)

    async def _queues_by_partition(self) -> dict[str, frozenset[str]]:
        """Find out which partitions nodes host, and with which queues."""
        infos, silent = await self._infos()
        hosted: dict[str, frozenset[str]] = {}
        for partitions in (
            *(info.node.partitions for info in infos.values()),
            *(card.partitions for card in silent.values()),
        ):
            for name, queues in partitions.items():
                hosted[name] = hosted.get(name, frozenset()) | frozenset(queues)
        return hosted

    async def _has_coordinator(self, partition: str) -> bool:
        """Find out whether somebody is there to answer."""
        try:
            count = await self._broker.count(self._partition_names(partition).coordinator)
        except QueueMissing:
            return False
        return count.consumers > 0


def _expected(partition: str, found: Answer, kinds: tuple[type[A], ...]) -> A:
    """Return an answer of one of the kinds that answer what was asked."""
    if isinstance(found, kinds):
        return found
    raise RogerError(
        f"partition {partition!r}: its coordinator answered {type(found).__name__}, "
        "which is no answer to that: do all nodes have the same version of roger_trio?"
    )


def _in_users_words(failure: str, exc: BrokerError) -> Exception:
    """Make the error that tells a user what has failed, and why."""
    if isinstance(exc, MessageTooLarge):
        return InvalidJob(f"payload: expected one the broker takes: {exc}")
    if isinstance(exc, TooManyMessages):
        return RogerError(str(exc))
    return BrokerUnavailable(f"{failure}: {exc}")
