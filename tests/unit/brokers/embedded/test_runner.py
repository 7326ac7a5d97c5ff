"""Where transactions run: group commit, failures, cancellation, the end of the thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from roger_trio._brokers.base import (
    BrokerError,
    ConnectionLost,
    ConnectionRefused,
    Message,
    PublishRefused,
    QueueMissing,
    QueueSpec,
)
from roger_trio._brokers.embedded.clock import SharedClock
from roger_trio._brokers.embedded.database import open_file, open_memory
from roger_trio._brokers.embedded.engine import Engine
from roger_trio._brokers.embedded.runner import LOCKED, InlineRunner, ThreadRunner, transact
from roger_trio._brokers.embedded.values import News
from tests.conformance.kit import settles_at


class Gate:
    """A piece of work that holds the thread until it is opened."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()

    def __call__(self, engine: Engine) -> None:
        """Wait in the thread."""
        self._token.run_sync_soon(self.reached.set)
        assert self._open.wait(10)

    def open(self) -> None:
        """Let the thread go on."""
        self._open.set()


@asynccontextmanager
async def running(path: Path, news: list[News] | None = None) -> AsyncGenerator[ThreadRunner]:
    """Run a runner on a file with queue ``q``."""
    runner = ThreadRunner(lambda: open_file(str(path), SharedClock()), "here")
    on_news = (lambda _: None) if news is None else news.append
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run, on_news)
        await runner.call(lambda engine: engine.declare([QueueSpec(name="q")]))
        yield runner
        nursery.cancel_scope.cancel()


def put(body: bytes) -> Message:
    """Make a message."""
    return Message(body)


async def publish(runner: ThreadRunner, queue: str, body: bytes) -> None:
    """Publish one."""
    await runner.call(lambda engine: engine.publish(queue, [put(body)], None))


async def ready(runner: ThreadRunner) -> int:
    """Count what ``q`` holds."""
    return (await runner.call(lambda engine: engine.count("q"))).messages


async def test_what_waits_shares_a_commit(tmp_path: Path) -> None:
    """Pieces that wait while another runs are committed together, and tell their news at once."""
    news: list[News] = []
    async with running(tmp_path / "db", news) as runner:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.call, gate)
            await gate.reached.wait()
            for each in range(100):
                nursery.start_soon(publish, runner, "q", b"%d" % each)
            await wait_all_tasks_blocked()
            news.clear()
            gate.open()
        assert [len(each.queues) for each in news] == [0, 1]
        assert await ready(runner) == 100


async def test_one_that_fails_leaves_the_others(tmp_path: Path) -> None:
    """In one group, a refused piece, a broken one and one too big fail alone."""

    def broken(engine: Engine) -> None:
        engine.publish("q", [put(b"half")], None)
        raise ZeroDivisionError

    def unfit(engine: Engine) -> None:
        engine.publish("q", [put(b"half"), Message(b"x", object())], None)  # type: ignore[arg-type]

    failures: list[type[BaseException]] = []

    async def fail(work: object, kind: type[BaseException]) -> None:
        with pytest.raises(kind):
            await runner.call(work)  # type: ignore[arg-type]
        failures.append(kind)

    async with running(tmp_path / "db") as runner:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.call, gate)
            await gate.reached.wait()
            nursery.start_soon(publish, runner, "q", b"one")
            nursery.start_soon(fail, lambda e: e.publish("none", [], None), QueueMissing)
            nursery.start_soon(fail, broken, ZeroDivisionError)
            nursery.start_soon(fail, unfit, PublishRefused)
            nursery.start_soon(publish, runner, "q", b"two")
            await wait_all_tasks_blocked()
            gate.open()
        assert len(failures) == 3
        assert await ready(runner) == 2


async def test_news_of_a_cancelled_call_are_told(tmp_path: Path) -> None:
    """Who is cancelled while its message is committed does not take the wake-up with it."""
    news: list[News] = []
    async with running(tmp_path / "db", news) as runner:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.call, gate)
            await gate.reached.wait()
            with trio.move_on_after(0):
                await publish(runner, "q", b"x")
            gate.open()
        assert await ready(runner) == 1
    assert sum(len(each.queues) for each in news) == 1


async def test_what_was_asked_is_done_before_the_end(tmp_path: Path) -> None:
    """Cancelled with work in hand and waiting, the runner does it first."""
    path = tmp_path / "db"
    async with trio.open_nursery() as publishers, running(path) as runner:
        gate = Gate()
        publishers.start_soon(runner.call, gate)
        await gate.reached.wait()
        for each in range(10):
            publishers.start_soon(publish, runner, "q", b"%d" % each)
        await wait_all_tasks_blocked()
        gate.open()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM messages").fetchone() == (10,)
    connection.close()
    with pytest.raises(ConnectionLost, match="closed"):
        await publish(runner, "q", b"late")


