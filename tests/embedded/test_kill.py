"""Processes killed at any point of anything leave a file from which nothing is lost."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from pathlib import Path

from roger_trio._brokers.base import Broker, Delivery
from tests.conformance.kit import settles_at

from . import children
from .children import Child, child, running

KILLS = 300


class Ledger:
    """What processes said of their messages before they were killed."""

    def __init__(self) -> None:
        self.said: dict[str, set[str]] = {"published": set(), "taken": set(), "acked": set()}

    def note(self, report: bytes) -> None:
        """Note what one reported."""
        for line in report.decode().splitlines():
            kind, _, bodies = line.partition(" ")
            self.said[kind].update(bodies.split())

    def check(self, path: Path) -> None:
        """Compare it with what is in the file."""
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        find = "SELECT cast(body AS TEXT) FROM {} JOIN queues ON queue = queues.id WHERE name = 'q'"
        kept = Counter(
            body
            for table in ("messages", "delayed")
            for (body,) in connection.execute(find.format(table))
        )
        connection.close()
        assert max(kept.values(), default=1) == 1, "a message is there twice"
        assert self.said["published"] - kept.keys() - self.said["taken"] == set(), "lost"
        assert self.said["acked"] & kept.keys() == set(), "came back"


def kill_at(worker: Child, size: int) -> bytes:
    """Kill a process when it has reported so many bytes; return all it reported."""
    return worker.read(size) + worker.kill()


async def test_killed_at_random_points(tmp_path: Path) -> None:
    """Hundreds of processes that publish, consume, settle, look and purge are killed."""
    path, ledger, dice = tmp_path / "roger.db", Ledger(), random.Random(1)
    for each in range(0, KILLS, 2):
        # Two at a time: one lives while the other dies.
        with (
            child(children.work_hard, str(path), each) as one,
            child(children.work_hard, str(path), each + 1) as two,
        ):
            ledger.note(kill_at(one, dice.choice((0, 1, 50, 200, 1000, 3000))))
            ledger.note(kill_at(two, dice.choice((0, 1, 50, 200, 1000))))
        if each % 20 == 0:
            ledger.check(path)
    ledger.check(path)
    assert len(ledger.said["published"]) > KILLS
    assert len(ledger.said["acked"]) > KILLS
    await check_all_comes_back(path, ledger)


async def check_all_comes_back(path: Path, ledger: Ledger) -> None:
    """Consume all there is: every message once, among them all that nobody has taken."""
    got: list[str] = []
    async with running(str(path), "q") as broker, broker.open_channel() as channel:

        def take(delivery: Delivery) -> None:
            got.append(delivery.body.decode())
            delivery.ack()

        await channel.subscribe("q", prefetch=100, on_delivery=take)
        missing = ledger.said["published"] - ledger.said["taken"]
        await settles_at(0, lambda: _ready(broker))
        await settles_at(set(), lambda: missing - set(got))
        await channel.flush()
    assert len(got) == len(set(got))
    connection = sqlite3.connect(path)
    for table in ("messages", "delayed", "consumers", "channels", "listeners", "broadcasts"):
        left = f"SELECT count(*) FROM {table} WHERE {queue_of(table)}"
        assert connection.execute(left).fetchone() == (0,), table
    connection.close()
    assert os.listdir(f"{path}-processes") == []  # noqa: PTH208 -- in an async function


async def _ready(broker: Broker) -> int:
    return (await broker.count("q")).messages


def queue_of(table: str) -> str:
    """Say which rows of a table concern the queue."""
    is_kept_in_a_queue = table in {"messages", "delayed"}
    return "queue = (SELECT id FROM queues WHERE name = 'q')" if is_kept_in_a_queue else "1"
