"""One term of a coordinator: from its subscription until its channel ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from .._brokers.base import Broker, BrokerError, Channel, Delivery, QueueMissing
from .._config import check_queue_name
from .._errors import ConfigError
from .._jobs.mismatch import short_repr
from .._state.changes import Change
from .._state.decisions import Decision, Move
from .._state.ledger import Ledger
from .._state.operations import (
    ONE_WAY,
    Answer,
    Claim,
    Event,
    Gone,
    Operation,
    Purged,
    PurgeKeyless,
    PurgeWaiting,
    ReplayClaim,
)
from .._state.store import Store
from .._topology import NODES_TOPIC, PartitionNames, QueueNames, is_topic
from . import wire
from .waiting import WaitingJobs

logger = logging.getLogger(__name__)

_PREFETCH: Final = 1000
"""Messages whose operations may be decided with one save."""
_PAUSE_EVERY: Final = 250
"""Operations decided before other tasks get their turn."""
_EXPIRE_EVERY: Final = 60.0
"""Seconds between looks for what need not be remembered any more."""
_CONFIRM_WITHIN: Final = 5.0
"""Seconds that a claim may be provisional before its sender is looked for; it is, twice."""
_PURGES: Final = (PurgeKeyless, PurgeWaiting)
_CLAIMS: Final = (Claim, ReplayClaim)
_SKIP_FOR: Final = 60.0
"""Seconds for which an operation that could not be decided is skipped; then it is tried again."""


@attrs.frozen(kw_only=True)
class Duties:
    """What a term needs, and does not own."""

    partition: str
    prefix: str
    names: PartitionNames
    broker: Broker
    store: Store
    is_heard: Callable[[str], Awaitable[bool]]
    """Finds out whether anybody listens at an inbox."""
    is_wanted: Callable[[str, int], Awaitable[bool]]
    """Finds out whether a request from an inbox is still waited for."""
    complain: Callable[[str], None]
    """Logs something once for each text."""
    skipped: dict[Operation, float] = attrs.Factory(dict)
    """What could not be decided, because of a bug: until when, on Trio's clock, it is skipped."""


@attrs.define
class Batch:
    """What follows from the operations that one save covers."""

    changes: list[Change] = attrs.Factory(list)
    events: list[Event] = attrs.Factory(list)
    answers: list[tuple[str, bytes]] = attrs.Factory(list)
    """Inbox and body."""
    moves: list[Move] = attrs.Factory(list)
    has_claims: bool = False

    def take(self, decision: Decision) -> None:
        """Add what follows from one decision."""
        self.changes.extend(decision.changes)
        self.events.extend(decision.events)
        self.moves.extend(decision.moves)


