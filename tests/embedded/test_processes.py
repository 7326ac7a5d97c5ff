"""Several processes at one file: who gets what when one dies, stops, or speaks."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from roger_trio._brokers.base import Broker, BrokerError, Message
from tests.conformance.kit import Inbox, bodies, messages, settles_at

from . import children
from .children import Child, child, running


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where the file is made."""
    return str(tmp_path / "roger.db")


async def _ready(broker: Broker, queue: str) -> int:
    return (await broker.count(queue)).messages


async def test_the_dead_give_back_at_once_and_the_stopped_do_not(path: str) -> None:
    """A killed process's messages go to another within a second; a stopped one's stay with it."""
    inbox = Inbox()
    async with running(path, "q") as broker:
        await broker.publish_many("q", messages(6))
        with (
            child(children.consume_and_keep, path, "q", 3) as dying,
            child(children.consume_and_keep, path, "q", 3) as stopping,
        ):
            theirs = {each: [each.read_line() for _ in range(4)] for each in (dying, stopping)}
            stopping.signal(signal.SIGSTOP)
            async with broker.open_channel() as channel:
                await channel.subscribe("q", prefetch=6, on_delivery=inbox.put)
                dying.kill()
                await inbox.wait(3, within=1.0)
                assert {each.body.decode() for each in inbox.deliveries} < set(theirs[dying])
                assert all(each.redelivered for each in inbox.deliveries)
                with trio.move_on_after(1.0):
                    await inbox.wait(4)
                assert len(inbox.deliveries) == 3
                stopping.kill()
                await inbox.wait(6, within=1.0)
    assert sorted(inbox.bodies) == bodies(messages(6))


async def test_a_single_active_consumer_that_is_killed(path: str) -> None:
    """The next process takes over within a second, and only then."""
    async with running(path) as broker:
        with child(children.be_single, path, "s") as first:
            assert first.read_line() == "ready"
            with child(children.be_single, path, "s") as second:
                assert second.read_line() == "ready"
                for number in range(5):
                    await broker.publish("s", Message(b"%d" % number))
                    assert first.read_line() == str(number)
                first.kill()
                began = time.monotonic()
                await broker.publish("s", Message(b"after"))
                # The last one may come again: its acknowledgement was not awaited.
                assert (second.read_line().removeprefix("4") or second.read_line()) == "after"
                assert time.monotonic() - began < 1.0


async def test_broadcasts_reach_other_processes(path: str) -> None:
    """What is broadcast is heard in every process that listens; a dead one is in nobody's way."""
    async with running(path) as broker:
        with child(children.hear, path, "t") as one, child(children.hear, path, "t") as two:
            assert [one.read_line(), two.read_line()] == ["ready", "ready"]
            await broker.broadcast("t", b"1")
            assert [one.read_line(), two.read_line()] == ["1", "1"]
            one.kill()
            await broker.broadcast("t", b"2")
            assert two.read_line() == "2"


async def stop_at_rest(process: Child, broker: Broker) -> None:
    """Stop a process at a moment when it is not writing: then it would hold up everybody."""
    while True:
        process.signal(signal.SIGSTOP)
        with trio.move_on_after(1.0):
            await broker.broadcast("nobody listens", b"")
            return
        process.signal(signal.SIGCONT)


async def test_whoever_was_killed_a_moment_ago_does_not_listen(path: str) -> None:
    """A broadcast finds a stopped process listening, and a killed one not, at once."""
    async with running(path) as broker:
        for _ in range(5):
            with child(children.hear, path, "t") as one:
                assert one.read_line() == "ready"
                assert await broker.broadcast("t", b"1") is True
                await stop_at_rest(one, broker)
                assert await broker.broadcast("t", b"2") is True
                one.kill()
                assert await broker.broadcast("t", b"3") is False
        assert await broker.broadcast("t", b"4") is False


