"""Promise 10: a job outlives its connection, runs on one node at once, and is never lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import roger_trio as roger
from roger_trio._control.asking import DEAD_AFTER
from tests.apps import keyed as app
from tests.promises.support import (
    Hub,
    Keyed,
    Outsider,
    Program,
    Setup,
    Told,
    do,
    drop_connections,
    eventually,
    held,
    hold,
    in_thread,
    note,
    on_every_broker,
    program,
    serving,
)
from tests.proxy import Proxy


@contextlib.asynccontextmanager
async def proxied(setup: Setup) -> AsyncGenerator[tuple[Proxy, Setup]]:
    """Put a proxy between RabbitMQ and those who are set up by what is yielded."""
    parts = urlsplit(setup.url)
    proxy = Proxy(parts.hostname or "", parts.port or 5672)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        address = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        yield proxy, attrs.evolve(setup, url=parts._replace(netloc=address).geturl())
        nursery.cancel_scope.cancel()


async def nothing_left(outsider: Outsider, setup: Setup) -> bool:
    """Whether no job is in the queue any more, nor on its way back."""
    counts = [(await outsider.count(each)).messages for each in setup.names()[:2]]
    return not any(counts)


async def came_back(node: roger.Node, hub: Hub, setup: Setup) -> None:
    """Wait until a node consumes again after it has lost its connections."""
    tag = f"after {len(hub.log)}"
    await node.enqueue(note.job(hub.name, tag), setup.partition)
    await hub.wait("ran", tag=tag)


# On one node...


@on_every_broker
async def test_a_running_job_goes_on_through_lost_connections(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """It never starts again, and is settled with the delivery that came back last."""
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            await node.enqueue(Keyed(hub.name, "x", act="hold"), setup.partition)
            await hub.wait("began")
            for _ in range(3):
                await drop_connections(node)
                await came_back(node, hub, setup)
            hub.gate.set()
            await hub.wait("after_run", tag="x")
            await eventually(lambda: nothing_left(outsider, setup))
        assert not await node.buried_jobs(setup.partition, "default")
    assert (hub.count("began", "x"), hub.count("cancelled", "x")) == (1, 0)
    assert hub.count("after_run", "x") == 1


@on_every_broker
async def test_jobs_without_their_deliveries_leave_no_room_for_others(
    setup: Setup, hub: Hub
) -> None:
    """Promise 2: they count as running, before and after their deliveries are back."""
    async with serving(setup.config({"default": 2, "other": 1})) as node:
        with trio.fail_after(40):
            for tag in "ab":
                await node.enqueue(hold.job(hub.name, tag), setup.partition)
            await hub.wait("began", 2)
            for _ in range(2):
                await drop_connections(node)
                for tag in "cd":
                    await node.enqueue(hold.job(hub.name, tag), setup.partition)
                await node.enqueue(note.job(hub.name), setup.partition, queue="other")
                await hub.wait("ran", hub.count("ran") + 1)
                running = (await node.running_jobs(setup.partition))[node.name]
                assert sorted(each.args["tag"] for each in running) == ["a", "b"]
            hub.gate.set()
            await hub.wait("ended", 6)
    assert hub.most == 2
    assert (hub.count("began", "a"), hub.count("began", "b")) == (1, 1)


@pytest.mark.parametrize("ending", ["return", "fail", "snooze", "bury", "discard"])
async def test_a_job_that_ends_while_its_node_is_cut_off_does_not_run_again(
    setup: Setup, hub: Hub, outsider: Outsider, ending: str
) -> None:
    """What follows from its end happens once, as soon as the node is connected again."""
    errors: dict[str, Exception] = {
        "fail": ValueError("no"),
        "snooze": roger.Snooze(0.5),
        "bury": roger.Bury("enough"),
        "discard": roger.Discard(),
    }
    ends = trio.Event()

    async def act() -> None:
        ends.set() if hub.count("ran", "x") > 1 else await hub.gate.wait()
        if hub.count("ran", "x") == 1 and ending in errors:
            raise errors[ending]

    hub.extra["do"] = act
    async with proxied(setup) as (proxy, far):
        config = far.config(callbacks=Told(), retry_levels=(0.5,))
        async with serving(config) as node:
            with trio.fail_after(40):
                await node.enqueue(do.job(hub.name, "x"), setup.partition)
                await hub.wait("ran")
                proxy.refusing = True
                proxy.cut()
                await eventually(lambda: _is_away(node))
                hub.gate.set()
                if ending in ("return", "discard"):
                    await eventually(lambda: _is_idle(node, setup))
                proxy.refusing = False
                await came_back(node, hub, setup)
                if ending in ("fail", "snooze"):
                    await ends.wait()
                await eventually(lambda: nothing_left(outsider, setup))
                buried = await node.buried_jobs(setup.partition, "default")
                await node.drain()
    assert len(buried) == (ending == "bury")
    assert hub.count("ran", "x") == (2 if ending in ("fail", "snooze") else 1)
    assert hub.count("on_error", "x") == (ending == "fail")


async def _is_away(client: roger.Client) -> bool:
    return not client._broker.is_connected


async def _is_idle(node: roger.Node, setup: Setup) -> bool:
    return not node._own_jobs(setup.partition)[setup.partition]


@on_every_broker
async def test_keys_stay_with_a_job_that_lost_its_delivery(setup: Setup, hub: Hub) -> None:
    """Nobody else gets its execution key, its queue key is taken, and both are free at its end."""
    partition = setup.partition
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            first = await node.enqueue(Keyed(hub.name, "1", "q", "e", "hold"), partition)
            await hub.wait("began")
            await node.enqueue(Keyed(hub.name, "2", None, "e"), partition)
            for _ in range(2):
                await drop_connections(node)
                with pytest.raises(roger.DuplicateJob):
                    await node.enqueue(Keyed(hub.name, "3", "q"), partition)
                await came_back(node, hub, setup)
                assert await held(node, partition) == {"q": first.id, "e": first.id}
            hub.gate.set()
            await hub.wait("after_run", tag="2")
            await eventually(lambda: _no_keys(node, partition))
    assert [tag for what, tag in hub.log if what == "began"] == ["1", "2"]
    assert hub.overlapped == set()


async def _no_keys(node: roger.Client, partition: str) -> bool:
    return not await held(node, partition)


@on_every_broker
async def test_a_job_that_has_its_delivery_back_can_be_cancelled(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """And is over with that."""
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            sent = await node.enqueue(Keyed(hub.name, "x", act="hold"), setup.partition)
            await hub.wait("began")
            await drop_connections(node)
            await came_back(node, hub, setup)
            assert await node.cancel(sent.id, setup.partition) is roger.CancelResult.STOPPED
            await eventually(lambda: nothing_left(outsider, setup))
    assert (hub.count("began", "x"), hub.count("on_cancel", "x")) == (1, 1)


async def test_a_job_without_its_delivery_can_be_cancelled(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Its queue is paused, so that its delivery does not come back; then it is met as cancelled."""
    async with serving(setup.config(callbacks=Told())) as node:
        with trio.fail_after(40):
            sent = await node.enqueue(Keyed(hub.name, "x", act="hold"), setup.partition)
            await hub.wait("began")
            await node.pause(setup.partition, "default")
            await drop_connections(node)
            await eventually(lambda: _is_ready(outsider, setup, 1))
            assert await node.cancel(sent.id, setup.partition) is roger.CancelResult.STOPPED
            await hub.wait("on_cancel")
            await node.resume(setup.partition, "default")
            await eventually(lambda: nothing_left(outsider, setup))
    assert (hub.count("began", "x"), hub.count("on_cancel", "x")) == (1, 1)


