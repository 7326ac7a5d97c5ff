"""Promise 9: what is no job, or none that runs here, ends among the buried; the queue flows on."""

from __future__ import annotations

import json
import pickle
import random
import zlib
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from pamqp import commands, frame

import roger_trio as roger
from roger_trio._jobs import wire
from tests.apps import node as app
from tests.promises.support import (
    Hub,
    Outsider,
    Setup,
    Witness,
    eventually,
    note,
    on_durable_brokers,
    on_every_broker,
    program,
    serving,
)

MINIMAL: dict[str, Any] = {"roger": 1, "id": "1", "name": "app:f", "args": {}}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _with(**fields: object) -> bytes:
    """Write a job with some fields changed, in ways that make it none."""
    return _json(MINIMAL | fields)


def _without(field: str) -> bytes:
    return _json({key: value for key, value in MINIMAL.items() if key != field})


CORPUS: tuple[bytes, ...] = (
    # no JSON at all
    b"",
    b" ",
    b"\x00",
    b"\x00" * 1000,
    bytes(range(256)),
    random.Random(9).randbytes(300_000),
    b"\xce" * 20,  # the end of an AMQP frame
    b"AMQP\x00\x00\x09\x01",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"hello",
    b"x" * 300_000,
    b"%s%n%p {0.__class__}",
    b"<?xml version='1.0'?><job/>",
    b"--- !!python/object/apply:os.system [true]\n",
    pickle.dumps({"roger": 1}),
    zlib.compress(_json(MINIMAL)),
    # almost JSON
    b"{",
    b"{}{}",
    b"{'roger': 1}",
    b'{"roger": 1,}',
    b'{"roger": NaN}',
    b"\xef\xbb\xbf" + _json(MINIMAL),
    _json(MINIMAL)[:-1],
    _json(MINIMAL) + b"\x00",
    _json(MINIMAL).decode().encode("utf-16"),
    b'{"roger": 1, "id": "\xff\xfe", "name": "a", "args": {}}',
    b'{"roger": 1, "id": "\\ud800", "name": "a", "args": {}}',
    b"[" * 100_000,
    b'{"roger":1,"id":"1","name":"a","args":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    # JSON, and no object
    b"null",
    b"true",
    b"0",
    b"-0.0",
    b"1e308",
    b"9" * 5000,
    b'""',
    b'"roger"',
    b"[]",
    b"[1]",
    _json([MINIMAL]),
    _json([[], {}, {"callbacks": None}]),  # Celery's
    # an object, and no job
    b"{}",
    _json({"task": "app:f", "args": [], "kwargs": {}}),
    _without("roger"),
    _without("id"),
    _without("name"),
    _without("args"),
    # other versions
    _with(roger=0),
    _with(roger=2),
    _with(roger=10**18),
    _with(roger=1.0),
    _with(roger="1"),
    _with(roger=True),
    _with(roger=None),
    # fields of other kinds
    _with(id=""),
    _with(id=1),
    _with(id="i" * 201),
    _with(name=None),
    _with(name="n" * 201),
    _with(args=[]),
    _with(args=None),
    _with(retry_count=-1),
    _with(retry_count=2**40),
    _with(retry_count="1"),
    _with(deaths=True),
    _with(queue_key=1),
    _with(execution_key={}),
    _with(max_execution_time=0),
    _with(max_execution_time="60"),
    _with(queued_at="yesterday"),
    _with(queued_at="2024-12-31T23:59:59"),
    _with(queued_at=1e400),
    # large
    _with(args=[0] * 60_000),
    _with(roger=2, args={str(number): "x" * 100 for number in range(2500)}),
)


async def _is_buried(client: roger.Client, setup: Setup, count: int) -> bool:
    return len(await client.buried_jobs(setup.partition, "default", 1000)) == count


def _error(envelope: roger.Envelope) -> roger.JobError:
    assert envelope.error is not None
    return envelope.error


def _kind(envelope: roger.Envelope) -> str:
    return _error(envelope).type.rpartition(":")[2]