async def test_what_a_killed_single_consumer_had_comes_in_order(path: str) -> None:
    """The next consumer gets all that the killed one had not settled, at once and in order."""
    inbox = Inbox()
    async with running(path) as broker:
        with child(children.hold_single, path, "s") as first:
            assert first.read_line() == "ready"
            await broker.publish_many("s", messages(1500))
            assert [first.read_line() for _ in range(1500)][-1] == "1499"
            async with broker.open_channel() as channel:
                await channel.subscribe("s", prefetch=65_535, on_delivery=inbox.put)
                await broker.publish("s", Message(b"1500"))
                assert first.read_line() == "1500"
                assert inbox.deliveries == []
                first.kill()
                began = time.monotonic()
                await inbox.wait(1)
                took = time.monotonic() - began
                await inbox.wait(1501)
    print(f"{took * 1000:.1f} ms")  # noqa: T201
    assert took < 1.0
    assert [int(each) for each in inbox.bodies] == list(range(1501))


async def test_a_process_dies_between_commit_and_call(path: str) -> None:
    """A message that was committed by a process which died before it told of it is delivered."""
    inbox = Inbox(ack=True)
    async with running(path, "q") as broker, broker.open_channel() as channel:
        await channel.subscribe("q", prefetch=1, on_delivery=inbox.put)
        await settles_at(0, lambda: _ready(broker, "q"))
        with child(children.publish_and_die, path) as dying:
            dying.process.join()
        await inbox.wait(1, within=1.0)


async def test_an_idle_worker_starts_within_moments(path: str) -> None:
    """A job enqueued by another process is with an idle worker within 10 ms; loosely, here."""
    latencies: list[float] = []
    with child(children.echo, path, "q") as worker:
        assert worker.read_line() == "ready"
        async with running(path, "q") as broker:
            for _ in range(50):
                began = time.monotonic()
                await broker.publish("q", Message(b""))
                latencies.append(float(worker.read_line()) - began)
    median = statistics.median(latencies)
    print(f"median {median * 1000:.2f} ms, worst {max(latencies) * 1000:.2f} ms")  # noqa: T201
    assert median < 0.05


async def test_an_idle_process_rests(path: str) -> None:
    """With ten queues and nothing to do a process takes less than 1 % of a core; loosely, here."""
    with child(children.idle, path, 10) as idler:
        assert idler.read_line() == "ready"
        before = cpu_seconds(idler.pid)
        await trio.sleep(3)
        used = (cpu_seconds(idler.pid) - before) / 3
    print(f"{used:.2%} of a core")  # noqa: T201
    assert used < 0.03


