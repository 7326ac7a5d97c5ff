"""A ledger whose every change is written down, and replayed after every operation."""

from __future__ import annotations

import math

import orjson

from roger_trio._state import changes
from roger_trio._state.changes import Change
from roger_trio._state.decisions import Decision
from roger_trio._state.ledger import Ledger
from roger_trio._state.operations import (
    Answer,
    Claim,
    FreeKey,
    HeldKey,
    Keys,
    ListKeys,
    Operation,
    Start,
)


def rebuilt(journal: list[Change]) -> Ledger:
    """Return the ledger that changes rebuild after they were written and read."""
    ledger = Ledger()
    for change in journal:
        ledger.apply(changes.load(orjson.loads(orjson.dumps(changes.dump(change)))))
    return ledger


class Journaled:
    """A ledger with a clock, which shows after each step that replaying gives the same one."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.journal: list[Change] = []
        self.now = 1_000.0

    def decide(self, operation: Operation) -> Decision:
        """Handle an operation."""
        return self.keep(self.ledger.handle(operation, self.now))

    def ask(self, operation: Operation) -> Answer | None:
        """Handle an operation; return its answer only."""
        return self.decide(operation).answer

    def arrive(self, job: str, key: str = "e", queue: str = "q") -> Decision:
        """Let a waiting job's delivery come in."""
        return self.keep(self.ledger.arrive(job, queue, key, self.now))

    def expire(self, held_for: float = math.inf) -> Decision:
        """Forget what is old, so many seconds after all was loaded."""
        return self.keep(self.ledger.expire(self.now, held_for))

    def keep(self, decision: Decision) -> Decision:
        """Save a decision's changes; compare with what they rebuild."""
        self.journal += decision.changes
        assert rebuilt(self.journal) == self.ledger
        assert rebuilt(list(self.ledger.snapshot())) == self.ledger
        return decision

    def keys(self) -> dict[tuple[str, str], HeldKey]:
        """Return what is held, by kind and key."""
        return _by_key(self.ask(ListKeys()))

    def freed(self, key: str) -> dict[tuple[str, str], HeldKey]:
        """Free a key; return what was freed."""
        return _by_key(self.ask(FreeKey(key, "client", len(self.journal))))

    def holders(self) -> dict[str, str]:
        """Return the job that holds each key; keys of both kinds differ in these tests."""
        return {key: held.job for (_, key), held in self.keys().items()}


def _by_key(keys: Answer | None) -> dict[tuple[str, str], HeldKey]:
    assert isinstance(keys, Keys)
    return {(held.kind, held.key): held for held in keys.keys}


def claim(job: str, key: str = "k", nonce: str = "", inbox: str = "client") -> Claim:
    """Return a claim; by default there is one for each job."""
    return Claim(job, key, "q", nonce or f"claim of {job}", inbox)


def start(
    job: str,
    queue_key: str | None = None,
    execution_key: str | None = "e",
    *,
    node: str = "a",
    instead_of: str = "",
    attempt: str = "",
    born: float = 0.0,
    to_forget: bool = False,
) -> Start:
    """Return a start on a node, whose inbox is named like it with ``@`` before it."""
    return Start(
        job,
        "q",
        queue_key,
        execution_key,
        node,
        f"@{node}",
        instead_of,
        attempt,
        born,
        to_forget=to_forget,
    )