@on_every_broker
async def test_foreign_payloads_are_buried_byte_for_byte_and_the_jobs_among_them_done(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Each with its reason and the name "", replayable; nothing is changed by it."""
    partition, (work, redelivered, buried) = setup.partition, setup.names()
    total = len(CORPUS)
    async with roger.connect(setup.config()) as client:
        for number, payload in enumerate(CORPUS):
            if number % 5 == 0:
                await client.enqueue(note.job(hub.name, f"before {number}"), partition)
            await outsider.publish(work, payload)
        await client.enqueue(note.job(hub.name, "after"), partition)
        async with serving(setup.config()) as node:
            with trio.fail_after(20):
                await hub.wait("ran", -(-total // 5) + 1)
            await eventually(lambda: _is_buried(node, setup, total))
            found = await node.buried_jobs(partition, "default", 1000)
            assert {each.name for each in found} == {""}
            assert len({each.id for each in found}) == total
            assert {_kind(each) for each in found} == {"NotAJob"}
            assert all(_error(each).message for each in found)
            assert any("version 2" in _error(each).message for each in found)
            chosen = [each.id for each in found[::3]]
            await eventually(lambda: _is_ready(outsider, buried, total))
            with trio.fail_after(20):
                assert await node.replay_buried(partition, "default", chosen) == len(chosen)
            await eventually(lambda: _is_buried(node, setup, total))
            again = await node.buried_jobs(partition, "default", 1000)
            assert {each.id for each in again} == {each.id for each in found}
            await eventually(lambda: _is_empty(outsider, work, redelivered))
    assert sorted(await outsider.take_all(buried)) == sorted(CORPUS)
    assert hub.count("ran") == -(-total // 5) + 1


async def _is_empty(outsider: Outsider, *queues: str) -> bool:
    return not any([(await outsider.count(each)).messages for each in queues])


async def _is_ready(outsider: Outsider, queue: str, count: int) -> bool:
    return (await outsider.count(queue)).messages == count


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
optional = ("retry_count", "deaths", "queued_at", "queue_key", "max_execution_time")
almost_jobs = st.dictionaries(st.sampled_from((*MINIMAL, *optional)), json_values).map(
    lambda fields: MINIMAL | fields
)


def _is_foreign(payload: bytes) -> bool:
    try:
        wire.load(payload, partition="", queue="")
    except wire.NotAJob:
        return True
    return False


foreign_payloads = (st.binary() | (json_values | almost_jobs).map(_json)).filter(_is_foreign)


# On RabbitMQ alone: pytest-trio cannot run a generated test with several parameters.
@given(st.lists(foreign_payloads, min_size=20, max_size=30))
@settings(
    max_examples=3,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
async def test_generated_payloads_are_buried_byte_for_byte(
    setup: Setup, hub: Hub, outsider: Outsider, payloads: list[bytes]
) -> None:
    """Whatever the bytes are, the node buries them, and does the job that comes after them."""
    work, _, buried = setup.names()
    hub.log.clear()
    async with serving(setup.config()) as node:
        for payload in payloads:
            await outsider.publish(work, payload)
        await node.enqueue(note.job(hub.name), setup.partition)
        with trio.fail_after(20):
            await hub.wait("ran")
        await eventually(lambda: _is_buried(node, setup, len(payloads)))
    assert sorted(await outsider.take_all(buried)) == sorted(payloads)


ODD_PROPERTIES: dict[str, dict[str, Any]] = {
    "another content type": {"content_type": "application/x-python-serialize"},
    "another encoding": {"content_encoding": "gzip"},
    "a long id": {"message_id": "m" * 255},
    "an id of any text": {"message_id": "\N{SNOWMAN} 'x'\n\x00"},
    "our own header": {"headers": {"roger-error": "{}"}},
    "our own header, another type": {"headers": {"roger-error": {"type": 1}}},
    "many headers": {"headers": {f"x-{n}": ["v", n, None, {"deep": [True]}] for n in range(200)}},
    "deaths that were none": {"headers": {"x-death": "x", "x-delivery-count": "y"}},
    "an answer is awaited": {"reply_to": "nobody", "correlation_id": "c"},
    "urgent": {"priority": 255, "message_type": "t", "app_id": "a"},
    "transient": {"delivery_mode": 1},
}


async def test_foreign_payloads_with_odd_properties_are_buried(
    setup: Setup, hub: Hub, witness: Witness, outsider: Outsider
) -> None:
    """Properties and headers that other programs set harm nobody, on a job least of all."""
    partition, (work, _, buried) = setup.partition, setup.names()
    async with serving(setup.config()) as node:
        for what, properties in ODD_PROPERTIES.items():
            witness.publish(work, what.encode(), properties=properties)
            job = MINIMAL | {"name": note.options.name, "args": {"hub": hub.name, "tag": what}}
            witness.publish(work, _json(job), properties=properties)
        with trio.fail_after(20):
            await hub.wait("ran", len(ODD_PROPERTIES))
        await eventually(lambda: _is_buried(node, setup, len(ODD_PROPERTIES)))
        found = await node.buried_jobs(partition, "default")
        assert {_kind(each) for each in found} == {"NotAJob"}
        assert "m" * 255 in {each.id for each in found}
        await eventually(lambda: _is_ready(outsider, buried, len(found)))
        with trio.fail_after(20):
            assert await node.replay_buried(partition, "default") == len(found)
        await eventually(lambda: _is_buried(node, setup, len(ODD_PROPERTIES)))
    assert {tag for _, tag in hub.log} == set(ODD_PROPERTIES)
    assert sorted(witness.take_all(buried)) == sorted(what.encode() for what in ODD_PROPERTIES)


FLAGS = {"message_id": 1 << 7, "timestamp": 1 << 6, "headers": 1 << 13}
UNREADABLE: dict[str, bytes] = {
    "an id that is no UTF-8": FLAGS["message_id"].to_bytes(2, "big") + b"\x02\xff\xfe",
    "a time beyond all years": FLAGS["timestamp"].to_bytes(2, "big") + b"\xff" * 8,
    "a header that is no UTF-8": FLAGS["headers"].to_bytes(2, "big")
    + b"\x00\x00\x00\x09\x01kS\x00\x00\x00\x02\xff\xfe",
    "a header name that is no UTF-8": FLAGS["headers"].to_bytes(2, "big")
    + b"\x00\x00\x00\x04\x02\xff\xfeV",
}


def _publish_raw(witness: Witness, queue: str, payload: bytes, properties: bytes) -> None:
    """Publish with properties that no sound encoder writes."""
    witness._send(frame.marshal(commands.Basic.Publish(exchange="", routing_key=queue), 1))
    head = b"\x00\x3c\x00\x00" + len(payload).to_bytes(8, "big") + properties
    witness._send(b"\x02\x00\x01" + len(head).to_bytes(4, "big") + head + b"\xce")
    witness._send(b"\x03\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce")


@pytest.mark.parametrize("what", UNREADABLE)
async def test_properties_that_cannot_be_decoded_do_not_stop_the_queue(
    setup: Setup, hub: Hub, witness: Witness, what: str
) -> None:
    """A message whose properties are no sound AMQP is buried like any that is no job."""
    work, _, _ = setup.names()
    async with serving(setup.config()) as node:
        _publish_raw(witness, work, b"x", UNREADABLE[what])
        await node.enqueue(note.job(hub.name), setup.partition)
        with trio.fail_after(10):
            await hub.wait("ran")
        await eventually(lambda: _is_buried(node, setup, 1), within=5)


class Errors(roger.Callbacks):
    """Tells the hub what happened to which job, with the error's type."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def on_error(self, partition: str, job: Any, error: Any, state: Any) -> None:
        """Tell of a failed attempt."""
        self._hub.tell(f"on_error {type(error).__name__}", job.id)
        react = self._hub.extra.get("react")
        if react is not None:
            react()

    async def on_buried(self, partition: str, job: Any, error: Any, state: Any) -> None:
        """Tell of the burial."""
        self._hub.tell(f"on_buried {type(error).__name__}", job.id)


@on_every_broker
async def test_unknown_names_are_retried_through_the_levels_and_then_buried(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """And replayed once the program knows the job: then it is performed."""
    name = f"later:{hub.name}"
    config = setup.config(retry_levels=(0, 0.2), callbacks=Errors(hub))
    async with serving(config) as node:
        await outsider.publish(setup.names()[0], _with(id="u", name=name, args={"tag": "x"}))
        await node.enqueue(note.job(hub.name, "flows on"), setup.partition)
        with trio.fail_after(20):
            await hub.wait("on_buried UnknownJob", tag="u")
            await hub.wait("ran", tag="flows on")
        assert hub.count("on_error UnknownJob") == 2
        attempts = [*hub.times["on_error UnknownJob", "u"], *hub.times["on_buried UnknownJob", "u"]]
        # The delay counts from the publish, which comes before `on_error`.
        assert 0.1 <= attempts[2] - attempts[1] <= 1.2
        await eventually(lambda: _is_buried(node, setup, 1))
        [envelope] = await node.buried_jobs(setup.partition, "default")
        assert (envelope.id, envelope.name, envelope.args) == ("u", name, {"tag": "x"})
        assert (envelope.retry_count, _kind(envelope)) == (2, "UnknownJob")
        assert name in _error(envelope).message
        await eventually(lambda: _is_ready(outsider, setup.names()[2], 1))
        _define(name, hub)
        with trio.fail_after(20):
            assert await node.replay_buried(setup.partition, "default") == 1
            await hub.wait("ran", tag="x")


def _define(name: str, hub: Hub) -> None:
    """Register a job, as a newer version of the program does."""

    @roger.job(name=name)
    async def later(tag: str) -> None:
        hub.tell("ran", tag)


@on_every_broker
async def test_an_unknown_job_that_becomes_known_meanwhile_is_performed(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """A rolling deploy: the first attempt meets a node that does not know it, the next one does."""
    name = f"later:{hub.name}"
    hub.extra["react"] = lambda: _define(name, hub)
    # The callback comes after the publish of the retry, which therefore must not come at once.
    config = setup.config(retry_levels=(0.5, 0.5), callbacks=Errors(hub))
    async with serving(config) as node:
        await outsider.publish(setup.names()[0], _with(id="u", name=name, args={"tag": "x"}))
        with trio.fail_after(20):
            await hub.wait("ran", tag="x")
        assert hub.count("on_error UnknownJob") == 1
        assert await _is_buried(node, setup, 0)


MISFITS: dict[str, dict[str, Any]] = {
    "hub: expected text, got 5": {"hub": 5},
    "hub": {},
    "tag: expected text, got None": {"hub": "h", "tag": None},
    "'more' is unknown": {"hub": "h", "more": 1},
    "got {'deep'": {"hub": {"deep": [[[[]]]]}},
}


@on_every_broker
async def test_arguments_that_do_not_fit_are_retried_and_then_buried(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """Of a job that is not even retryable: another version of it may take them."""
    assert not note.options.retryable
    config = setup.config(retry_levels=(0, 0.2), callbacks=Errors(hub))
    async with serving(config) as node:
        for text, args in MISFITS.items():
            await outsider.publish(
                setup.names()[0], _with(id=text, name=note.options.name, args=args)
            )
        await node.enqueue(note.job(hub.name, "flows on"), setup.partition)
        with trio.fail_after(20):
            await hub.wait("ran", tag="flows on")
            await hub.wait("on_buried InvalidJob", len(MISFITS))
        await eventually(lambda: _is_buried(node, setup, len(MISFITS)))
        found = await node.buried_jobs(setup.partition, "default")
    assert hub.count("on_error InvalidJob") == 2 * len(MISFITS)
    assert {each.id for each in found} == set(MISFITS)
    for each in found:
        assert (each.retry_count, _kind(each), each.args) == (2, "InvalidJob", MISFITS[each.id])
        assert each.id in _error(each).message


@on_every_broker
async def test_looking_changes_neither_order_nor_attempts_and_buries_nothing(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """25 looks, above RabbitMQ 4's delivery limit, with no node; all run when one comes."""
    partition, (work, _, _) = setup.partition, setup.names()
    async with roger.connect(setup.config()) as client:
        jobs: list[roger.Job] = [note.job(hub.name, str(number)) for number in range(30)]
        sent = await client.enqueue_many(jobs, partition)
        await outsider.publish(work, b"no job", "foreign")
        await eventually(lambda: _is_ready(outsider, work, 31))
        sent += await client.enqueue_many([note.job(hub.name, "last")], partition)
        ids = [each.id for each in sent if isinstance(each, roger.Envelope)]
        wanted = [*ids[:30], "foreign", ids[30]]
        with trio.fail_after(30):
            for _ in range(25):
                seen = await client.queued_jobs(partition, "default")
                assert [each.id for each in seen] == wanted
                assert [each.id for each in seen if not each.name] == ["foreign"]
                assert {(each.retry_count, each.deaths) for each in seen} == {(0, 0)}
            assert not await client.buried_jobs(partition, "default")
            async with serving(setup.config()) as node:
                await hub.wait("ran", 31)
                await eventually(lambda: _is_buried(node, setup, 1))
                [envelope] = await node.buried_jobs(partition, "default")
    assert (envelope.id, envelope.name) == ("foreign", "")
    assert hub.count("ran") == 31


@on_durable_brokers
async def test_a_job_that_kills_its_process_is_buried_and_its_neighbours_are_done(
    setup: Setup,
) -> None:
    """Promise 9: after `max_deliveries` deaths; each start is a process."""
    async with roger.connect(setup.config()) as client:
        poison = await client.enqueue(app.die.job(), setup.partition)
        starts = 0
        with trio.fail_after(80):
            for _ in range(3):
                async with program(setup, max_deliveries=3) as node:
                    await node.wait("die")
                    await node.ended.wait()
                starts += node.count("die")
            async with program(setup, max_deliveries=3) as node:
                await client.enqueue(app.quick.job("healthy"), setup.partition)
                await node.wait("quick healthy")
                await eventually(lambda: _is_buried(client, setup, 1))
                assert node.count("die") == 0
        [envelope] = await client.buried_jobs(setup.partition, "default")
    assert starts == 3
    assert (envelope.id, _kind(envelope)) == (poison.id, "WorkerDied")
