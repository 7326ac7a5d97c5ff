"""What it costs to hold many keys."""

from __future__ import annotations

import tracemalloc

from roger_trio._control import wire
from roger_trio._state.ledger import Ledger
from roger_trio._state.operations import Claim, ListPaused, Operation, Published, Release, Start

MANY = 5_000
MOST_BYTES_PER_KEY = 700  # so that 100,000 need less than 70 MiB


def heard(operation: Operation) -> Operation:
    """Return an operation as it is read from the wire, sharing nothing with others."""
    message = wire.decode(wire.encode(wire.Commands("inbox", 1, [operation])))
    assert isinstance(message, wire.Commands)
    return message.operations[0]


def test_many_held_keys_fit_into_little_memory() -> None:
    """Jobs with two keys, ids and nonces of usual length, all of them running."""
    ledger = Ledger()
    tracemalloc.start()
    try:
        for number in range(MANY):
            job = f"{number:032}"
            key, attempt = f"user/{job}", f"{job}{number}"
            ledger.handle(heard(Claim(job, key, "default", f"n{job}", "inbox")), float(number))
            ledger.handle(heard(Published(job, f"n{job}")), float(number))
            start = Start(job, "default", key, f"e{job}", "node", "inbox", "", attempt)
            ledger.handle(heard(start), float(number))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 2 * MANY * MOST_BYTES_PER_KEY


def test_what_is_saved_does_not_grow_with_the_keys_held() -> None:
    """The life of a job writes down as much among many as when it is alone."""

    def changes_of(ledger: Ledger, job: str) -> int:
        operations = (
            Claim(job, f"k{job}", "q", f"n{job}", "inbox"),
            Published(job, f"n{job}"),
            Start(job, "q", f"k{job}", f"e{job}", "node", "inbox", "", f"a{job}"),
            ListPaused(),
            Release(job, f"a{job}"),
        )
        return sum(len(ledger.handle(operation, 1.0).changes) for operation in operations)

    ledger = Ledger()
    alone = changes_of(ledger, "alone")
    for number in range(1_000):
        ledger.handle(Claim(f"{number}", f"{number}", "q", f"n{number}", "inbox"), 1.0)
        ledger.handle(Start(f"{number}", "q", None, "one", "node", "inbox"), 1.0)
    assert changes_of(ledger, "among many") == alone
