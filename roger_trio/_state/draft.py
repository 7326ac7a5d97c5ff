"""A decision while it is made: what is decided happens in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from . import changes as c
from .changes import Change
from .decisions import Decision, Drop, Forward, Move
from .memory import Memory
from .operations import Answer, Event, JobForgotten


@attrs.define
class Draft:
    """A decision while it is made.

    Every change to the memory is made by `change`, so that what is saved is what has happened.
    """

    memory: Memory
    now: float
    changes: list[Change] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    moves: list[Move] = attrs.field(factory=list)
    purge: str | None = None

    def change(self, change: Change) -> None:
        """Make a change, and have it saved."""
        self.memory.apply(change)
        self.changes.append(change)

    def tell(self, event: Callable[[int], Event]) -> None:
        """Have an event told to all nodes, with the version that has been reached."""
        self.events.append(event(self.memory.version))

    def forward(self, job: str) -> None:
        """Have a waiting job sent on to its queue."""
        self.moves.append(Forward(job))

    def drop(self, job: str) -> None:
        """Have a waiting job's delivery settled."""
        self.moves.append(Drop(job))

    def done(self, answer: Answer | None = None) -> Decision:
        """The decision, with the answer if one is due."""
        return Decision(
            answer, tuple(self.changes), tuple(self.events), tuple(self.moves), self.purge
        )

    # What several rules do...

    def give_up_turn(self, job: str, change: Change) -> None:
        """Make a change by which a job holds no execution key; the next one is sent on."""
        heir = self.memory.turns.next_after(job)
        self.change(change)
        if heir is not None:
            self.forward(heir)

    def take_turn(self, job: str, queue: str, key: str) -> bool:
        """Let a job hold an execution key, or wait for it in its place.

        Args:
            job: The job.
            queue: Its queue.
            key: Its execution key.

        Returns:
            Whether it holds it.
        """
        turns = self.memory.turns
        if turns.key_of(job) not in (None, key):
            self.give_up_turn(job, c.TurnLeft(job, self.now))
        turn = turns.turns.get(key)
        if turn is None:
            self.change(c.TurnTaken(key, job, queue, self.now))
        elif turn.job != job:
            if turns.key_of(job) is None:
                self.change(c.TurnAwaited(key, job, queue, self.now))
            return False
        return True

    def forget_cancellation(self, job: str) -> None:
        """A job counts as cancelled no more, if it did."""
        if job in self.memory.cancellations:
            self.change(c.CancelForgotten(job))
            self.tell(lambda version: JobForgotten(version, job))

    def bound_cancellations(self) -> None:
        """Let the oldest cancellations go, beyond what is kept."""
        for job in self.memory.cancellations.surplus():
            self.forget_cancellation(job)
