"""Where the embedded broker's transactions run: inline, or in one thread with group commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

import outcome
import trio

from ..base import BrokerError, ConnectionLost, PublishRefused
from .engine import Engine

T = TypeVar("T")
Work = Callable[[Engine], T]

_GROUP: Final = 256
"""Pieces of work that share one commit at most."""


class Runner(Protocol):
    """Runs pieces of work, each in a transaction that is committed before its result is seen."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take work until cancelled; what was taken is done before it returns."""
        ...

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work; return its result once it is committed.

        Raises:
            BrokerError: The work's own, or that the database could not keep it.

        Cancellation: the work may or may not be done.
        """
        ...


def _transact(engine: Engine, database: sqlite3.Connection, works: list[Work[Any]]) -> list[Any]:
    """Run pieces of work in one transaction; return an outcome for each.

    One that fails has written nothing, as the engine checks before it writes. If the database
    fails, all fail, and nothing of them is kept.
    """
    results: list[outcome.Maybe[Any]] = []
    try:
        database.execute("BEGIN IMMEDIATE")
        for work in works:
            try:
                results.append(outcome.Value(work(engine)))
            except BrokerError as exc:
                results.append(outcome.Error(exc))
        database.execute("COMMIT")
    except sqlite3.Error as exc:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        engine.forget()
        failure = PublishRefused(f"the database cannot keep it: {exc}")
        return [outcome.Error(failure) for _ in works]
    return results


class InlineRunner:
    """Runs work where it is asked for: for a database in memory."""

    def __init__(self, open_database: Callable[[], sqlite3.Connection]) -> None:
        self._database = open_database()
        self._engine = Engine(self._database)
        self.changed: Final = trio.lowlevel.ParkingLot()
        """Whoever waits here wakes after each transaction."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing until cancelled; there is no thread."""
        task_status.started()
        await trio.sleep_forever()

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work; see `Runner`."""
        await trio.lowlevel.checkpoint()
        result = _transact(self._engine, self._database, [work])[0]
        self.changed.unpark_all()
        value: T = result.unwrap()
        return value

    def look(self, question: Work[T]) -> T:
        """Answer a question that changes nothing, here and now."""
        return question(self._engine)


class _Request:
    """A piece of work, and the task that waits for it."""

    __slots__ = ("done", "result", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.done = trio.Event()
        self.result: outcome.Maybe[Any] = outcome.Error(ConnectionLost("not done"))

    def unwrap(self) -> Any:
        """Return or raise the result."""
        return self.result.unwrap()


class ThreadRunner:
    """Runs work in one thread; what is waiting when a transaction begins shares its commit.

    So many publishers cost one sync of the disk together, and none of them waits longer for it
    than for its own.
    """

    def __init__(self, open_database: Callable[[], sqlite3.Connection]) -> None:
        self._open = open_database
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._stopped = False
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the thread until cancelled; what was asked of it by then is done.

        Raises:
            ConnectionRefused: The database cannot be opened.
        """
        database = await trio.to_thread.run_sync(self._open, limiter=self._limiter)
        token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_thread, database, token)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._stopped = True
                    self._requests.put(None)
        finally:
            database.close()

    async def _keep_thread(
        self, database: sqlite3.Connection, token: trio.lowlevel.TrioToken
    ) -> None:
        # Not to be abandoned: cancelled, it waits for the work in hand, which takes a moment.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._serve, database, token, limiter=self._limiter)

    def _serve(self, database: sqlite3.Connection, token: trio.lowlevel.TrioToken) -> None:
        """Do work until told to stop; runs in the thread."""
        engine = Engine(database)
        while True:
            group, is_last = self._next_group()
            if group:
                results = _transact(engine, database, [request.work for request in group])
                token.run_sync_soon(_answer, group, results)
            if is_last:
                return

    def _next_group(self) -> tuple[list[_Request], bool]:
        """Wait for work; return what is waiting, and whether it is the last."""
        group: list[_Request] = []
        request = self._requests.get()
        while request is not None:
            group.append(request)
            if len(group) == _GROUP:
                return group, False
            try:
                request = self._requests.get_nowait()
            except Empty:
                return group, False
        return group, True

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work in the thread; see `Runner`."""
        if self._stopped:
            raise ConnectionLost("the broker is closed")
        request = _Request(work)
        self._requests.put(request)
        await request.done.wait()
        result: T = request.unwrap()
        return result


def _answer(group: list[_Request], results: list[outcome.Maybe[Any]]) -> None:
    for request, result in zip(group, results, strict=True):
        request.result = result
        request.done.set()
