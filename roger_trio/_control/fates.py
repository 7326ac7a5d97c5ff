"""What became of a job where it was before: asked of the other nodes when its delivery comes back.

::

    {"ask": "fate", "partition": "mail", "queue": "default", "copy": ["5f0c…", "2024-…", 0, 0, 1],
     "has": true}
    {"fate": "survived"}

The node that had the delivery may go on with the job, without it. Who has the delivery now starts
the job only where it neither runs nor is done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

import attrs
import trio

from .._jobs.copies import Copy, Instance
from .gathering import NobodyListens, NoReply
from .roster import Unreadable, list_of, text_of, time_of, whole_of

logger = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 2.0
"""Seconds that a node has to answer; then it counts as frozen."""
TELL_WITHIN: Final = 1.0
"""Seconds that a node waits for the end of a job before it says that it still runs."""
_NOT_AGAIN: Final = 10.0
"""Seconds for which a node that did not answer is not waited for again, unless it is heard."""
_ASK_EVERY: Final = 0.25


class Fate(Enum):
    """What became of one copy of a job on one node; the most telling first."""

    OVER = "over"
    """It has ended there for good: its delivery has only to be settled, and its keys are free."""
    DONE = "done"
    """It has ended there, or gone on in another message: its delivery has only to be settled."""
    RUNS = "runs"
    """It runs there."""
    SURVIVED = "survived"
    """That node had it, lives, and does not run it any more."""
    ABSENT = "absent"
    """That node knows nothing of it."""

    @property
    def is_end(self) -> bool:
        """Whether this copy must not be started again."""
        return self in (Fate.OVER, Fate.DONE)


@attrs.frozen
class Inquiry:
    """A question for the fate of one copy of a job."""

    partition: str
    queue: str
    instance: Instance
    has: bool
    """Whether the asker has the delivery; else it runs the job without, and who has it is asked."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        job, queued_at, retry_count, edition = self.instance.copy
        copy = [job, queued_at.isoformat(), retry_count, edition, self.instance.moves]
        where = {"partition": self.partition, "queue": self.queue}
        return {"ask": "fate", **where, "copy": copy, "has": self.has}

    @classmethod
    def from_json(cls, question: Mapping[str, Any]) -> Inquiry:
        """Read one.

        Raises:
            Unreadable: It is none.
        """
        listed = list_of(question.get("copy"), "copy")
        names = ("job", "queued_at", "retry_count", "edition", "moves")
        if len(listed) != len(names):
            raise Unreadable(f"copy: expected {len(names)} values, got {len(listed)}")
        fields: dict[str, Any] = dict(zip(names, listed, strict=True))
        copy = Copy(
            text_of(fields, "job"),
            time_of(fields, "queued_at"),
            whole_of(fields, "retry_count"),
            whole_of(fields, "edition"),
        )
        instance = Instance(copy, whole_of(fields, "moves"))
        partition, queue = text_of(question, "partition"), text_of(question, "queue")
        return cls(partition, queue, instance, question.get("has") is True)


def dump_fate(fate: Fate) -> dict[str, Any]:
    """Write an answer as JSON values."""
    return {"fate": fate.value}


def read_fate(reply: Mapping[str, Any]) -> Fate:
    """Read an answer; one that is not known, as of an older version, says nothing."""
    try:
        return Fate(reply.get("fate"))
    except ValueError:
        return Fate.ABSENT


class Knows(Protocol):
    """The way to the other nodes of a partition: a `Bus`."""

    async def find_mates(self, partition: str) -> Sequence[str]:
        """Name the inboxes of the other nodes of a partition, those that may be back included."""
        ...

    def is_dead(self, inbox: str) -> bool:
        """Tell whether a node at whose inbox nobody listens is given up, or was never known."""
        ...

    def ask_inbox(
        self, inbox: str, question: Mapping[str, Any], *, timeout: float
    ) -> Awaitable[Mapping[str, Any]]:
        """Ask one node."""
        ...

    def note_silence(self, inbox: str, seconds: float) -> None:
        """Note that a node does not answer: so long, or until it is heard again."""
        ...

    def is_silent(self, inbox: str) -> bool:
        """Tell whether that was noted."""
        ...


class Fates:
    """Asks the other nodes of a partition what became of jobs.

    Args:
        bus: The way to them.
    """

    def __init__(self, bus: Knows) -> None:
        self._bus = bus

    async def find(self, inquiry: Inquiry) -> Fate:
        """Find out what became of a job.

        A node that runs it takes `TELL_WITHIN` to say so, lest it be asked all the time. A dead
        one costs a second, one that is frozen `ANSWER_WITHIN`.

        Returns:
            The most telling of their answers.
        """
        mates = await self._bus.find_mates(inquiry.partition)
        found: list[Fate] = [Fate.ABSENT]

        async def ask(inbox: str) -> None:
            found.append(await self._ask(inbox, inquiry))
            if found[-1].is_end:
                nursery.cancel_scope.cancel()

        if mates:
            async with trio.open_nursery() as nursery:
                for inbox in mates:
                    nursery.start_soon(ask, inbox)
        return next(each for each in Fate if each in found)

    async def _ask(self, inbox: str, inquiry: Inquiry) -> Fate:
        question = inquiry.as_json()
        while not self._bus.is_silent(inbox):
            try:
                reply = await self._bus.ask_inbox(inbox, question, timeout=ANSWER_WITHIN)
            except NobodyListens:
                if self._bus.is_dead(inbox):
                    break
                await trio.sleep(_ASK_EVERY)
                continue
            except NoReply:
                text = "partition %r: a node does not say whether it runs job %s; it may be frozen"
                logger.warning(text, inquiry.partition, inquiry.instance.copy.job)
                self._bus.note_silence(inbox, _NOT_AGAIN)
                break
            return read_fate(reply)
        return Fate.ABSENT
