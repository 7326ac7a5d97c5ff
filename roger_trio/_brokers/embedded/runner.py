"""Where the embedded broker's transactions run: inline, or in one thread with group commit."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

import outcome
import trio

from ..base import BrokerError, ConnectionLost, ConnectionRefused, PublishRefused
from .engine import Engine
from .values import News

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Engine], T]
OnNews = Callable[[News], None]

_GROUP: Final = 256
"""Pieces of work that share one commit at most."""
_BORNE: Final = 2.0
"""Seconds that others may write before that is trouble."""
_REOPEN: Final = 0.25
"""Seconds after which it is tried again to open what is locked."""
LOCKED: Final = "the database is locked by another process: let that one go on, or end it"


class Runner(Protocol):
    """Runs pieces of work, each in a transaction that is committed before its result is seen."""

    @property
    def trouble(self) -> str:
        """What keeps work from being done right now, or ''."""
        ...

    async def run(
        self,
        on_news: OnNews,
        on_locked: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take work until cancelled; what was taken is done before it returns.

        Started once the database is open. `on_locked` is called if another process keeps it from
        being opened; from then on it is waited for, whatever becomes of it.

        `on_news` is called after each commit that has some, whether or not somebody still waits
        for the work, and before its result is seen. It must neither block nor raise.
        """
        ...

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work; return its result once it is committed.

        Raises:
            BrokerError: The work's own, or that the database could not keep it.

        Cancellation: the work may be done nevertheless, or not.
        """
        ...


def transact(
    engine: Engine, works: Sequence[Work[Any]], begin: Callable[[], None] | None = None
) -> tuple[list[outcome.Maybe[Any]], News]:
    """Run pieces of work in one transaction; return an outcome for each, and the news.

    A piece that ends with a `BrokerError` has written nothing, as the engine checks first. After
    any other failure nothing is kept, and each piece has a transaction to itself: one that asks
    for too much does not take the others with it.

    Args:
        engine: The database.
        works: What to run.
        begin: Begins a transaction; what it raises `ConnectionLost` for is not done.
            Default: the engine's own.
    """
    begin = begin or engine.begin
    try:
        begin()
        results = [_attempt(work, engine) for work in works]
        return results, engine.commit()
    except ConnectionLost as exc:
        return [outcome.Error(ConnectionLost(str(exc))) for _ in works], News()
    except Exception as exc:  # noqa: BLE001 -- given to whom it concerns
        engine.roll_back()
        if len(works) == 1:
            return [outcome.Error(_translate(exc))], News()
    except BaseException:
        engine.roll_back()
        raise
    return _transact_singly(engine, works, begin)


def _transact_singly(
    engine: Engine, works: Sequence[Work[Any]], begin: Callable[[], None]
) -> tuple[list[outcome.Maybe[Any]], News]:
    results: list[outcome.Maybe[Any]] = []
    queues: frozenset[int] = frozenset()
    processes: frozenset[str] = frozenset()
    for work in works:
        [result], news = transact(engine, [work], begin)
        results.append(result)
        queues, processes = queues | news.queues, processes | news.processes
    return results, News(queues, processes)


def is_locked(error: sqlite3.Error) -> bool:
    """Tell whether another process keeps us from what we tried, for now."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _attempt(work: Work[Any], engine: Engine) -> outcome.Maybe[Any]:
    try:
        return outcome.Value(work(engine))
    except BrokerError as exc:
        return outcome.Error(exc)


def _translate(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error):
        return PublishRefused(f"the database cannot keep it: {error}")
    return error


