"""Promise 11: no new jobs, time for the running ones, and the rest is given back."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import roger_trio as roger
from tests.apps import node as app
from tests.promises.support import (
    HUBS,
    Hub,
    Outsider,
    Program,
    Setup,
    do,
    eventually,
    hold,
    in_thread,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)
from tests.rabbitmq import free_port

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@contextlib.asynccontextmanager
async def stopping(setup: Setup, **options: Any) -> AsyncGenerator[Program]:
    """Run a node that writes its log as well, for half a minute at most."""
    with trio.fail_after(30):
        async with program(setup, app="tests.apps.stopping", **options) as node:
            yield node


async def end_of(node: Program, *, within: float) -> int | None:
    """Wait for the end of a program; return its exit status."""
    with trio.fail_after(within):
        await node.ended.wait()
    return node.process.returncode


async def left_in(setup: Setup) -> list[tuple[str, int, int]]:
    """Say what waits in the partition's queue: tag, retries, deaths."""
    async with roger.connect(setup.client_config()) as client:
        jobs = await client.queued_jobs(setup.partition, "default")
        assert await client.buried_jobs(setup.partition, "default") == []
    return sorted((each.args["tag"], each.retry_count, each.deaths) for each in jobs)


# Signals...


@on_durable_brokers
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_a_signal_lets_running_jobs_finish_and_takes_no_others(
    setup: Setup, number: signal.Signals
) -> None:
    """They run once, the program ends with status 0, and what was not begun is still there."""
    async with roger.connect(setup.config()) as client:
        async with stopping(
            setup, shutdown_timeout=25, partitions={setup.partition: {"default": 1}}
        ) as node:
            await client.enqueue(app.work.job("w", 0.7), setup.partition)
            await node.wait("work w")
            node.process.send_signal(number)
            await node.wait(f"log got {number.name}; stopping once the running jobs have ended")
            await client.enqueue(app.quick.job("late"), setup.partition)
            assert await end_of(node, within=15) == 0
        assert (node.count("worked w"), node.count("quick")) == (1, 0)
        assert node.lines[-2:] == ["worked w", "end"]
    assert await left_in(setup) == [("late", 0, 0)]


@on_durable_brokers
async def test_a_job_that_takes_too_long_is_cancelled_and_given_back(setup: Setup) -> None:
    """Its `finally` runs, and it spends no attempt."""
    async with roger.connect(setup.config()) as client, stopping(setup, shutdown_timeout=0.3) as n:
        await client.enqueue(app.hold.job("h"), setup.partition)
        await n.wait("hold h")
        n.process.send_signal(signal.SIGTERM)
        assert await end_of(n, within=10) == 0
    assert (n.count("cleanup h"), n.lines[-1]) == (1, "end")
    assert await left_in(setup) == [("h", 0, 0)]


@on_durable_brokers
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_a_second_signal_stops_at_once(setup: Setup, number: signal.Signals) -> None:
    """Whatever time is left: running jobs are cancelled, given back, and spend no attempt."""
    async with roger.connect(setup.config()) as client, stopping(setup, shutdown_timeout=900) as n:
        await client.enqueue_many([app.hold.job(str(each)) for each in range(12)], setup.partition)
        await n.wait("hold", 10)
        n.process.send_signal(number)
        await n.wait(f"log got {number.name}; stopping once")
        n.process.send_signal(number)
        assert await end_of(n, within=10) == 0
    assert n.count(f"log got {number.name}; stopping at once") == 1
    assert (n.count("cleanup"), n.lines[-1]) == (10, "end")
    assert [(retries, deaths) for _, retries, deaths in await left_in(setup)] == [(0, 0)] * 12


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_a_node_that_has_no_broker_yet_can_be_stopped(
    setup: Setup, number: signal.Signals
) -> None:
    """At once, with status 0: it has nothing to wait for."""
    async with stopping(setup, broker=f"amqp://127.0.0.1:{free_port()}/") as node:
        await node.wait("log no connection to the broker")
        node.process.send_signal(number)
        assert await end_of(node, within=5) == 0
    assert node.lines[-1] == "end"


