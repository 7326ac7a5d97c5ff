"""One run: the system is started, loaded, broken, healed, drained, and asked what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import trio

import roger_trio as roger
from benchmarks import environment

from . import faults
from .jobs import Work
from .journal import Event, Reader, in_order
from .load import PARTITIONS, SERIAL_KEYS, UNIQUE_KEYS
from .node import make_config
from .schedule import Fault, plan_faults
from .system import Settings, System, open_system
from .verdict import Left

START_WITHIN: Final = 60.0
"""Seconds that all nodes may take to be ready."""
FINISH_WITHIN: Final = 60.0
"""Seconds that the enqueuers may take to have all answers."""
DRAIN_WITHIN: Final = 90.0
"""Seconds after the last fault in which all queues must be empty."""
KEYS_WITHIN: Final = 20.0
"""Seconds in which all keys must be free then: a claim that was never made firm takes ten."""
PROBE_WITHIN: Final = 30.0
"""Seconds in which the suite's own jobs must be done."""
OLD_ENOUGH: Final = 2.0
"""Seconds that all queues are old at least when the faults begin."""


@attrs.frozen
class Record:
    """All there is to know of a run."""

    settings: Settings
    faults: list[Fault]
    events: list[Event]
    left: Left
    drained: float
    """Seconds from the end of the faults until all queues were empty."""
    version: str
    """What the broker calls itself."""
    busy: float | None
    """The share of the processors that others used just before, from 0 to 1; None: unknown."""


async def run(settings: Settings) -> Record:
    """Make a run."""
    schedule = plan_faults(settings.seed, settings.duration, settings.broker)
    busy = await trio.to_thread.run_sync(environment.busy_share, 2.0)
    async with open_system(settings) as system:
        reader = Reader(settings.folder / "journals")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, system, reader)
            await _begin(system)
            await _break(system, schedule)
            left, drained = await _end(system)
            nursery.cancel_scope.cancel()
        system.read(reader)
        version = system.broker.version
        events = in_order(system.events)
        return Record(settings, schedule, events, left, drained, version, busy)


async def _follow(system: System, reader: Reader) -> None:
    while True:
        system.read(reader)
        await trio.sleep(0.1)


async def _begin(system: System) -> None:
    """Start all processes; the load starts when all nodes are ready."""
    for slot in system.nodes:
        await slot.start(system.nursery)
    names = {slot.who for slot in system.nodes}
    with trio.move_on_after(START_WITHIN) as patience:
        while names - system.ready:  # noqa: ASYNC110 -- they send no word but their journals
            await trio.sleep(0.1)
    if patience.cancelled_caught:
        raise RuntimeError(f"the nodes did not start: see {system.settings.folder / 'logs'}")
    await _warm_up(system)
    system.start = time.monotonic()
    system.journal.note("load begins")
    for slot in system.enqueuers:
        await slot.start(system.nursery)


async def _warm_up(system: System) -> None:
    """Let all queues come into being that jobs need, and grow older than they are vulnerable.

    RabbitMQ may break for good over a quorum queue in whose first second it is killed.
    """
    async with _client(system) as client, trio.open_nursery() as nursery:
        for partition in PARTITIONS:
            for number, delay in enumerate((None, None, 0.2)):
                id = f"warm-{partition}-{number}"
                job = Work(seconds=0.5, serial="warm")
                facts: dict[str, Any] = {"seconds": 0.5, "serial": "warm", "delay": delay}
                _note_order(system, id, partition, facts)
                await client.enqueue(job, partition, id=id, delay=delay)
                system.journal.note("accepted", id)
                nursery.start_soon(_wait_done, system, id)
    await trio.sleep(OLD_ENOUGH)


async def _wait_done(system: System, id: str) -> None:
    with trio.move_on_after(PROBE_WITHIN):
        while not any(x.what == "after_run" and x.job == id for x in system.events):  # noqa: ASYNC110
            await trio.sleep(0.2)