async def _is_ready(outsider: Outsider, setup: Setup, count: int) -> bool:
    return (await outsider.count(setup.names()[0])).messages == count


@on_every_broker
async def test_a_deadline_holds_for_a_job_that_lost_its_delivery(setup: Setup, hub: Hub) -> None:
    """It counts from the start of the attempt, whatever became of the connection."""

    @roger.job(name=f"loss:limited {hub.name}", max_execution_time=1.5)
    async def limited() -> None:
        hub.tell("began")
        try:
            await trio.sleep_forever()
        finally:
            hub.tell("stopped")

    async with serving(setup.config()) as node:
        with trio.fail_after(30):
            await node.enqueue(limited.job(), setup.partition)
            await hub.wait("began")
            await drop_connections(node)
            await hub.wait("stopped")
            await node.drain()
    [began], [ended] = hub.times["began", ""], hub.times["stopped", ""]
    assert 1.5 <= ended - began < 3


@on_every_broker
async def test_shutdown_waits_for_a_job_without_its_delivery_and_then_cancels_it(
    setup: Setup, hub: Hub
) -> None:
    """As for others; then another node runs it, and no death is counted."""
    config = setup.config(shutdown_timeout=0.5, max_deliveries=1)
    with trio.fail_after(40):
        async with serving(config) as node:
            for tag in ("short", "long"):
                await node.enqueue(Keyed(hub.name, tag, act=tag), setup.partition)
                hub.extra[tag] = hub.gate.wait if tag == "short" else trio.sleep_forever
            await hub.wait("began", 2)
            await drop_connections(node)
            hub.gate.set()
        assert hub.count("began") == 2
        hub.extra["short"] = hub.extra["long"] = trio.lowlevel.checkpoint
        async with serving(setup.config(callbacks=Told(), max_deliveries=1)) as node:
            await hub.wait("after_run", tag="long")
            assert not await node.buried_jobs(setup.partition, "default")