class InlineRunner:
    """Runs work where it is asked for: for a database in memory.

    Args:
        engine: The database; others in the same thread may use it too.
        on_change: Called after each transaction.
    """

    def __init__(self, engine: Engine, on_change: Callable[[], object] = lambda: None) -> None:
        self.trouble = ""
        self._engine = engine
        self._on_change = on_change
        self._on_news: OnNews = lambda _: None

    async def run(
        self,
        on_news: OnNews,
        on_locked: Callable[[], None] = lambda: None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do nothing until cancelled; there is no thread."""
        self._on_news = on_news
        task_status.started()
        await trio.sleep_forever()

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work; see `Runner`. Cancelled, it is either done or not begun."""
        await trio.lowlevel.checkpoint_if_cancelled()
        [result], news = transact(self._engine, [work])
        self._on_news(news)
        self._on_change()
        await trio.lowlevel.cancel_shielded_checkpoint()
        value: T = result.unwrap()
        return value


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

    Args:
        open_database: Opens it; called in a thread. What it raises `ConnectionLost` for is tried
            again.
        where: What logs call it.
    """

    def __init__(self, open_database: Callable[[], sqlite3.Connection], where: str) -> None:
        self._open = open_database
        self._where = where
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._stopped = False
        self._gave_up = False
        """Whether the database was locked when we were to stop: nothing more is done then."""
        self._limiter = trio.CapacityLimiter(1)
        self.trouble = ""

    async def run(
        self,
        on_news: OnNews,
        on_locked: Callable[[], None] = lambda: None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the thread until cancelled; what was asked of it by then is done.

        Raises:
            ConnectionRefused: The database cannot be opened.
        """
        database = await self._open_patiently(on_locked)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_thread, Engine(database), on_news)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._stopped = True
                    self._requests.put(None)
        finally:
            self._stopped = True
            self._fail_the_rest()
            with trio.CancelScope(shield=True):  # The last to close it tidies up, which takes time.
                await trio.to_thread.run_sync(database.close, limiter=self._limiter)

    async def _open_patiently(self, on_locked: Callable[[], None]) -> sqlite3.Connection:
        """Open the database; while another process has it, wait."""
        while True:
            try:
                database = await trio.to_thread.run_sync(self._open, limiter=self._limiter)
            except ConnectionLost as exc:
                if not self.trouble:
                    logger.warning("%s: %s; waiting for it", self._where, exc)
                    on_locked()
                self.trouble = str(exc)
            except ConnectionRefused as exc:
                if not self.trouble:
                    raise
                trouble = str(exc).removeprefix(f"{self._where}: ")
                if trouble != self.trouble:
                    logger.error("%s: %s; trying again", self._where, trouble)
                self.trouble = trouble
            else:
                self.trouble = ""
                return database
            await trio.sleep(_REOPEN)

    def _fail_the_rest(self) -> None:
        """Nobody must wait for a thread that is no more."""
        while not self._requests.empty():
            request = self._requests.get_nowait()
            if request is not None:
                request.done.set()

    async def _keep_thread(self, engine: Engine, on_news: OnNews) -> None:
        token = trio.lowlevel.current_trio_token()

        def serve() -> None:
            while True:
                group, is_last = self._next_group()
                if group:
                    works = [request.work for request in group]
                    results, news = transact(engine, works, partial(self._begin, engine))
                    token.run_sync_soon(_answer, group, results, news, on_news)
                if is_last:
                    return

        # Not to be abandoned: cancelled, it waits for the work in hand, which takes a moment.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(serve, limiter=self._limiter)

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

    def _begin(self, engine: Engine) -> None:
        """Begin a transaction; while the database is locked, wait, unless we are to stop.

        Raises:
            ConnectionLost: We are to stop.
        """
        began = time.monotonic()
        while not self._gave_up:
            try:
                engine.begin()
            except sqlite3.OperationalError as exc:
                if not is_locked(exc):
                    raise
                if not self.trouble and time.monotonic() - began >= _BORNE:
                    self.trouble = LOCKED
                    logger.warning("%s: %s; waiting for it", self._where, LOCKED)
                self._gave_up = self._stopped
            else:
                self.trouble = ""
                return
        raise ConnectionLost(LOCKED)

    async def call(self, work: Work[T]) -> T:
        """Run a piece of work in the thread; see `Runner`."""
        if self._stopped:
            raise ConnectionLost("the broker is closed")
        request = _Request(work)
        self._requests.put(request)
        await request.done.wait()
        result: T = request.unwrap()
        return result


def _answer(
    group: list[_Request], results: list[outcome.Maybe[Any]], news: News, on_news: OnNews
) -> None:
    on_news(news)
    for request, result in zip(group, results, strict=True):
        request.result = result
        request.done.set()