async def test_a_node_whose_broker_says_nothing_can_be_stopped(setup: Setup) -> None:
    """In the middle of connecting, too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with stopping(setup, broker=f"amqp://127.0.0.1:{port}/") as node:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(silent))
            async with await listener.accept() as connection:
                assert (await connection.receive_some(4)) == b"AMQP"
                node.process.send_signal(signal.SIGTERM)
                assert await end_of(node, within=5) == 0
    assert node.lines[-1] == "end"


# Being cancelled, inside another program...


@contextlib.asynccontextmanager
async def when_stopping(
    config: roger.Config, then: Callable[[], Awaitable[None]]
) -> AsyncGenerator[roger.Node]:
    """Run a node; once it is cancelled, and so stops, do something."""
    stopped = trio.Event()

    async def wait_and_do(node: roger.Node) -> None:
        await node._stop_requested.wait()
        await then()
        stopped.set()

    async with trio.open_nursery() as outer, trio.open_nursery() as embedding:
        node = await embedding.start(roger.serve, config)
        outer.start_soon(wait_and_do, node)
        yield node
        embedding.cancel_scope.cancel()
    assert stopped.is_set()


async def nothing_on_loan(outsider: Outsider, setup: Setup) -> bool:
    """Tell whether the partition's queue is empty, now that nobody has any of it on loan."""
    work, redelivered, _ = setup.names()
    return not any([(await outsider.count(each)).messages for each in (work, redelivered)])


