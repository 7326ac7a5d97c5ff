"""The brokers of a run, as an operator has them in hand: a private RabbitMQ, or a file."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import trio
from pamqp import commands

from tests.amqp import AmqpSession, NoRabbitMQ
from tests.proxy import Proxy
from tests.rabbitmq import PrivateRabbit

from .load import FRAGILE, PARTITIONS
from .schedule import HEARTBEAT, BrokerName

WORK_QUEUES: Final = tuple(
    f"{partition}-{queue}" for partition, queues in PARTITIONS.items() for queue in queues
)

_HAND_OVER: Final = 5000
"""Milliseconds after which RabbitMQ repeats a hand-over of a delayed job that its restart has
interrupted: by default three minutes, see docs/operations.md."""

_CLOSE_CHANNELS: Final = """
[gen_server2:cast(Channel, {{method, {{'basic.ack', 999999999, false}}, none, noflow}})
 || Consumer <- rabbit_amqqueue:consumers_all(<<"/">>),
    {{queue_name, {{resource, _, _, Name}}}} <- Consumer, Name =:= <<"{queue}">>,
    {{channel_pid, Channel}} <- Consumer].
"""
"""Lets the channels that consume a queue do what they do when a client settles a delivery that
there is not: close, with 406."""


class BrokerSide(Protocol):
    """The broker of a run."""

    @property
    def name(self) -> BrokerName:
        """Which one it is."""
        ...

    @property
    def version(self) -> str:
        """What it calls itself."""
        ...

    @property
    def state(self) -> str:
        """The folder of the persister, or ''."""
        ...

    @property
    def counts_lag(self) -> float:
        """Seconds by which what `left` tells may be old."""
        ...

    def url(self, client: str) -> str:
        """Say how a process reaches it; '' for the suite itself."""
        ...

    def coordinator(self, partition: str, pids: Iterable[int]) -> int | None:
        """Tell which process coordinates a partition now, if it can be told."""
        ...

    async def left(self) -> dict[str, int]:
        """Count what is in its queues, on loan or not, apart from the buried ones."""
        ...


class RabbitSide:
    """A RabbitMQ of the run's own, and a proxy before it for each client.

    Args:
        clients: The names of those who are to have a proxy.
        folder: Where the state of the partitions goes.
    """

    name: Final = "rabbitmq"
    counts_lag: Final = 6.0  # A quorum queue tells its length every 5 s.

    def __init__(self, clients: Iterable[str], folder: Path) -> None:
        self.rabbit = PrivateRabbit()
        self.rabbit._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] = (
            f"-rabbit dead_letter_worker_publisher_confirm_timeout {_HAND_OVER}"
        )
        self.proxies = {each: Proxy("127.0.0.1", self.rabbit.port) for each in clients}
        self._state = folder / "state"
        self.lock = trio.Lock()
        """Held by who restarts it, or talks to it."""
        self.deleted_at = -math.inf
        """When a queue was deleted last, on Trio's clock."""
        self.version = "RabbitMQ"
        self._folder = folder

    def start(self) -> None:
        """Start it."""
        self.rabbit.start()
        self.version = f"RabbitMQ {self._ask_version()}"

    def _ask_version(self) -> str:
        return self.rabbit.ctl("eval", "rabbit_misc:version().").strip().strip('"')

    def close(self) -> None:
        """End it for good, and keep its log."""
        with suppress(OSError):
            shutil.copy(self.rabbit.directory / "rabbit.log", self._folder)
        self.rabbit.close()

    @property
    def state(self) -> str:
        return str(self._state)

    def url(self, client: str) -> str:
        port = self.proxies[client].port if client else self.rabbit.port
        return f"amqp://guest:{self.rabbit.password}@127.0.0.1:{port}/?heartbeat={HEARTBEAT}"

    def state_file(self, partition: str) -> Path | None:
        """Find the file that keeps the state of a partition."""
        found = list(self._state.glob(f"{partition}-*.state"))
        return found[0] if found else None

    def coordinator(self, partition: str, pids: Iterable[int]) -> int | None:
        path = self.state_file(partition)
        if path is None:
            return None
        with suppress(OSError):
            wanted = path.stat()
            for pid in pids:
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(OSError):
                        if os.path.samestat(link.stat(), wanted):
                            return pid
        return None

    @contextmanager
    def state_locked(self, partition: str) -> Generator[Path | None]:
        """Keep nodes from taking the state of a partition over; None: there is none yet."""
        path = self.state_file(partition)
        if path is None:
            yield None
            return
        with open(f"{path}.lock", "ab") as lock:  # noqa: PTH123
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path

    async def do(self, work: Callable[[], object]) -> bool:
        """Do something blocking to it; False: it is down, or cannot be asked."""
        try:
            await trio.to_thread.run_sync(work)
        except NoRabbitMQ:
            return False
        return True

    def close_channels(self, queue: str) -> None:
        """Let it close the channels that consume a queue."""
        self.rabbit.ctl("eval", _CLOSE_CHANNELS.format(queue=queue))

    def delete_fragile(self) -> None:
        """Delete a queue with all that is in it."""
        with AmqpSession(self.rabbit.url) as session:
            session.delete_queue("-".join(FRAGILE))

    def consumers(self) -> dict[str, int]:
        """Count the consumers of each queue of jobs; -1: it is not there."""
        found = dict.fromkeys(WORK_QUEUES, -1)
        for queue in WORK_QUEUES:  # Each on a connection: the answer to a missing one ends it.
            with suppress(NoRabbitMQ), AmqpSession(self.rabbit.url, timeout=5) as session:
                asked = commands.Queue.Declare(queue=queue, passive=True)
                found[queue] = session.call(asked, commands.Queue.DeclareOk).consumer_count or 0
        return found

    async def left(self) -> dict[str, int]:
        listed: list[str] = []

        def list_queues() -> None:
            words = ("--no-table-headers", "name", "messages")
            listed.extend(self.rabbit.ctl("list_queues", *words).splitlines())

        if not await self.do(list_queues):
            return {"the broker does not answer": 1}
        counts = {name: int(count) for name, _, count in (line.partition("\t") for line in listed)}
        return {name: count for name, count in counts.items() if count and is_to_be_empty(name)}