def cpu_seconds(pid: int) -> float:
    """Return what a process has used, from the scheduler: finer than a tick."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 + sum(
        int(each.read_text().split()[0]) / 1e9
        for each in Path(f"/proc/{pid}/task").glob("*/schedstat")
        if each.parent.name != str(pid)
    )


async def test_a_long_queue_costs_no_more(path: str) -> None:
    """With 200,000 messages waiting, publishing and claiming take what they take with few."""
    async with running(path, "q") as broker:
        few = await _round_trip(broker)
        for _ in range(20):
            await broker.publish_many("q", [Message(b"x" * 100)] * 10_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        many = await _round_trip(broker)
        began = time.process_time()
        assert (await broker.count("q")).messages >= 190_000
        assert time.process_time() - began < 0.5
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert many < few * 3
    assert grown < 50_000  # Kilobytes: less than the messages are.


async def _round_trip(broker: Broker) -> float:
    """Publish and consume 2,000 messages, three times; return the best time."""
    times: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        inbox = Inbox(ack=True)
        for _ in range(20):
            await broker.publish_many("q", [Message(b"x" * 100)] * 100)
        async with broker.open_channel() as channel:
            await channel.subscribe("q", prefetch=100, on_delivery=inbox.put)
            await inbox.wait(2000)
            await channel.flush()
        times.append(time.monotonic() - began)
    return min(times)


async def test_one_whose_files_were_removed_comes_back(path: str) -> None:
    """Taken for dead because its lock is gone, a process loses no message, and is there again."""
    inbox, again = Inbox(), trio.Event()
    async with running(path, "q") as broker, broker.listen("t", on_again=again.set) as heard:
        async with broker.open_channel() as channel:
            await channel.subscribe("q", prefetch=9, on_delivery=inbox.put)
            _remove_lock(path, os.getpid())
            # Taken for dead by who starts now, unless it was quicker.
            async with running(path) as other:
                with trio.fail_after(20):
                    await again.wait()
                await other.broadcast("t", b"x")
                with trio.fail_after(20):
                    assert await heard.receive() == b"x"
        async with running(path) as other, broker.open_channel() as channel:
            await channel.subscribe("q", prefetch=9, on_delivery=inbox.put)
            await other.publish("q", Message(b"y"))
            [delivery] = await inbox.wait(1)
            delivery.ack()
            await channel.flush()
        with child(children.consume_and_keep, path, "q", 1) as dying:
            assert dying.read_line() == "ready"
            await broker.publish("q", Message(b"z"))
            assert dying.read_line() == "z"
            _remove_lock(path, dying.pid)
            await settles_at(True, partial(_has_lock, path, dying.pid))
            dying.kill()
            await settles_at(1, partial(_ready, broker, "q"))


def _has_lock(path: str, pid: int) -> bool:
    """Tell whether a process can be found."""
    return bool(list(Path(f"{path}-processes").glob(f"{pid}-*.lock")))


def _remove_lock(path: str, pid: int) -> None:
    """Keep a process from being found."""
    for each in Path(f"{path}-processes").glob(f"{pid}-*"):
        each.unlink()


async def test_a_full_disk(path: str) -> None:
    """On a full disk a publish is refused, nothing is lost, and room makes all well."""
    with child(children.fill, path) as process:
        while (line := process.read_line()).startswith("confirmed "):
            confirmed = int(line.split()[1])
        assert line.startswith("refused: the database cannot keep it: "), line
        assert process.read_line() == "acked"
        assert process.read_line() == "confirmed again"
    async with running(path, "q") as broker:
        assert await _ready(broker, "q") == confirmed


async def test_settlements_wait_for_room(path: str) -> None:
    """What could not be settled for lack of room is settled when there is some; trouble says so."""
    async with running(path, "q") as broker:
        await broker.publish_many("q", messages(3))
        with child(children.settle_without_room, path) as process:
            line = process.read_line()
            assert line.startswith(f"sqlite:{path}: the database cannot keep it: "), line
            assert process.read_line() == "refused"
            assert process.read_line() == "settled, trouble: ''"
        assert await _ready(broker, "q") == 0


async def test_two_brokers_of_one_process(path: str) -> None:
    """Two brokers at one file in one process are as two processes: nothing is locked or lost."""
    inboxes = [Inbox(ack=True), Inbox(ack=True)]
    async with (
        running(path, "q") as one,
        running(path, "q") as two,
        one.open_channel() as first,
        two.open_channel() as second,
    ):
        await first.subscribe("q", prefetch=10, on_delivery=inboxes[0].put)
        await second.subscribe("q", prefetch=10, on_delivery=inboxes[1].put)
        async with trio.open_nursery() as nursery:
            for each in messages(200):
                nursery.start_soon((one, two)[len(each.body) % 2].publish, "q", each)
        everything = sorted(bodies(messages(200)))
        await settles_at(everything, lambda: sorted(inboxes[0].bodies + inboxes[1].bodies))


async def test_a_folder_for_processes_that_cannot_be_made(path: str) -> None:
    """What keeps processes from finding each other is refused, and named."""
    async with running(path, "q"):
        pass
    os.rmdir(f"{path}-processes")  # noqa: PTH106 -- in an async function
    Path(f"{path}-processes").touch()  # noqa: ASYNC240 -- a moment
    with pytest.RaisesGroup(BrokerError, allow_unwrapped=True) as caught:
        async with running(path, "q"):
            pass
    assert f"sqlite:{path}: {path}-processes: File exists" in repr(caught.value)
