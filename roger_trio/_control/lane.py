"""What is on its way to one partition's coordinator.

Operations that come up while others are on their way go together in the next message: the busier,
the cheaper. What is not answered in time is asked again, as the coordinator, or its answer, may
have been lost. All operations are idempotent.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn, Self

import attrs
import trio

from .._brokers.base import Broker, BrokerError, Message, MessageTooLarge, QueueMissing
from .._state.operations import ONE_WAY, Answer, Operation
from . import wire
from .bus import Bus

MOST_OPERATIONS: Final = 500
"""Operations of one message."""
MOST_BYTES: Final = 256 * 1024
"""Bytes of one message, unless a single operation is larger."""
REPEAT_AFTER: Final = 2.0
"""Seconds without an answer after which operations are sent again."""
_RETRY_AFTER: Final = 0.25
"""Seconds before a queue that is missing, or a publish that was refused, is tried again."""
_MOST_REPEATED: Final = 100
"""Messages that were sent again, and whose answers are taken all the same if they come late."""


class Call:
    """Operations somebody waits for, and the answers so far; nobody does after its ``with``."""

    __slots__ = ("answers", "error", "is_over", "left", "operations", "task")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations: Sequence[Operation] = operations
        self.answers: list[Answer | None] = [None] * len(operations)
        self.left: int = len(operations)
        self.is_over: bool = False
        """Whether nobody waits any more."""
        self.error: BrokerError | None = None
        self.task: trio.lowlevel.Task | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.is_over = True

    @property
    def given(self) -> list[Answer]:
        """The answers, once all is answered."""
        return [answer for answer in self.answers if answer is not None]

    def answer(self, index: int, answer: Answer) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.done(1)

    def done(self, number: int) -> None:
        self.left -= number
        if self.left == 0:
            self.end()

    def end(self, error: BrokerError | None = None) -> None:
        self.error = self.error or error
        self.is_over = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None

    async def wait(self) -> None:
        """Wait until all is answered.

        Raises:
            BrokerError: The broker will never take it.
        """
        if self.is_over:
            await trio.lowlevel.checkpoint()
        else:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self.error is not None:
            raise self.error

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


_Entry = tuple[Call, int]
"""One operation: its call, and its place in it."""


@attrs.define(eq=False)
class _Batch:
    """Asked operations of one message."""

    entries: list[_Entry]
    sent_at: float
    is_missed: bool = False
    """Whether its answer may have been missed, so that it is to be sent again at once."""

    @property
    def repeat_at(self) -> float:
        """When it is to be sent again."""
        return -math.inf if self.is_missed else self.sent_at + REPEAT_AFTER

    def open_entries(self) -> list[_Entry]:
        return [
            (call, index)
            for call, index in self.entries
            if not call.is_over and call.answers[index] is None
        ]


class Lane:
    """What is on its way to one partition's coordinator."""

    def __init__(self, broker: Broker, bus: Bus, queue: str) -> None:
        self._broker = broker
        self._bus = bus
        self._queue = queue
        self._most = MOST_OPERATIONS
        self._asking: deque[_Entry] = deque()
        self._unanswered: dict[int, _Batch] = {}
        self._repeated: dict[int, _Batch] = {}
        self._numbers = itertools.count(1)
        self._nap = trio.CancelScope()
        self._is_napping = False
        self._is_sending = False
        self._is_closed = False
        self._idle = trio.lowlevel.ParkingLot()

    def add(self, call: Call) -> None:
        self._asking.extend([(call, index) for index in range(len(call.operations))])
        if self._is_napping:
            self._nap.cancel()

    def take_answers(self, number: int, answers: Sequence[Answer | None]) -> None:
        """Take the answers to a message; those that come again are ignored.

        What could not be decided counts as not answered.
        """
        batch = self._unanswered.get(number) or self._repeated.get(number)
        if batch is None:
            return
        if len(answers) != len(batch.entries):
            text = f"{len(batch.entries)} operations were asked and {len(answers)} answered"
            raise wire.Foreign(text)
        for (call, index), answer in zip(batch.entries, answers, strict=True):
            if answer is not None and not call.is_over:
                call.answer(index, answer)
        self._repeated.pop(number, None)
        if not (None in answers and batch.open_entries()):
            self._unanswered.pop(number, None)
        if not self._unanswered:
            self._repeated.clear()
            self._nap.deadline = math.inf

    def repeat(self) -> None:
        """Send again at once what is not answered: its answer may have been missed."""
        for batch in self._unanswered.values():
            batch.is_missed = True
        if self._is_napping:
            self._nap.cancel()

    async def flush(self) -> None:
        """Wait until the broker keeps all that came up, or this lane is closed."""
        while (self._asking or self._is_sending) and not self._is_closed:
            await self._idle.park()

    async def run(self) -> None:
        self._is_closed = False
        try:
            await self._bus.wait_listening()  # Else the answers would be missed.
            await self._run()
        finally:
            self._is_closed = True
            self._idle.unpark_all()

    async def _run(self) -> NoReturn:
        while True:
            if self._asking:
                await self._send_next()
            elif self._next_repeat() <= trio.current_time():
                await self._send_again()
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        """Wait for something to do."""
        self._idle.unpark_all()
        with trio.CancelScope(deadline=self._next_repeat()) as self._nap:
            self._is_napping = True
            try:
                await trio.sleep_forever()
            finally:
                self._is_napping = False

    def _next_repeat(self) -> float:
        return min((each.repeat_at for each in self._unanswered.values()), default=math.inf)

    # Sending...

    async def _send_next(self) -> None:
        asking = self._asking
        number = min(self._most, len(asking))
        taken = [asking.popleft() for _ in range(number)]
        entries = [each for each in taken if not each[0].is_over]
        if entries:
            self._is_sending = True
            try:
                await self._send(entries)
            finally:
                self._is_sending = False
        else:
            await trio.lowlevel.checkpoint()

    async def _send(self, entries: list[_Entry]) -> None:
        """Send what goes into one message; what does not goes back to the head."""
        number = next(self._numbers)
        body = self._encode(number, entries)
        while len(body) > MOST_BYTES and len(entries) > 1:
            entries = self._halve(entries)
            body = self._encode(number, entries)
        asked = [each for each in entries if not isinstance(each[0].operations[each[1]], ONE_WAY)]
        if asked:  # The answer may come before the confirmation.
            self._unanswered[number] = _Batch(asked, trio.current_time())
        try:
            await self._broker.publish(self._queue, Message(body))
        except BrokerError as exc:
            self._unanswered.pop(number, None)
            await self._not_taken(entries, asked, exc)
        else:
            if asked and (batch := self._unanswered.get(number)):
                batch.sent_at = trio.current_time()
            if len(asked) < len(entries):
                self._confirm(entries)

    async def _not_taken(
        self, entries: list[_Entry], asked: list[_Entry], exc: BrokerError
    ) -> None:
        match exc:
            case QueueMissing():  # Such a partition never ran: there is nothing to tell...
                self._confirm(entries)
                await self._try_again(asked)  # ...and perhaps somebody to ask later.
            case MessageTooLarge() if len(entries) == 1:
                entries[0][0].end(exc)
            case MessageTooLarge():
                self._most = len(entries) // 2
                self._asking.extendleft(reversed(entries))
            case _:
                self._bus.complain(f"{self._queue}: operations are not taken: {exc}")
                await self._try_again(entries)

    def _halve(self, entries: list[_Entry]) -> list[_Entry]:
        half = len(entries) // 2
        self._asking.extendleft(reversed(entries[half:]))
        return entries[:half]

    def _encode(self, number: int, entries: list[_Entry]) -> bytes:
        operations = tuple([call.operations[index] for call, index in entries])
        return wire.encode(wire.Commands(self._bus.inbox, number, operations))

    def _confirm(self, entries: list[_Entry]) -> None:
        """Note that one-way operations are kept."""
        for call, index in entries:
            if isinstance(call.operations[index], ONE_WAY):
                call.done(1)

    async def _try_again(self, entries: list[_Entry]) -> None:
        if entries:
            self._asking.extendleft(reversed(entries))
            await trio.sleep(_RETRY_AFTER)

    async def _send_again(self) -> None:
        """Send again what should have been answered, if there is somebody to answer."""
        now = trio.current_time()
        overdue = {n: each for n, each in self._unanswered.items() if each.repeat_at <= now}
        entries: dict[_Entry, None] = {}
        for batch in overdue.values():
            entries.update(dict.fromkeys(batch.open_entries()))
        # After a reconnect the coordinator, too, may be about to come back.
        is_missed = any(each.is_missed for each in overdue.values())
        is_heard = bool(entries) and (is_missed or await self._has_coordinator())
        for number, batch in overdue.items():
            if is_heard or not batch.open_entries():
                if self._unanswered.pop(number, None):
                    self._repeated[number] = batch
            else:
                batch.sent_at = trio.current_time()
        while len(self._repeated) > _MOST_REPEATED:
            del self._repeated[next(iter(self._repeated))]
        if is_heard:
            self._asking.extendleft(reversed(entries))

    async def _has_coordinator(self) -> bool:
        try:
            return (await self._broker.count(self._queue)).consumers > 0
        except BrokerError:
            return False