class SqliteSide:
    """A file.

    Args:
        folder: Where it is to be.
    """

    name: Final = "sqlite"
    counts_lag: Final = 1.0
    state: Final = ""
    version: Final = f"SQLite {sqlite3.sqlite_version}"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "jobs.db"

    def url(self, client: str) -> str:
        return f"sqlite:{self._path}"

    def _rows(self, query: str) -> list[tuple[str, int]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def coordinator(self, partition: str, pids: Iterable[int]) -> int | None:
        query = (
            "SELECT process, 0 FROM consumers JOIN channels ON channels.id = channel "
            "JOIN queues ON queues.id = queue WHERE queues.name = "
            f"'{partition}-.coordinator' ORDER BY consumers.id LIMIT 1"
        )
        with suppress(sqlite3.OperationalError):
            for process, _ in self._rows(query):
                pid = int(process.partition("-")[0])
                return pid if pid in pids else None
        return None

    async def left(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for table in ("messages", "delayed"):
            query = (
                f"SELECT name, count(*) FROM {table} JOIN queues ON queues.id = queue GROUP BY 1"
            )
            for name, count in self._rows(query):
                if is_to_be_empty(name):
                    counts[name] = counts.get(name, 0) + count
        return counts


def is_to_be_empty(queue: str) -> bool:
    """Tell whether a queue has to be empty once all jobs are over."""
    return not queue.endswith((".buried", "-.state"))


@asynccontextmanager
async def open_broker(
    name: BrokerName, clients: Iterable[str], folder: Path
) -> AsyncGenerator[BrokerSide]:
    """Have a broker for a run; it is gone, with all its data, at the end."""
    if name == "sqlite":
        yield SqliteSide(folder)
        return
    side = RabbitSide(clients, folder)
    try:
        await trio.to_thread.run_sync(side.start)
        async with trio.open_nursery() as nursery:
            for proxy in side.proxies.values():
                await nursery.start(proxy.run)
            yield side
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(side.close)
