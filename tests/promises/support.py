"""What the promises' tests share: nodes, jobs that tell what they do, an independent witness."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest
import trio
from pamqp import body as pamqp_body, commands, frame, header

import roger_trio as roger
from roger_trio._brokers.base import Broker, Delivery, Message, QueueCount
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from tests.amqp import AmqpSession, F
from tests.apps.node import broker_of
from tests.leaks import look

ROOT = Path(__file__).parents[2]
HUBS: dict[str, Hub] = {}

# On which brokers a test runs: one that says nothing speaks AMQP, and runs on RabbitMQ alone.
on_every_broker = pytest.mark.parametrize("setup", ["rabbitmq", "sqlite", "memory"], indirect=True)
on_durable_brokers = pytest.mark.parametrize("setup", ["rabbitmq", "sqlite"], indirect=True)


class Hub:
    """Where the jobs of one test report, and wait to be let on."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)
        self.log: list[tuple[str, str]] = []
        self.times: dict[tuple[str, str], list[float]] = {}
        self.running: list[str] = []
        self.most = 0
        self.twice = False
        self.gate = trio.Event()
        self.extra: dict[str, Any] = {}
        self.serial: set[str] = set()
        self.overlapped: set[str] = set()
        self._changed = trio.lowlevel.ParkingLot()

    def tell(self, what: str, tag: str = "") -> None:
        """Note that something happened."""
        self.log.append((what, tag))
        self.times.setdefault((what, tag), []).append(trio.current_time())
        self._changed.unpark_all()

    def count(self, what: str, tag: str | None = None) -> int:
        """Count how often something happened, to one tag or to all."""
        return sum(1 for each in self.log if each[0] == what and tag in (None, each[1]))

    async def wait(self, what: str, count: int = 1, tag: str | None = None) -> None:
        """Wait until something has happened so often."""
        while self.count(what, tag) < count:
            await self._changed.park()

    @contextlib.contextmanager
    def occupied(self, tag: str) -> Generator[None]:
        """Count a job as running."""
        self.twice |= tag in self.running
        self.running.append(tag)
        self.most = max(self.most, len(self.running))
        try:
            yield
        finally:
            self.running.remove(tag)

    @contextlib.contextmanager
    def alone(self, key: str | None) -> Generator[None]:
        """Note whether two jobs of one execution key ever run at once."""
        if key is None:
            yield
            return
        if key in self.serial:
            self.overlapped.add(key)
        self.serial.add(key)
        try:
            yield
        finally:
            self.serial.discard(key)


@contextlib.contextmanager
def new_hub() -> Generator[Hub]:
    """Make a hub that jobs find by its name."""
    hub = Hub()
    HUBS[hub.name] = hub
    try:
        yield hub
    finally:
        del HUBS[hub.name]


@roger.job
async def note(hub: str, tag: str = "") -> str:
    """Tell that it ran."""
    HUBS[hub].tell("ran", tag)
    return f"result of {tag}"


@roger.job
async def hold(hub: str, tag: str = "") -> None:
    """Run until the gate opens."""
    here = HUBS[hub]
    with here.occupied(tag):
        here.tell("began", tag)
        try:
            await here.gate.wait()
        except trio.Cancelled:
            here.tell("cancelled", tag)
            raise
        here.tell("ended", tag)


@roger.job
async def brief(hub: str, tag: str = "", seconds: float = 0.01) -> None:
    """Run for a moment."""
    here = HUBS[hub]
    with here.occupied(tag):
        await trio.sleep(seconds)
    here.tell("ran", tag)


@roger.job(retryable=True, retry_levels=(0.25, 1.0))
async def fail(hub: str, tag: str = "") -> None:
    """Fail each time."""
    HUBS[hub].tell("ran", tag)
    raise ValueError(f"no {tag}")


@roger.job(retryable=True)
async def do(hub: str, tag: str = "") -> Any:
    """Do what the test put into the hub."""
    HUBS[hub].tell("ran", tag)
    return await HUBS[hub].extra["do"]()