@on_every_broker
async def test_a_thread_that_lost_its_connection_is_not_joined_by_its_copy(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Promise 10 for plain functions: it has its delivery back, and runs once."""
    hub.extra["release"] = threading.Event()
    async with serving(setup.config({"default": 4})) as node:
        await node.enqueue(in_thread.job(hub.name, "t"), setup.partition)
        with trio.fail_after(30):
            await hub.wait("began")
            await drop_connections(node)
            await came_back(node, hub, setup)
            assert hub.count("began") == 1
            hub.extra["release"].set()
            await hub.wait("ended")
            await eventually(lambda: nothing_left(outsider, setup))
    assert [what for what, tag in hub.log if tag == "t"] == ["began", "ended"]


# On several nodes...


@contextlib.asynccontextmanager
async def keyed(setup: Setup, **options: object) -> AsyncGenerator[Program]:
    """Run a node in a process of its own."""
    async with program(setup, app="tests.apps.keyed", **options) as node:
        await node.wait("ready")
        yield node


async def _settled_on(client: roger.Client, outsider: Outsider, setup: Setup) -> None:
    await eventually(lambda: nothing_left(outsider, setup))
    assert not await client.buried_jobs(setup.partition, "default")


async def test_a_job_goes_on_where_it_runs_and_has_its_delivery_back_from_another_node(
    setup: Setup, outsider: Outsider, tmp_path: Path
) -> None:
    """Three times cut off for less than a second: it never starts again, and has died no death."""
    lock = str(tmp_path / "lock")
    async with (
        roger.connect(setup.config()) as client,
        proxied(setup) as (near, near_setup),
        proxied(setup) as (far, far_setup),
        keyed(near_setup, max_deliveries=1) as first,
        keyed(far_setup, max_deliveries=1) as second,
    ):
        with trio.fail_after(60):
            sent = await client.enqueue(app.Keyed("x", act="hold", lock=lock), setup.partition)
            runs = await _runs_on(first, second)
            for _ in range(3):
                (near if runs is first else far).cut()
                await eventually(lambda: _answer(client, 2))
            assert await client.cancel(sent.id, setup.partition) is roger.CancelResult.STOPPED
            await _settled_on(client, outsider, setup)
    assert first.count("overlap") == second.count("overlap") == 0
    assert first.count("hold") + second.count("hold") == 1


async def _runs_on(*nodes: Program) -> Program:
    """Wait until one of several nodes runs the job; return it."""
    found: list[Program] = []

    async def look() -> bool:
        found[:] = [each for each in nodes if each.count("hold") > each.count("cleanup")]
        return len(found) == 1

    await eventually(look)
    return found[0]


async def _answer(client: roger.Client, count: int) -> bool:
    return sum(each.answering for each in (await client.nodes()).values()) == count


@on_every_broker
async def test_a_job_that_ended_without_its_delivery_is_not_run_by_the_node_that_gets_that(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """That node asks, and settles it."""
    config = setup.config({"default": 2, "other": 1}, callbacks=Told())
    with trio.fail_after(40):
        async with serving(config) as first:
            await first.enqueue(Keyed(hub.name, "x", act="hold"), setup.partition)
            await hub.wait("began")
            await first.reconfigure(setup.partition, {"other": 1})
            await drop_connections(first)
            await eventually(lambda: _is_ready(outsider, setup, 1))
            hub.gate.set()
            await hub.wait("after_run")
            async with roger.connect(config) as client:
                await eventually(lambda: _answer(client, 1))  # One that is away nobody can ask.
            async with serving(config) as second:
                await second.enqueue(note.job(hub.name), setup.partition)
                await hub.wait("ran")
                await _settled_on(second, outsider, setup)
    assert (hub.count("began", "x"), hub.count("after_run", "x")) == (1, 1)


async def test_a_frozen_node_stops_its_job_as_soon_as_it_can_hear_that_another_has_it(
    setup: Setup, outsider: Outsider, tmp_path: Path
) -> None:
    """While it is frozen it cannot be asked; the other node runs the job, and goes on with it."""
    lock = str(tmp_path / "lock")
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(60):
            async with keyed(setup, heartbeat=2) as first:
                sent = await client.enqueue(app.Keyed("x", act="hold", lock=lock), setup.partition)
                await first.wait(f"hold x {sent.id}")
                async with keyed(setup) as second:
                    first.freeze()
                    await second.wait(f"hold x {sent.id}")
                    first.thaw()
                    await first.wait("cleanup x")
                    assert second.count("cleanup") == 0
                    cancelled = await client.cancel(sent.id, setup.partition)
                    assert cancelled is roger.CancelResult.STOPPED
                    await _settled_on(client, outsider, setup)
                    assert (first.count("hold"), second.count("hold")) == (1, 1)


async def test_a_node_that_was_cut_off_stops_what_another_took_over(
    setup: Setup, tmp_path: Path
) -> None:
    """The other one waits a second for it; it asks when it is back."""
    async with (
        roger.connect(setup.config()) as client,
        proxied(setup) as (proxy, far),
        keyed(far) as first,
    ):
        with trio.fail_after(60):
            sent = await client.enqueue(app.Keyed("x", act="hold"), setup.partition)
            await first.wait(f"hold x {sent.id}")
            async with keyed(setup) as second:
                proxy.refusing = True
                cut = trio.current_time()
                proxy.cut()
                await second.wait(f"hold x {sent.id}")
                assert trio.current_time() - cut >= DEAD_AFTER
                assert first.count("cleanup") == 0
                proxy.refusing = False
                await first.wait("cleanup x")
                assert second.count("cleanup") == 0


async def test_a_node_that_is_cut_off_gives_up_an_execution_key_before_another_has_it(
    setup: Setup, tmp_path: Path
) -> None:
    """Neither its job, nor the next one with that key, runs elsewhere beside it."""
    # A node behind a proxy has another broker, as far as state in files is concerned.
    lock, here = str(tmp_path / "lock"), {"state_in_broker": True}
    jobs = [app.Keyed(tag, None, "e", "hold", lock) for tag in "xy"]
    async with (
        roger.connect(setup.config()) as client,
        proxied(setup) as (proxy, far),
        keyed(far, **here) as first,
    ):
        with trio.fail_after(60):
            for job in jobs:
                sent = await client.enqueue(job, setup.partition)
                await first.wait("hold x")
            async with keyed(setup, **here) as second:
                proxy.refusing = True
                proxy.cut()
                await second.wait("hold x")
                assert first.count("cleanup x") == 1
                assert second.count("overlap") == 0
                proxy.refusing = False
                [x] = [each for each in await _running_ids(client, setup) if each != sent.id]
                await client.cancel(x, setup.partition)
                await _waits_for(first, second, "hold y")
    assert first.count("overlap") + second.count("overlap") == 0


async def _running_ids(client: roger.Client, setup: Setup) -> list[str]:
    running = await client.running_jobs(setup.partition)
    return [each.id for found in running.values() for each in found]


async def _waits_for(first: Program, second: Program, line: str) -> None:
    async def there() -> bool:
        return bool(first.count(line) + second.count(line))

    await eventually(there)


# Enqueueing meanwhile...


@pytest.mark.parametrize("key", [None, "q"])
async def test_enqueue_waits_for_a_broker_that_comes_back_in_time(
    setup: Setup, hub: Hub, key: str | None
) -> None:
    """It returns once it is confirmed, and the job runs once."""
    async with (
        proxied(setup) as (proxy, far),
        serving(setup.config(callbacks=Told())) as node,
        roger.connect(far.config(enqueue_timeout=15.0)) as client,
    ):
        with trio.fail_after(40):
            await client.enqueue(Keyed(hub.name, "before"), setup.partition)
            proxy.refusing = True
            proxy.cut()
            await eventually(lambda: _is_away(client))
            async with trio.open_nursery() as nursery:
                job = Keyed(hub.name, "x", key)
                nursery.start_soon(client.enqueue, job, setup.partition)
                await wait_all_tasks_blocked(0.05)
                assert hub.count("began", "x") == 0
                proxy.refusing = False
            await hub.wait("after_run", tag="x")
            await node.drain()
            await eventually(lambda: _no_keys(node, setup.partition))
    assert hub.count("began", "x") == 1


@pytest.mark.parametrize("key", [None, "q"])
@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_enqueue_tells_in_time_that_it_was_not_confirmed_and_leaks_no_key(
    setup: Setup, hub: Hub, fault: str, key: str | None
) -> None:
    """The job may be there or not; a key that it claimed is held by a job, or is free."""
    timeout = 1.5
    errors = (roger.BrokerUnavailable, *([roger.PartitionNotRunning] if key else []))
    async with (
        proxied(setup) as (proxy, far),
        serving(setup.config(callbacks=Told())) as node,
        roger.connect(far.config(enqueue_timeout=timeout)) as client,
    ):
        with trio.fail_after(60):
            await client.enqueue(Keyed(hub.name, "before", "b"), setup.partition)
            await hub.wait("after_run", tag="before")
            if fault == "cut":
                proxy.refusing = True
                proxy.cut()
                await eventually(lambda: _is_away(client))
            else:
                proxy.stall()
            began = trio.current_time()
            with pytest.raises(errors):
                await client.enqueue(Keyed(hub.name, "x", key), setup.partition)
            assert timeout - 0.1 <= trio.current_time() - began < timeout + 1
            proxy.refusing = False
            proxy.flow()
            await eventually(lambda: _is_there(client))
            # Asked by the client: behind its claim, which may only now get through, and its word
            # that nothing comes of it.
            await eventually(lambda: _no_keys(client, setup.partition))
            await node.enqueue(Keyed(hub.name, "next", key), setup.partition)
            await hub.wait("after_run", tag="next")
            await eventually(lambda: _no_keys(node, setup.partition))
    assert hub.count("began", "x") <= 1


async def _is_there(client: roger.Client) -> bool:
    return client._broker.is_connected