class Term:
    """Decides, saves, answers: in this order, and as long as it holds the subscription.

    Args:
        duties: For whom.
        channel: A channel of its own, which speaks.
    """

    def __init__(self, duties: Duties, channel: Channel) -> None:
        self._duties = duties
        self._channel = channel
        self._ledger = Ledger()
        self._waiting = WaitingJobs(duties.broker, channel, duties.names, self._wake)
        self._commands: list[Delivery] = []
        self._gone: list[str] = []
        self._news = trio.Event()
        self._claims = trio.Event()
        self._is_over = False
        self._trouble: Exception | None = None
        self._loaded_at = float("inf")
        self._expire_at = -float("inf")
        # In step with Trio's clock, which tests may let jump.
        self._began = time.time() - trio.current_time()

    def stop(self) -> None:
        """End the term once the batch in hand is done."""
        self._is_over = True
        self._wake()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            BrokerError: The channel or the subscription has ended.
            Exception: The state could not be loaded or saved.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await self._serve(nursery)
            except Exception as exc:  # noqa: BLE001 -- raised again below, out of the nursery
                self._trouble = self._trouble or exc
            nursery.cancel_scope.cancel()
        if self._trouble is not None:
            raise self._trouble

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End the term when the channel does: what is said on it is heard by nobody."""
        try:
            await self._channel.wait_interrupted()
        except BrokerError as exc:
            self._trouble = exc
        scope.cancel()

    async def _serve(self, nursery: trio.Nursery) -> None:
        duties = self._duties
        await self._channel.subscribe(
            duties.names.coordinator, prefetch=_PREFETCH, on_delivery=self._take
        )
        # Until something comes, others may be the coordinator: the broker knows who is.
        await self._wait()
        if self._is_over:
            return
        try:
            self._ledger = await duties.store.load()
            self._loaded_at = trio.current_time()
            await self._waiting.subscribe()
            nursery.start_soon(self._sweep)
            while not self._is_over:
                await self._handle_batch()
                await self._wait()
        finally:
            duties.store.close()

    # Taking in...

    def _take(self, delivery: Delivery) -> None:
        self._commands.append(delivery)
        self._wake()

    def _wake(self) -> None:
        self._news.set()

    async def _wait(self) -> None:
        """Wait until there is something to do, or the term is over."""
        while not (self._commands or self._gone or self._waiting.has_arrivals or self._is_over):
            self._news = trio.Event()
            await self._news.wait()

    # Deciding...

    def _now(self) -> float:
        return self._began + trio.current_time()

    async def _handle_batch(self) -> None:
        commands, self._commands = self._commands, []
        batch = await self._decide(commands)
        await self._duties.store.save(self._ledger, batch.changes)
        self._tell(batch)
        self._waiting.move(batch.moves)
        for each in commands:
            each.ack()
        if batch.has_claims:
            self._claims.set()
        self._check_hosts()

    async def _decide(self, commands: list[Delivery]) -> Batch:
        batch, ledger = Batch(), self._ledger
        if self._now() >= self._expire_at:
            self._expire_at = self._now() + _EXPIRE_EVERY
            held_for = trio.current_time() - self._loaded_at
            batch.take(ledger.expire(self._now(), held_for))
        gone, self._gone = self._gone, []
        for inbox in gone:
            self._handle(Gone(inbox), batch)
        for each in self._waiting.arrivals():
            batch.take(ledger.arrive(each.job, each.queue, each.execution_key, self._now()))
        count = 0
        for delivery in commands:
            message = self._read(delivery)
            if message is not None:
                await self._answer(message, batch)
                count += len(message.operations)
            if count >= _PAUSE_EVERY:
                count = 0
                await trio.lowlevel.checkpoint()
        return batch

    def _read(self, delivery: Delivery) -> wire.Commands | None:
        try:
            message = wire.decode(delivery.body)
        except wire.Foreign as exc:
            self._duties.complain(f"what came is no command, and is ignored: {exc.reason}")
            return None
        if isinstance(message, wire.Commands):
            return message
        self._duties.complain(f"{type(message).__name__} is no command, and is ignored")
        return None

    async def _answer(self, message: wire.Commands, batch: Batch) -> None:
        """Decide about the operations of one message."""
        answers: list[Answer | None] = []
        for operation in message.operations:
            if isinstance(operation, _PURGES) and not (
                await self._duties.is_wanted(operation.inbox, operation.request)
            ):
                answers.append(Purged(None))
                continue
            decision = self._handle(operation, batch)
            batch.has_claims |= isinstance(operation, _CLAIMS)
            if decision is None:
                if not isinstance(operation, ONE_WAY):
                    answers.append(None)
            elif decision.purge is not None:
                answers.append(Purged(await self._purge(decision.purge)))
            elif decision.answer is not None:
                answers.append(decision.answer)
        if answers:
            body = wire.encode(wire.Answers(self._duties.partition, message.batch, answers))
            batch.answers.append((message.inbox, body))

    def _handle(self, operation: Operation, batch: Batch) -> Decision | None:
        """Decide about one operation; None: it is skipped, as deciding it failed before.

        Raises:
            Exception: A bug. The ledger may be half changed and has to be loaded again; the
                commands come again, too, and this one must not end the next term.
        """
        skipped, now = self._duties.skipped, trio.current_time()
        if skipped and skipped.get(operation, now) > now:
            return None
        try:
            decision = self._ledger.handle(operation, self._began + now)
        except Exception:
            text = "partition %r: the operation %s cannot be decided, and is skipped for %g s"
            kind = type(operation).__name__
            logger.exception(text, self._duties.partition, kind, _SKIP_FOR)
            for each in [each for each, until in skipped.items() if until <= now]:
                del skipped[each]
            skipped[operation] = now + _SKIP_FOR
            raise
        batch.take(decision)
        return decision

    async def _purge(self, queue: str) -> int:
        """Empty a queue now: no key of a job of it can be claimed meanwhile."""
        try:
            check_queue_name(queue)
        except ConfigError:  # There is none of this name; only somebody else can have asked.
            return 0
        names = QueueNames.of(self._duties.prefix, self._duties.partition, queue)
        count = 0
        for name in (names.work, names.redelivered):
            with suppress(QueueMissing):
                count += await self._duties.broker.purge(name)
        return count

    def _tell(self, batch: Batch) -> None:
        """Say what has been saved: to all nodes first, so that they know when it is answered."""
        for event in batch.events:
            body = wire.encode(wire.EventMessage(self._duties.partition, event))
            self._channel.say(NODES_TOPIC, body)
        for inbox, body in batch.answers:
            if is_topic(inbox):
                self._channel.say(inbox, body)

    # Looking after...

    async def _sweep(self) -> None:
        """Void what dead senders have claimed and never published."""
        suspects: set[str] = set()
        while True:
            if not self._ledger.unconfirmed(self._now(), 0.0):
                self._claims = trio.Event()
                await self._claims.wait()
            await trio.sleep(_CONFIRM_WITHIN)
            silent: set[str] = set()
            for inbox in self._ledger.unconfirmed(self._now(), _CONFIRM_WITHIN):
                if not await self._duties.is_heard(inbox):
                    silent.add(inbox)
            self._gone += sorted(silent & suspects)
            suspects = silent
            self._wake()

    def _check_hosts(self) -> None:
        if not self._duties.store.stays_on_host:
            return
        hosts = {each.host for each in self._ledger.members.values()}
        if len(hosts) > 1:
            names = short_repr(sorted(hosts))[1:-1]
            self._duties.complain(
                f"its nodes run on several hosts ({names}), but its state is kept on one: set "
                "persister=BrokerPersister(), or keys, cancellations and pauses are forgotten "
                "when another host takes over"
            )