@roger.job
def in_thread(hub: str, tag: str = "") -> None:
    """Run in a thread until the test lets it go."""
    here = HUBS[hub]
    trio.from_thread.run_sync(here.tell, "began", tag)
    here.extra["release"].wait(30)
    with contextlib.suppress(trio.RunFinishedError):
        trio.from_thread.run_sync(here.tell, "ended", tag)


class Keyed(roger.Job, name="promises:keyed", retryable=True, retry_levels=(0.3,)):
    """A job with the keys that the test gives it, which does what the test put into the hub."""

    hub: str
    tag: str = ""
    qkey: str | None = None
    ekey: str | None = None
    act: str = ""

    def queue_key(self) -> str | None:
        return self.qkey

    def execution_key(self) -> str | None:
        return self.ekey

    async def perform(self) -> Any:
        here = HUBS[self.hub]
        with here.occupied(self.tag), here.alone(self.ekey):
            here.tell("began", self.tag)
            if not self.act:
                return f"result of {self.tag}"
            if self.act != "hold":
                return await here.extra[self.act]()
            try:
                await here.gate.wait()
            except trio.Cancelled:
                here.tell("cancelled", self.tag)
                raise
            return "held"


class Told(roger.Callbacks):
    """Tells the hub of a job, named by its arguments, what was called for it."""

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        _tell_of(job, "after_run")

    async def on_error(self, partition: str, job: roger.Envelope, error: Any, state: Any) -> None:
        _tell_of(job, "on_error")

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None:
        _tell_of(job, "on_cancel")

    async def on_buried(self, partition: str, job: roger.Envelope, error: Any, state: Any) -> None:
        _tell_of(job, "on_buried")


def _tell_of(job: roger.Envelope, what: str) -> None:
    hub = HUBS.get(job.args.get("hub", ""))
    if hub is not None:
        hub.tell(what, job.args["tag"])


@attrs.frozen
class Setup:
    """Makes configurations for one test's partition."""

    url: str
    prefix: str
    partition: str
    created_queues: set[str]

    def config(self, queues: dict[str, int] | None = None, **options: Any) -> roger.Config:
        """Make a configuration; queues default to one, with ten workers."""
        partitions = {self.partition: {"default": 10} if queues is None else queues}
        partitions = options.pop("partitions", partitions)
        for partition, its_queues in partitions.items():
            for queue in its_queues:
                self.created_queues.update(self.names(queue, partition))
        settle = options.pop("queue_settle_time", 0)
        broker = broker_of(self.url, settle)
        given: dict[str, Any] = {"prefix": self.prefix, "enqueue_timeout": 20.0, **options}
        return roger.Config(broker=broker, partitions=partitions, **given)

    def client_config(self, **options: Any) -> roger.Config:
        """Make a configuration for a client."""
        return self.config(**options)

    def names(self, queue: str = "default", partition: str | None = None) -> tuple[str, str, str]:
        """Name the broker queues: work, redelivered, buried."""
        work = f"{self.prefix}{partition or self.partition}-{queue}"
        return work, f"{work}.redelivered", f"{work}.buried"


@contextlib.asynccontextmanager
async def serving(config: roger.Config) -> AsyncGenerator[roger.Node]:
    """Run a node in this process; at the end it is cancelled, which is graceful."""
    async with trio.open_nursery() as nursery:
        node = await nursery.start(roger.serve, config)
        yield node
        nursery.cancel_scope.cancel()


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float = 20) -> None:
    """Wait until something that only the broker knows is true."""
    with trio.fail_after(within):
        while not await check():  # noqa: ASYNC110 -- the broker sends no word of it
            await trio.sleep(0.03)


async def drop_connections(node: roger.Client) -> None:
    """Lose a node's or client's connections to the broker; it connects again by itself."""
    broker: Any = node._broker
    if isinstance(broker, EmbeddedBroker):
        await broker.drop_connections("severed by a test")
        return
    for link in broker._links:
        link._connection.transport.abort("severed by a test")


