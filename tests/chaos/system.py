"""What a run consists of: nodes, enqueuers, a broker, and the journals of all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from .brokers import BrokerSide, open_broker
from .journal import Event, Journal, Reader
from .processes import Slot
from .schedule import ENQUEUERS, NODES, BrokerName

_HEALED_WITHIN: Final = 30.0


@attrs.frozen
class Settings:
    """What a run is made of.

    Args:
        seed: Of which load and schedule are made.
        duration: Seconds of load, with faults.
        broker: Which broker.
        folder: Where journals, logs and data go; it must be empty.
        log: The level from which the nodes log.
    """

    seed: int
    duration: float
    broker: BrokerName
    folder: Path
    log: str = "WARNING"


@attrs.define(eq=False)
class System:
    """A run's nodes, enqueuers and broker."""

    settings: Settings
    broker: BrokerSide
    journal: Journal
    nursery: trio.Nursery
    start: float
    """When the load starts, of ``CLOCK_MONOTONIC``."""
    nodes: list[Slot] = attrs.field(factory=list)
    enqueuers: list[Slot] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    """All that the journals have said so far, not quite in order."""
    begun: set[str] = attrs.field(factory=set)
    """The processes that take signals by now."""
    ready: set[str] = attrs.field(factory=set)
    """The nodes that consume by now, or have done so."""
    is_calm: bool = False
    """Whether nothing new is to be struck now."""

    async def wait_all_healed(self) -> bool:
        """Wait until all nodes are ready and no fault has any in its hands; False: in vain."""
        with trio.move_on_after(_HEALED_WITHIN):
            while any(  # noqa: ASYNC110 -- they send no word but their journals
                each.is_busy or each.who not in self.ready for each in self.nodes
            ):
                await trio.sleep(0.1)
            return True
        return False

    def read(self, reader: Reader) -> None:
        """Take in what the journals say that is new."""
        new = reader.read()
        self.events += new
        self.begun.update(each.who for each in new if each.what == "begin")
        self.ready.update(each.who for each in new if each.what == "ready")

    def free_node(self, number: int) -> Slot | None:
        """Return a node that no fault has in its hands, this one rather than others."""
        for offset in range(NODES):
            slot = self.nodes[(number + offset) % NODES]
            if not slot.is_busy and slot.is_running:
                return slot
        return None

    def node_of(self, pid: int | None) -> Slot | None:
        """Return the free node that is this process."""
        for slot in self.nodes:
            if slot.is_running and slot.pid == pid and not slot.is_busy:
                return slot
        return None

    @property
    def pids(self) -> set[int]:
        """The numbers of the nodes that run."""
        return {slot.pid for slot in self.nodes if slot.is_running}


@asynccontextmanager
async def open_system(settings: Settings) -> AsyncGenerator[System]:
    """Start the broker and the nodes; at the end all processes are killed that still run."""
    journals, logs = settings.folder / "journals", settings.folder / "logs"
    journals.mkdir()
    logs.mkdir()
    journal = Journal(journals, "suite")
    nodes = [f"node{number}" for number in range(NODES)]
    enqueuers = [f"enqueuer{number}" for number in range(ENQUEUERS)]
    async with (
        open_broker(settings.broker, [*nodes, *enqueuers], settings.folder) as broker,
        trio.open_nursery() as nursery,
    ):
        system = System(settings, broker, journal, nursery, start=0.0)
        shared = {"folder": str(journals), "log": settings.log}

        def node_options(name: str) -> dict[str, Any]:
            return {**shared, "broker": broker.url(name), "state": broker.state}

        def enqueuer_options(name: str) -> dict[str, Any]:
            return {
                **shared, "broker": broker.url(name), "seed": settings.seed, "of": ENQUEUERS,
                "share": enqueuers.index(name), "duration": settings.duration,
                "start": system.start,
            }  # fmt: skip

        def slot(name: str, program: str, make: Any) -> Slot:
            return Slot(name, f"tests.chaos.{program}", lambda: make(name), journal, logs)

        system.nodes = [slot(name, "node", node_options) for name in nodes]
        system.enqueuers = [slot(name, "enqueuer", enqueuer_options) for name in enqueuers]
        try:
            yield system
        finally:
            with trio.CancelScope(shield=True):
                for each in (*system.nodes, *system.enqueuers):
                    await each.kill()
            nursery.cancel_scope.cancel()