async def test_it_waits_for_another_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While another process holds the database, work waits, trouble says why, and nothing fails."""
    path = tmp_path / "db"
    async with running(path) as runner:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, runner, "q", b"x")
            await settles_at(LOCKED, lambda: runner.trouble)
            other.execute("COMMIT")
        assert runner.trouble == ""
        assert await ready(runner) == 1
        other.close()
    assert len(caplog.records) == 1


class Thief:
    """A piece of work that fails a group, and has somebody else write before it fails alone.

    Args:
        other: Who writes then.
    """

    def __init__(self, other: sqlite3.Connection) -> None:
        self._other = other
        self._is_alone = False

    def __call__(self, engine: Engine) -> None:
        """Fail."""
        if self._is_alone:
            engine.roll_back()
            self._other.execute("BEGIN IMMEDIATE")
        self._is_alone = True
        raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("stops", [False, True])
async def test_those_whose_group_failed_wait_for_another_writer(
    tmp_path: Path, stops: bool
) -> None:
    """Each alone waits as the group would: they are done when the database is free, or never."""
    path = tmp_path / "db"
    ends: list[str] = []

    async def end(name: str, work: object) -> None:
        try:
            await runner.call(work)  # type: ignore[arg-type]
        except BrokerError as exc:
            name = f"{name}: {type(exc).__name__}"
        ends.append(name)

    with (
        trio.fail_after(30),
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
    ):
        async with trio.open_nursery() as callers, running(path) as runner:
            gate, thief = Gate(), Thief(other)
            callers.start_soon(runner.call, gate)
            await gate.reached.wait()
            callers.start_soon(end, "thief", thief)
            await wait_all_tasks_blocked()
            for each in range(3):
                publishing = partial(Engine.publish, name="q", messages=[put(b"x")], due=None)
                callers.start_soon(end, f"{each}", publishing)
            await wait_all_tasks_blocked()
            gate.open()
            await settles_at(True, lambda: "locked" in runner.trouble)
            if not stops:
                other.execute("COMMIT")
                await settles_at(4, lambda: len(ends))
                assert await ready(runner) == 3
    lost = ": ConnectionLost" if stops else ""
    assert sorted(ends) == [*(f"{each}{lost}" for each in range(3)), "thief: PublishRefused"]


async def test_it_stops_while_another_writes(tmp_path: Path) -> None:
    """Cancelled while another holds the database, it gives the work up instead of hanging."""
    path = tmp_path / "db"
    other = sqlite3.connect(path, isolation_level=None)

    async def fail(runner: ThreadRunner) -> None:
        with pytest.raises(ConnectionLost, match="locked"):
            await publish(runner, "q", b"x")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, running(path) as runner:
            other.execute("BEGIN IMMEDIATE")
            nursery.start_soon(fail, runner)
            await wait_all_tasks_blocked()
    other.close()


async def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    """It is the runner's own error."""
    runner = ThreadRunner(lambda: open_file(str(tmp_path / "no" / "db"), SharedClock()), "here")
    with pytest.raises(ConnectionRefused):
        await runner.run(lambda _: None)


async def test_a_full_database_refuses_and_recovers(tmp_path: Path) -> None:
    """What does not fit is refused, alone; what fits is kept; room makes all well."""
    path = tmp_path / "db"

    def open_small() -> sqlite3.Connection:
        connection = open_file(str(path), SharedClock())
        connection.execute("PRAGMA max_page_count = 60")
        return connection

    runner = ThreadRunner(open_small, "here")
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run, lambda _: None)
        await runner.call(lambda engine: engine.declare([QueueSpec(name="q")]))
        await publish(runner, "q", b"small")
        with pytest.raises(PublishRefused, match="full"):
            await publish(runner, "q", b"x" * 1_000_000)
        await publish(runner, "q", b"small too")
        assert await ready(runner) == 2
        nursery.cancel_scope.cancel()


def test_a_failed_commit_keeps_nothing() -> None:
    """A group whose transaction fails as a whole is undone, and its news are not told."""
    connection = open_memory()
    engine = Engine(connection)
    engine.begin()
    engine.declare([QueueSpec(name="q")])
    engine.commit()

    def close_under_it(_: Engine) -> None:
        connection.execute("ROLLBACK")

    [outcome], news = transact(engine, [close_under_it])
    assert news == News()
    with pytest.raises(PublishRefused):
        outcome.unwrap()
    connection.close()


async def test_inline_work_is_done_or_not_begun() -> None:
    """Cancelled, inline work is either not begun or done with its result."""
    connection = open_memory()
    engine = Engine(connection)
    runner = InlineRunner(engine)
    calls: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await runner.call(lambda _: calls.append(1))
    assert calls == []

    def both(_: Engine) -> None:
        calls.append(1)
        scope.cancel()

    with trio.CancelScope() as scope:
        await runner.call(both)
        calls.append(2)
    assert calls == [1, 2]
    connection.close()