async def held(client: roger.Client, partition: str) -> dict[str, str]:
    """Return who holds what: key to job id."""
    return {each.key: each.job_id for each in await client.keys(partition)}


class Program:
    """A node in a process of its own, and the lines it writes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = trio.lowlevel.ParkingLot()
        self.ended = trio.Event()

    async def read(self) -> None:
        """Collect its lines until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [look(line) for line in lines]
            self._changed.unpark_all()
        await self.process.wait()
        self.ended.set()
        self._changed.unpark_all()

    def count(self, start: str) -> int:
        """Count the lines that begin so."""
        return sum(line.startswith(start) for line in self.lines)

    def freeze(self) -> None:
        """Let it hang (SIGSTOP): its connections stay open, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    async def die(self) -> None:
        """Kill it (SIGKILL), and wait until it is gone."""
        self.process.kill()
        await self.ended.wait()

    async def wait(self, start: str, count: int = 1) -> None:
        """Wait for so many lines that begin so."""
        while self.count(start) < count:
            assert not self.ended.is_set(), f"ended before {start!r}: {self.lines}"
            await self._changed.park()


@contextlib.asynccontextmanager
async def program(
    setup: Setup, *, app: str = "tests.apps.node", **options: Any
) -> AsyncGenerator[Program]:
    """Run a program, such as `tests.apps.node`, in a process of its own; killed at the end."""
    options = {
        "broker": setup.url,
        "prefix": setup.prefix,
        "partitions": {setup.partition: {"default": 10}},
        **options,
    }
    command = [sys.executable, "-m", app, json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, cwd=str(ROOT), env=environment
    )
    here = Program(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.read)
        try:
            yield here
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):  # Who reads its lines may be cancelled by now.
                await process.wait()


class Witness(AmqpSession):
    """An AMQP client that shares no code with roger_trio: publishes any bytes, and reads them."""

    _published = 0

    def _receive(self, wanted: type[F]) -> F:
        """Read on until there is a whole frame: the decoder takes a part of one for rubbish."""
        while len(self._buffer) < 7 or len(self._buffer) < self._frame_size():
            data = self._socket.recv(65_536)
            assert data, "the broker hung up"
            self._buffer += data
        return super()._receive(wanted)

    def _frame_size(self) -> int:
        return 7 + int.from_bytes(self._buffer[3:7], "big") + 1

    def publish(
        self, queue: str, payload: bytes, *, properties: dict[str, Any] | None = None
    ) -> None:
        """Publish bytes to a queue; return once they are there for everybody."""
        self.publish_all(queue, [(payload, properties or {})])

    def publish_all(self, queue: str, messages: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        """Publish bytes, with their properties; return once all are there for everybody."""
        if not self._published:
            self.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        for payload, properties in messages:
            kept = commands.Basic.Properties(**{"delivery_mode": 2, **properties})
            self._send(frame.marshal(commands.Basic.Publish(exchange="", routing_key=queue), 1))
            self._send(frame.marshal(header.ContentHeader(0, len(payload), kept), 1))
            for start in range(0, len(payload), 100_000):
                part = payload[start : start + 100_000]
                self._send(frame.marshal(pamqp_body.ContentBody(part), 1))
        missing = set(range(self._published + 1, self._published + 1 + len(messages)))
        self._published += len(messages)
        while missing:
            ack = self._receive(commands.Basic.Ack)
            tag = ack.delivery_tag or 0
            missing -= set(range(1, tag + 1)) if ack.multiple else {tag}

    def take_all(self, queue: str) -> list[bytes]:
        """Take all bodies of a queue, and leave it empty."""
        found: list[bytes] = []
        # Not by its count, which lags behind what a quorum queue holds.
        while (got := self._get(queue, no_ack=True)) is not None:
            found.append(got[1])
        return found

    def touch(self, queue: str) -> None:
        """Take the first of a queue and put it back."""
        got = self._get(queue)
        assert got is not None, f"queue {queue} is empty"
        self._send(frame.marshal(commands.Basic.Reject(delivery_tag=got[0], requeue=True), 1))
        while not self.count(queue):
            pass

    def _get(self, queue: str, *, no_ack: bool = False) -> tuple[int, bytes] | None:
        """Take the first of a queue: its delivery tag and body."""
        kinds: Any = (commands.Basic.GetOk, commands.Basic.GetEmpty)
        got = self.call(commands.Basic.Get(queue=queue, no_ack=no_ack), kinds)
        if isinstance(got, commands.Basic.GetEmpty):
            return None
        head: Any = self._receive(header.ContentHeader)  # type: ignore[type-var]
        payload = b""
        while len(payload) < head.body_size:
            part: Any = self._receive(pamqp_body.ContentBody)  # type: ignore[type-var]
            payload += part.value
        return got.delivery_tag or 0, payload

    def count(self, queue: str) -> int:
        """Count what is ready in a queue."""
        declare = commands.Queue.Declare(queue=queue, passive=True)
        return self.call(declare, commands.Queue.DeclareOk).message_count or 0

    def consumers(self, queue: str) -> int:
        """Count the consumers of a queue."""
        declare = commands.Queue.Declare(queue=queue, passive=True)
        return self.call(declare, commands.Queue.DeclareOk).consumer_count or 0

    def declare_classic(self, queue: str) -> None:
        """Declare a queue as roger_trio would not."""
        declare = commands.Queue.Declare(
            queue=queue, durable=True, arguments={"x-queue-type": "classic"}
        )
        self.call(declare, commands.Queue.DeclareOk)


class Outsider(Protocol):
    """Somebody else at the run's broker, whichever it is: publishes any bytes, and counts."""

    async def publish(self, queue: str, payload: bytes, message_id: str = "") -> None:
        """Publish bytes to a queue."""
        ...

    async def count(self, queue: str) -> QueueCount:
        """Count what is ready in a queue, and its consumers."""
        ...

    async def take_all(self, queue: str) -> list[bytes]:
        """Take all bodies of a queue, and leave it empty."""
        ...

    async def touch(self, queue: str) -> None:
        """Take the first of a queue and put it back, as one who dies of it would."""
        ...


