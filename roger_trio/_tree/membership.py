"""A partition's part in the cluster: it takes its turn as coordinator, learns, and answers."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import trio

from .._brokers.base import Broker
from .._control.fates import Fate, Inquiry, dump_fate
from .._control.gathering import Asker
from .._jobs import outcome as o
from .._state import operations as op
from .consumer import QueueConsumer
from .control import ENDED_TIMEOUT, Control
from .orphans import OrphanWatch
from .performing import Running, StopReason
from .supervise import RestartPolicy, supervise

logger = logging.getLogger(__name__)

CLEAN_UP_TIMEOUT: Final = 5.0
"""Seconds that cancelled jobs have for their ``finally`` blocks before the node goes on."""
_LEAVE_TIMEOUT: Final = 2.0
_STOP_TIMEOUT: Final = 5.0
"""Seconds that the coordinator has for the batch in hand when the partition stops."""
_MAX_REPLIES: Final = 1000
"""Replies that are kept in mind: who missed one asks again."""

Reply = Mapping[str, Any]


class Tells(Protocol):
    """The way to other nodes and clients: a `Bus`."""

    @property
    def inbox(self) -> str:
        """Where this node hears."""
        ...

    def reply_soon(self, asker: Asker, reply: Reply) -> None:
        """Reply in the background."""
        ...


class Coordinates(Protocol):
    """What takes its turn as coordinator: a `Coordinator`."""

    @property
    def stopping(self) -> trio.Event:
        """Set once it has been asked to stop."""
        ...

    async def run(self) -> None:
        """Take turns until `stop`."""
        ...

    def stop(self) -> None:
        """Take no more."""
        ...


class Membership:
    """What a partition on this node has to do with the rest of the cluster.

    Args:
        control: What its workers use.
        coordinator: Takes its turn.
        bus: The way to who asks.
        broker: The way to all of them.
        on_synced: Called when it has learned what is paused and cancelled.
    """

    def __init__(
        self,
        control: Control,
        coordinator: Coordinates,
        bus: Tells,
        broker: Broker,
        on_synced: Callable[[], None],
    ) -> None:
        self.control = control
        self._broker = broker
        self._on_synced = on_synced
        self._view = control.view
        self._coordinator = coordinator
        self._bus = bus
        self._orphans = OrphanWatch(control, broker, self._find_orphans)
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._replies: OrderedDict[tuple[str, int], Reply | None] = OrderedDict()
        self.consumers: Callable[[], Iterable[QueueConsumer]] = tuple
        """Gives the consumers of the partition's queues."""

    # Running...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until `leave`, which is not to be called before this has started."""
        self._view.on_synced = self._take_view
        self._view.on_gap = self._sync_soon
        name = f"the coordinator of partition {self.control.partition!r}"
        policy = RestartPolicy(max_restarts=None)
        stopping = self._coordinator.stopping
        self._ended = trio.Event()
        task_status.started()
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._orphans.run)
                    try:
                        await supervise(
                            self._coordinate, name=name, policy=policy, stopping=stopping
                        )
                    finally:
                        self._nursery = None  # Not later: it takes no tasks while it ends.
                    nursery.cancel_scope.cancel()
        finally:
            self._ended.set()

    async def _coordinate(self) -> None:
        try:
            await self._coordinator.run()
        except Exception:
            for each in self.consumers():  # Nobody shall wait for what may never come.
                each.tried.set()
            raise

    async def leave(self) -> None:
        """Say that this node runs the partition no more, and take no more part."""
        if self._broker.is_connected:
            with trio.move_on_after(_LEAVE_TIMEOUT):
                await self.control.leave()
        self._coordinator.stop()
        with trio.move_on_after(_STOP_TIMEOUT):
            await self._ended.wait()
        self._scope.cancel()

    # What is paused...

    def prepare(self, queue: str, consumer: QueueConsumer) -> None:
        """Let a new consumer know what is known of its queue."""
        consumer.set_paused(is_paused=queue in self._view.paused)

    def _take_view(self) -> None:
        self._on_synced()
        self._apply_pauses()
        for each in self._running():
            if each.envelope.id in self._view.cancelled and each.settlement is None:
                each.stop(StopReason.CANCELLED)

    def _apply_pauses(self) -> None:
        for each in self.consumers():
            is_paused = each.queue in self._view.paused
            if is_paused != each.is_paused:
                each.set_paused(is_paused=is_paused)
                if self._nursery is not None:
                    self._nursery.start_soon(each.settle_pause)

    def _sync_soon(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._view.sync)

    async def _settle_pause(self, queue: str) -> Reply:
        with trio.move_on_after(CLEAN_UP_TIMEOUT):  # It holds by now, whatever becomes of that.
            for each in self.consumers():
                if each.queue == queue:
                    await each.settle_pause()
        return {"done": True}

    # What is asked...

    def take_event(self, event: op.Event) -> None:
        """Do what the coordinator tells all nodes to do."""
        self._view.apply(event)
        match event:
            case op.JobCancelled(job=job, inbox=inbox, request=request):
                self._cancel(job, Asker(inbox, request))
            case op.JobForgotten(job=job):
                self.control.finished.discard(job)
            case op.QueuePaused(queue=queue, inbox=inbox, request=request):
                self._pause(queue, Asker(inbox, request))
            case op.QueueResumed(queue=queue, inbox=inbox, request=request):
                self._pause(queue, Asker(inbox, request))

    def take_question(self, question: Mapping[str, Any], asker: Asker) -> None:
        """Answer what one node or client asks this one."""
        job, queue = question.get("job"), question.get("queue")
        match question.get("ask"):
            case "cancel" if isinstance(job, str):
                if job not in self._view.cancelled:  # Then its event was missed, or is history.
                    self._view.doubt()
                self._cancel(job, asker)
            case "pause" if isinstance(queue, str):
                self._ask_pause(queue, asker)
            case "ended" if isinstance(job, str):
                self._tell_end(job, asker)
            case "fate":
                self._tell_fate(Inquiry.from_json(question), asker)
            case _:
                pass  # Nothing that this version knows.

    def _pause(self, queue: str, asker: Asker) -> None:
        self._apply_pauses()
        if self._is_new(asker):
            self._answer_later(asker, lambda: self._settle_pause(queue))

    def _ask_pause(self, queue: str, asker: Asker) -> None:
        """Find out whether a queue is paused, and answer once that holds here.

        The question says that an event may have been missed, not what is true by now: it may be
        an old one.
        """

        async def find_out() -> Reply:
            self._view.doubt()
            await self._view.sync()
            return await self._settle_pause(queue)

        if self._is_new(asker):
            self._answer_later(asker, find_out)

    def _cancel(self, job: str, asker: Asker) -> None:
        """Stop a job where it runs; answer once it has ended, or soon."""
        copies = [each for each in self._running() if each.envelope.id == job]
        if not copies:
            found = "finished" if job in self.control.finished else "absent"
            if self._is_new(asker):
                self._answer(asker, {"found": found})
                if found == "finished" and self._nursery is not None:
                    self._nursery.start_soon(self.control.forget_cancellation, job)
            return
        begun = [each for each in copies if each.asking is None]
        for each in copies:
            if each.settlement is None:
                each.stop(StopReason.CANCELLED)
        if self._is_new(asker):
            self._answer_later(asker, lambda: self._see_end(begun))

    async def _see_end(self, copies: list[Running]) -> Reply:
        """Wait for the end of a cancelled job's copies here; say what became of them."""
        if not any(each.in_thread and each.settlement is None for each in copies):
            with trio.move_on_after(CLEAN_UP_TIMEOUT):
                await self._wait_ended(copies)
        found = {_found(each) for each in copies}
        most = next((each for each in _FOUND if each in found), "absent")
        if most == "finished" and self._nursery is not None:
            self._nursery.start_soon(self.control.forget_cancellation, copies[0].envelope.id)
        return {"found": most}

    def _tell_end(self, job: str, asker: Asker) -> None:
        """Say that a job does not run here, as soon as that is true."""
        # What waits for leave to start does not run: it may be the very copy that is asked for.
        copies = [
            each for each in self._running() if each.envelope.id == job and each.asking is None
        ]

        async def wait() -> Reply:
            with trio.move_on_after(ENDED_TIMEOUT):
                await self._wait_ended(copies)
                return {"ended": True}
            return {"ended": False}

        if copies and self._nursery is not None:
            if self._is_new(asker):
                self._answer_later(asker, wait)
        else:
            self._bus.reply_soon(asker, {"ended": True})

    def _tell_fate(self, inquiry: Inquiry, asker: Asker) -> None:
        """Say what became of a job that came back to another node."""
        consumer = next((it for it in self.consumers() if it.queue == inquiry.queue), None)

        async def find_out() -> Reply:
            if consumer is None:  # It may have run dry and be gone.
                has = inquiry.has
                return dump_fate(self.control.fate_of(inquiry.instance) if has else Fate.ABSENT)
            return dump_fate(await consumer.tell_fate(inquiry.instance, has=inquiry.has))

        if self._is_new(asker):
            self._answer_later(asker, find_out)

    def _find_orphans(self) -> list[Running]:
        return [job for each in self.consumers() for job in each.orphans]

    def _running(self) -> list[Running]:
        return [job for each in self.consumers() for job in each.running]

    async def _wait_ended(self, copies: list[Running]) -> None:
        for consumer in list(self.consumers()):
            for each in copies:
                await consumer.wait_ended(each)

    # Answering...

    def _is_new(self, asker: Asker) -> bool:
        """Tell whether somebody asks for the first time; else repeat the reply, if there is one."""
        if not asker.inbox:
            return False  # Nobody waits for a reply.
        key = (asker.inbox, asker.request)
        if key not in self._replies:
            self._replies[key] = None
            while len(self._replies) > _MAX_REPLIES:
                self._replies.popitem(last=False)
            return True
        reply = self._replies[key]
        if reply is not None:
            self._bus.reply_soon(asker, reply)
        return False

    def _answer(self, asker: Asker, reply: Reply) -> None:
        self._replies[asker.inbox, asker.request] = reply
        self._bus.reply_soon(asker, reply)

    def _answer_later(self, asker: Asker, find_out: Callable[[], Awaitable[Reply]]) -> None:
        async def answer() -> None:
            self._answer(asker, await find_out())

        if self._nursery is not None:
            self._nursery.start_soon(answer)


_FOUND: Final = ("stopped", "stopping", "unstoppable", "finished")
"""What becomes of a job's copies here; the first that is true of any is told."""


def _found(running: Running) -> str:
    """Say what became of a job that was to be cancelled, as far as that is known."""
    settlement = running.settlement
    if settlement is None:
        if running.in_thread:
            return "unstoppable"
        return "stopping"
    if running.stopped is StopReason.LOST:
        return "stopped"  # Its next delivery is met as cancelled.
    if isinstance(settlement, o.Conclude):
        return "stopped" if running.stopped is StopReason.CANCELLED else "absent"
    return "finished" if o.is_over(settlement) else "absent"