def _note_order(system: System, id: str, partition: str, facts: Mapping[str, Any]) -> None:
    """Write down that the suite itself enqueues a job."""
    ordinary: dict[str, Any] = {
        "kind": "probe", "partition": partition, "queue": "default", "seconds": 0.0, "fails": 0,
        "delay": None, "unique": None, "serial": None, "promise": "done",
    }  # fmt: skip
    system.journal.note("send", id, **{**ordinary, **facts})


def _client(system: System) -> AbstractAsyncContextManager[roger.Client]:
    return roger.connect(make_config({"broker": system.broker.url("")}))


async def _break(system: System, schedule: list[Fault]) -> None:
    """Carry all faults out, each at its time, and wait until all are healed."""
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for fault in schedule:
            await trio.sleep_until(begin + fault.at)
            nursery.start_soon(faults.carry_out, system, fault)
    system.journal.note("faults end")


async def _end(system: System) -> tuple[Left, float]:
    """Let all jobs end, and look at what is left; then stop the nodes."""
    with trio.move_on_after(FINISH_WITHIN):
        for slot in system.enqueuers:
            await slot.wait_ended()
    began = time.monotonic()
    left = await _drain(system)
    drained = time.monotonic() - began
    async with _client(system) as client:
        keys = await _wait_keys_free(client)
        not_free = await _try_keys(system, client)
        left = left or await _drain(system)
        buried = await _read_buried(client)
    async with trio.open_nursery() as nursery:
        for slot in system.nodes:
            nursery.start_soon(slot.stop)
    return Left(left, keys, not_free, buried), drained


async def _drain(system: System) -> dict[str, int]:
    """Wait until all queues are empty, and stay so; return what is left."""
    left: dict[str, int] = {}
    with trio.move_on_after(DRAIN_WITHIN):
        empty_since = trio.current_time()
        while trio.current_time() < empty_since + system.broker.counts_lag:
            if left := await system.broker.left():
                empty_since = trio.current_time()
            await trio.sleep(0.5)
        return {}
    return left


async def _wait_keys_free(client: roger.Client) -> list[tuple[str, str, str]]:
    held: list[tuple[str, str, str]] = []
    for partition in PARTITIONS:
        with trio.move_on_after(KEYS_WITHIN) as patience:
            while keys := await _keys(client, partition):  # noqa: ASYNC110 -- it sends no word
                await trio.sleep(0.5)
        if patience.cancelled_caught:
            held += keys
    return held


async def _keys(client: roger.Client, partition: str) -> list[tuple[str, str, str]]:
    try:
        return [(partition, each.key, each.job_id) for each in await client.keys(partition)]
    except roger.RogerError as exc:
        return [(partition, f"nobody knows which one ({exc})", "")]


async def _try_keys(system: System, client: roger.Client) -> list[str]:
    """Enqueue a job with each key; return those of which it cannot be done."""
    not_free: list[str] = []
    wanted: set[str] = set()
    for partition in PARTITIONS:
        for number, unique in enumerate(UNIQUE_KEYS):
            serial = SERIAL_KEYS[number % len(SERIAL_KEYS)]
            id = f"probe-{partition}-{unique}"
            _note_order(system, id, partition, {"unique": unique, "serial": serial})
            try:
                await client.enqueue(Work(unique=unique, serial=serial), partition, id=id)
            except roger.RogerError as exc:
                not_free.append(f"{partition}: {exc!r}")
            else:
                system.journal.note("accepted", id)
                wanted.add(id)
    with trio.move_on_after(PROBE_WITHIN):
        while wanted - {each.job for each in system.events if each.what == "after_run"}:  # noqa: ASYNC110
            await trio.sleep(0.2)
    return not_free


async def _read_buried(client: roger.Client) -> dict[str, str]:
    found: dict[str, str] = {}
    for partition, queues in PARTITIONS.items():
        for queue in queues:
            for each in await client.buried_jobs(partition, queue, limit=100_000):
                error = each.error
                found[each.id] = f"{error.type}: {error.message}" if error else ""
    return found