@on_every_broker
async def test_cancelling_the_embedding_nursery_is_graceful(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Jobs finish and are settled, each ran once, and what came meanwhile was not begun."""
    total = 10
    config = setup.config({"default": total}, shutdown_timeout=30)
    async with roger.connect(setup.client_config()) as client:

        async def let_go() -> None:
            await client.enqueue(note.job(hub.name, "late"), setup.partition)
            hub.gate.set()

        jobs = [hold.job(hub.name, str(n)) for n in range(total)]
        with trio.fail_after(30):
            async with when_stopping(config, let_go) as node:
                await node.enqueue_many(jobs, setup.partition)
                await hub.wait("began", total)
        assert (hub.count("ended"), hub.count("cancelled"), hub.count("ran")) == (total, 0, 0)
        assert [
            each.args["tag"] for each in await client.queued_jobs(setup.partition, "default")
        ] == ["late"]
    async with serving(config) as node:
        with trio.fail_after(10):
            await hub.wait("ran", tag="late")
        await node.drain()
    assert await nothing_on_loan(outsider, setup)
    assert (hub.count("began"), hub.count("ran")) == (total, 1)


@on_every_broker
async def test_a_job_given_back_beside_jobs_that_end_is_not_lost(setup: Setup, hub: Hub) -> None:
    """Those behind it end well in the very moment in which it is interrupted."""

    async def work() -> None:
        first = hub.count("ran") == 1
        hub.tell("began")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if first:
                raise

    hub.extra["do"] = work
    config = setup.config({"default": 6}, shutdown_timeout=0.1)
    with trio.fail_after(30):
        async with serving(config) as node:
            for number in range(6):
                await node.enqueue(do.job(hub.name, str(number)), setup.partition)
                await hub.wait("began", number + 1)
    assert await left_in(setup) == [("0", 0, 0)]


@on_every_broker
async def test_a_job_that_fails_as_the_node_stops_is_buried_once(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """What follows a job is published and settled during the shutdown, too."""
    total = 5

    async def fail() -> None:
        hub.tell("began")
        await hub.gate.wait()
        raise ValueError("as it stops")

    async def let_go() -> None:
        hub.gate.set()

    hub.extra["do"] = fail
    config = setup.config({"default": total}, shutdown_timeout=30, retry_levels=())
    with trio.fail_after(30):
        async with when_stopping(config, let_go) as node:
            jobs = [do.job(hub.name, str(n)) for n in range(total)]
            await node.enqueue_many(jobs, setup.partition)
            await hub.wait("began", total)
    assert await nothing_on_loan(outsider, setup)
    assert (await outsider.count(setup.names()[2])).messages == total


@on_every_broker
@pytest.mark.parametrize("timeout", [0, 0.2])
async def test_ten_shutdowns_in_a_row_spend_no_attempt_of_a_long_job(
    setup: Setup, hub: Hub, timeout: float
) -> None:
    """Nor do they count as deaths: it is never buried, and ends when it is let."""
    config = setup.config({"default": 2}, shutdown_timeout=timeout, max_deliveries=2)
    for turn in range(1, 11):
        with trio.fail_after(15):
            async with serving(config) as node:
                if turn == 1:
                    await node.enqueue(hold.job(hub.name, "long"), setup.partition)
                await hub.wait("began", turn)
                [envelope] = (await node.running_jobs(setup.partition))[node.name]
                assert (envelope.retry_count, envelope.deaths) == (0, 0)
        assert hub.count("cancelled") == turn
    assert await left_in(setup) == [("long", 0, 0)]
    hub.gate.set()
    async with serving(config) as node:
        with trio.fail_after(15):
            await hub.wait("ended")
            await node.drain()
    assert hub.count("began") == 11
    assert not hub.twice
    assert await left_in(setup) == []


@on_every_broker
@pytest.mark.parametrize("hook", ["before_run", "after_run", "on_error", "on_buried"])
async def test_a_callback_that_hangs_holds_up_the_end_for_a_while_only(
    setup: Setup, hub: Hub, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled in the end; a job that had ended is settled, one that had not given back."""
    monkeypatch.setattr("roger_trio._tree.partition.CLEAN_UP_TIMEOUT", 0.3)

    async def hang(*args: object) -> None:
        hub.tell("hangs")
        await trio.sleep_forever()

    async def end() -> None:
        if hook in {"on_error", "on_buried"}:
            raise ValueError

    hub.extra["do"] = end
    callbacks = roger.Callbacks()
    setattr(callbacks, hook, hang)
    levels = (0.5,) if hook == "on_error" else ()
    config = setup.config(shutdown_timeout=0.1, callbacks=callbacks, retry_levels=levels)
    with trio.fail_after(10):
        async with serving(config) as node:
            await node.enqueue(do.job(hub.name, "x"), setup.partition)
            await hub.wait("hangs")
            began = trio.current_time()
    assert trio.current_time() - began < 5
    expected = {"before_run": (0, [("x", 0, 0)]), "on_error": (1, [("x", 1, 0)])}
    runs, left = expected.get(hook, (1, []))
    assert hub.count("ran") == runs
    async with roger.connect(setup.client_config()) as client:

        async def is_left() -> bool:
            found = await client.queued_jobs(setup.partition, "default")
            return [(each.args["tag"], each.retry_count, each.deaths) for each in found] == left

        await eventually(is_left)
        buried = await client.buried_jobs(setup.partition, "default")
    assert len(buried) == (hook == "on_buried")


@on_every_broker
async def test_a_thread_is_left_behind_and_its_job_given_back(setup: Setup, hub: Hub) -> None:
    """A node does not wait for what it cannot stop longer than for any job."""
    release = hub.extra["release"] = threading.Event()
    try:
        with trio.fail_after(10):
            async with serving(setup.config(shutdown_timeout=0.2)) as node:
                await node.enqueue(in_thread.job(hub.name, "t"), setup.partition)
                await hub.wait("began")
        assert hub.count("ended") == 0
        assert await left_in(setup) == [("t", 0, 0)]
    finally:
        release.set()
    with trio.fail_after(10):
        await hub.wait("ended")


@on_every_broker
async def test_cleanup_gets_its_time_after_the_jobs_time_is_over(setup: Setup, hub: Hub) -> None:
    """A `finally` that needs a moment, and the broker, is not cut off; the job comes back."""

    @roger.job(name="promises:tidies_up")
    async def tidies_up(tag: str) -> None:
        here = HUBS[hub.name]
        here.tell("began")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await note.job(hub.name, "from the cleanup").enqueue(setup.partition)
                here.tell("tidy")

    with trio.fail_after(15):
        async with serving(setup.config(shutdown_timeout=0.1)) as node:
            await node.enqueue(tidies_up.job("t"), setup.partition)
            await hub.wait("began")
    assert hub.count("tidy") == 1
    assert await left_in(setup) == [("from the cleanup", 0, 0), ("t", 0, 0)]


@on_every_broker
async def test_a_stop_in_the_middle_of_the_start_ends_both(setup: Setup) -> None:
    """At whatever step the cancellation comes, nothing hangs and nothing fails."""
    for steps in range(0, 120, 8):
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(roger.serve, setup.config({"default": 1}))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
