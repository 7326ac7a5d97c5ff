"""What each fault does to the system, and how it is healed.

A fault that meets nothing it could strike, as all nodes are in the hands of others, is written down
as skipped.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from .brokers import RabbitSide
from .load import PARTITIONS
from .processes import Slot
from .recovery import watch_recovery
from .schedule import Fault
from .system import System

_SOME_ROOM: Final = 60_000
"""Bytes to which all files are held while the disk is full: less than the database has."""
_HELD_UP: Final = 0.05
"""Seconds that each chunk takes longer on a slow connection."""
_TORN_LINE: Final = b'5d1c02f3 [["KeyTaken","half of a li'
"""What a crash in the middle of a save leaves at the end of the file."""
_LONG_RUN: Final = 100.0
"""Seconds of a run from which there is time to strike nothing for a while."""
_OLD_ENOUGH: Final = 4.0
"""Seconds for which the broker is not killed after a queue was deleted: it is made anew in the
first two, and is not safe in its first one."""
_BROKER: Final = "broker"
_BROKER_FREE_WITHIN: Final = 20.0
"""Seconds that a fault waits for a broker that another one restarts."""


class Strike:
    """One fault as it is carried out: says when it began and ended, and what it struck."""

    def __init__(self, system: System, fault: Fault) -> None:
        self.system = system
        self.fault = fault
        self._target = ""

    def begin(self, target: str) -> None:
        """Write down that it begins."""
        self._target = target
        self._note("begin")

    def end(self) -> None:
        """Write down that it is healed."""
        self._note("end")

    def skip(self, why: str) -> None:
        """Write down that it met nothing."""
        self._note("skipped", why=why)

    def _note(self, phase: str, why: str = "") -> None:
        self.system.journal.note(
            "fault", number=self.fault.number, kind=self.fault.kind, target=self._target,
            phase=phase, why=why,
        )  # fmt: skip

    @property
    def rabbit(self) -> RabbitSide:
        """The broker, where it is RabbitMQ."""
        assert isinstance(self.system.broker, RabbitSide)
        return self.system.broker


Action = Callable[[Strike], Awaitable[None]]


async def carry_out(system: System, fault: Fault) -> None:
    """Carry a fault out, and heal it."""
    strike = Strike(system, fault)
    if system.is_calm:
        strike.skip("the broker's return is being measured")
        return
    await ACTIONS[fault.kind](strike)


def _on_node(action: Callable[[Strike, Slot], Awaitable[None]]) -> Action:
    """Carry out on a node that no other fault has in its hands."""

    async def act(strike: Strike) -> None:
        slot = strike.system.free_node(strike.fault.target)
        if slot is None:
            strike.skip("no node is free")
        else:
            await _hold(strike, slot, action)

    return act


def _on_enqueuer(action: Callable[[Strike, Slot], Awaitable[None]]) -> Action:
    async def act(strike: Strike) -> None:
        slot = strike.system.enqueuers[strike.fault.target]
        if slot.is_busy or not slot.is_running:
            strike.skip("the enqueuer is not free")
        else:
            await _hold(strike, slot, action)

    return act


class _CoordinatorAction(Protocol):
    """What is carried out on a node that coordinates a partition."""

    def __call__(self, strike: Strike, slot: Slot, *, partition: str) -> Awaitable[None]: ...


def _on_coordinator(action: _CoordinatorAction) -> Action:
    """Carry out on the node that coordinates a partition."""

    async def act(strike: Strike) -> None:
        system = strike.system
        partitions = list(PARTITIONS)
        first = strike.fault.target
        for partition in (*partitions[first:], *partitions[:first]):
            slot = system.node_of(system.broker.coordinator(partition, system.pids))
            if slot is not None:
                await _hold(strike, slot, functools.partial(action, partition=partition))
                return
        strike.skip("no free node is known to coordinate a partition")

    return act


async def _hold(
    strike: Strike, slot: Slot, action: Callable[[Strike, Slot], Awaitable[None]]
) -> None:
    slot.is_busy = True
    try:
        strike.begin(slot.who)
        await action(strike, slot)
        strike.end()
    finally:
        slot.is_busy = False


# Processes...


async def _kill(strike: Strike, slot: Slot) -> None:
    await slot.kill()
    await slot.start(strike.system.nursery)


async def _kill_coordinator(strike: Strike, slot: Slot, *, partition: str) -> None:
    await _kill(strike, slot)


async def _stop(strike: Strike, slot: Slot) -> None:
    await slot.stop()
    await slot.start(strike.system.nursery)


async def _freeze(strike: Strike, slot: Slot) -> None:
    slot.send(signal.SIGSTOP)
    try:
        await trio.sleep(strike.fault.lasts)
    finally:
        slot.send(signal.SIGCONT)


async def _set_clock(strike: Strike, slot: Slot) -> None:
    if slot.who in strike.system.begun:  # Before that, such a signal would end it.
        slot.send(signal.SIGUSR1 if strike.fault.number % 2 else signal.SIGUSR2)


async def _tear_state(strike: Strike, slot: Slot, *, partition: str) -> None:
    with strike.rabbit.state_locked(partition) as path:
        await slot.kill()
        if path is not None and path.exists():
            with path.open("ab") as file:
                file.write(_TORN_LINE)
    await slot.start(strike.system.nursery)


async def _fill_disk(strike: Strike) -> None:
    strike.begin("all")
    struck = [*strike.system.nodes, *strike.system.enqueuers]
    for slot in struck:
        slot.limit_files(_SOME_ROOM)
    try:
        await trio.sleep(strike.fault.lasts)
    finally:
        for slot in struck:
            slot.limit_files(None)
    strike.end()


# Connections...


async def _cut(strike: Strike, slot: Slot) -> None:
    strike.rabbit.proxies[slot.name].cut()


async def _stall(strike: Strike, slot: Slot) -> None:
    proxy = strike.rabbit.proxies[slot.name]
    proxy.stall()
    try:
        await trio.sleep(strike.fault.lasts)
    finally:
        proxy.flow()


async def _slow(strike: Strike, slot: Slot) -> None:
    proxy = strike.rabbit.proxies[slot.name]
    proxy.pace = _HELD_UP
    try:
        await trio.sleep(strike.fault.lasts)
    finally:
        proxy.pace = 0.0


# The broker...


def _on_broker(action: Callable[[Strike], Awaitable[None]]) -> Action:
    """Carry out on the broker, once no other fault has it in its hands."""

    async def act(strike: Strike) -> None:
        lock = strike.rabbit.lock
        with trio.move_on_after(_BROKER_FREE_WITHIN) as patience:
            await lock.acquire()
        if patience.cancelled_caught:
            strike.skip("the broker is not free")
            return
        try:
            strike.begin(_BROKER)
            await action(strike)
            strike.end()
        finally:
            lock.release()

    return act


async def _close_channels(strike: Strike) -> None:
    partition = list(PARTITIONS)[strike.fault.target]
    queue = f"{partition}-{next(iter(PARTITIONS[partition]))}"
    await strike.rabbit.do(lambda: strike.rabbit.close_channels(queue))


async def _delete_queue(strike: Strike) -> None:
    await strike.rabbit.do(strike.rabbit.delete_fragile)
    strike.rabbit.deleted_at = trio.current_time()


async def _raise_alarm(strike: Strike) -> None:
    rabbit = strike.rabbit
    await rabbit.do(lambda: rabbit.rabbit.set_memory_alarm(on=True))
    try:
        await trio.sleep(strike.fault.lasts)
    finally:
        with trio.CancelScope(shield=True):
            await rabbit.do(lambda: rabbit.rabbit.set_memory_alarm(on=False))


async def _let_queue_be_old_enough(strike: Strike) -> None:
    """Wait until a queue that was deleted has been there again for a while.

    RabbitMQ may break for good over a quorum queue in whose first second it is killed, whatever it
    confirmed: see docs/delivery.md.
    """
    await trio.sleep_until(strike.rabbit.deleted_at + _OLD_ENOUGH)


async def _restart(strike: Strike) -> None:
    await _take_away(strike, strike.rabbit.rabbit.stop)


async def _kill_broker(strike: Strike) -> None:
    await _take_away(strike, strike.rabbit.rabbit.kill)


async def _take_away(strike: Strike, take: Callable[[], None]) -> None:
    """Take the broker away and bring it back, every third time while nothing else is struck.

    Only then can it be told how soon the nodes consume again.
    """
    await _let_queue_be_old_enough(strike)
    is_calm = strike.fault.number % 3 == 0 and strike.system.settings.duration >= _LONG_RUN
    strike.system.is_calm = is_calm
    try:
        if is_calm:
            is_calm = await strike.system.wait_all_healed()
        await trio.to_thread.run_sync(take)
        await trio.to_thread.run_sync(strike.rabbit.rabbit.start)
        await watch_recovery(strike.system, strike.fault, is_calm=is_calm)
    finally:
        strike.system.is_calm = False


ACTIONS: Final[dict[str, Action]] = {
    "node killed": _on_node(_kill),
    "coordinator killed": _on_coordinator(_kill_coordinator),
    "node stopped in mid-job": _on_node(_stop),
    "node frozen": _on_node(_freeze),
    "node frozen for a moment": _on_node(_freeze),
    "clock set": _on_node(_set_clock),
    "enqueuer killed": _on_enqueuer(_kill),
    "state file torn": _on_coordinator(_tear_state),
    "connections cut": _on_node(_cut),
    "enqueuer's connections cut": _on_enqueuer(_cut),
    "connections stalled": _on_node(_stall),
    "connections stalled for a moment": _on_node(_stall),
    "connections slowed": _on_node(_slow),
    "channel closed by the broker": _on_broker(_close_channels),
    "queue deleted": _on_broker(_delete_queue),
    "memory alarm": _on_broker(_raise_alarm),
    "broker restarted": _on_broker(_restart),
    "broker killed": _on_broker(_kill_broker),
    "disk full": _fill_disk,
}
"""How each kind of fault is carried out."""
