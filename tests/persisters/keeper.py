"""A program that keeps state, to be stopped, woken and killed.

``python -m tests.persisters.keeper DIRECTORY SIZE`` pauses one queue after the other, in names of
SIZE characters, and writes a line after each save; an error ends it with a line of its own.
"""

from __future__ import annotations

import os
import sys
from itertools import count

import trio

from roger_trio._errors import PersisterError
from roger_trio._persisters import FilePersister
from roger_trio._state.changes import Paused
from roger_trio._state.store import Store

PARTITION = "myapp"


def queue_name(process: int, number: int, size: int) -> str:
    """Return the name of the queue that a process has paused in its n-th save."""
    return f"{process}.{number}.".ljust(size, "x")


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(directory: str, size: int) -> None:
    """Save until killed, or until it cannot be done."""
    store = Store(FilePersister(directory), PARTITION)
    ledger = await store.load()
    for number in count():
        change = Paused(queue_name(os.getpid(), number, size))
        ledger.apply(change)
        try:
            await store.save(ledger, [change])
        except PersisterError as error:
            say(f"refused {error}")
            return
        say(f"saved {number}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