@attrs.frozen
class RabbitOutsider:
    """A witness, in the words of an outsider."""

    witness: Witness

    async def publish(self, queue: str, payload: bytes, message_id: str = "") -> None:
        self.witness.publish(
            queue, payload, properties={"message_id": message_id} if message_id else None
        )

    async def count(self, queue: str) -> QueueCount:
        return QueueCount(
            messages=self.witness.count(queue), consumers=self.witness.consumers(queue)
        )

    async def take_all(self, queue: str) -> list[bytes]:
        return self.witness.take_all(queue)

    async def touch(self, queue: str) -> None:
        self.witness.touch(queue)


@attrs.frozen
class EmbeddedOutsider:
    """Another broker over the same database, as another process would have it."""

    broker: Broker

    async def publish(self, queue: str, payload: bytes, message_id: str = "") -> None:
        await self.broker.publish(queue, Message(payload, message_id))

    async def count(self, queue: str) -> QueueCount:
        return await self.broker.count(queue)

    async def take_all(self, queue: str) -> list[bytes]:
        async with self.broker.browse(queue, (await self.count(queue)).messages) as found:
            for each in found:
                each.ack()
            return [each.body for each in found]

    async def touch(self, queue: str) -> None:
        taken: list[Delivery] = []
        came = trio.Event()

        def take(delivery: Delivery) -> None:
            taken.append(delivery)
            came.set()

        async with self.broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=take)
            await came.wait()
            await channel.unsubscribe()
            taken[0].give_back()
            await channel.flush()
