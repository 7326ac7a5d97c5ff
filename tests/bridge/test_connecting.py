"""Connecting: what is refused for good, what is worth another try, and what is said of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from pamqp import commands

from roger_trio._brokers.base import ConnectionRefused, Message
from roger_trio._brokers.rabbitmq import link
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from roger_trio._config import AmqpConfig
from tests.bridge.running import configure, new_queue, proxied, running, works
from tests.conformance.kit import PATIENCE, Inbox, messages, settles_at
from tests.rabbitmq import free_port
from tests.unit.brokers import wire

SECRET = "s3cret-word"

Answer = Callable[[trio.SocketStream], Awaitable[None]]


async def refusal(config: AmqpConfig) -> str:
    """Run a broker that is refused at once; return what is said."""
    broker = RabbitBroker(config, prefix="", name="refused", consumes=True)
    with trio.fail_after(PATIENCE), pytest.raises(ConnectionRefused) as refused:
        await broker.run()
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(config.display)
    return text


async def trouble(config: AmqpConfig, caplog: pytest.LogCaptureFixture) -> str:
    """Run a broker that cannot connect yet, and goes on trying; return the line it logs."""
    with caplog.at_level(logging.WARNING):
        async with running(config, consumes=False) as broker:
            assert not broker.is_connected
            assert config.display in broker.trouble
            await settles_at(True, lambda: "trying again" in caplog.text)
    lines = {record.getMessage().rpartition("; ")[0] for record in caplog.records}
    assert len(lines) == 1
    assert not any(record.exc_info for record in caplog.records)
    return lines.pop()


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[AmqpConfig]:
    """Serve TCP by `answer`; yield the way there."""
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, host="127.0.0.1")
        [listener] = await nursery.start(serve, answer, 0)
        port = listener.socket.getsockname()[1]
        yield AmqpConfig(host="127.0.0.1", port=port, password=SECRET, connection_timeout=2.0)
        nursery.cancel_scope.cancel()


async def test_a_wrong_password(amqp_url: str) -> None:
    """The broker's refusal names user and virtual host in one line, and not the password."""
    text = await refusal(configure(amqp_url, password=SECRET))
    assert "refused user 'guest'" in text
    assert "ACCESS_REFUSED" in text
    assert SECRET not in text


async def test_a_wrong_virtual_host(amqp_url: str) -> None:
    """A virtual host that does not exist is a refusal that names it."""
    text = await refusal(configure(amqp_url, virtual_host="no/such host"))
    assert "'no/such host'" in text


async def test_a_closed_port(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing listens we try again, and say so in one line."""
    config = AmqpConfig(host="127.0.0.1", port=free_port(), password=SECRET)
    line = await trouble(config, caplog)
    assert "refused" in line.lower()
    assert SECRET not in line


async def test_a_host_that_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    """A name that is not found is worth another try."""
    line = await trouble(AmqpConfig(host="no-such-host.invalid", password=SECRET), caplog)
    assert "no-such-host.invalid" in line


async def test_a_host_that_no_name_can_be() -> None:
    """A name that breaks the rules of names is refused."""
    await refusal(AmqpConfig(host=f"{'a' * 64}.example", password=SECRET))


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 mail.example ESMTP ready\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"\x01\x00\x00\x00\x00\x00\x04abcd\x00",
        b"\x01\x00\x00\x7f\xff\xff\xff",
        wire.frame(commands.Basic.Ack(1), 0),
    ],
)
async def test_a_port_that_is_not_amqp(rubbish: bytes) -> None:
    """What answers in another tongue is refused, in one line without the password."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(rubbish + b"more of the same")
        await stream.receive_some()

    async with server(answer) as config:
        text = await refusal(config)
    assert SECRET not in text


async def test_a_port_that_hangs_up(caplog: pytest.LogCaptureFixture) -> None:
    """Where somebody hangs up at once we try again: it may be a broker on its way up."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with server(answer) as config:
        line = await trouble(config, caplog)
    assert SECRET not in line


async def test_a_port_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Connecting ends after `connection_timeout`, and is tried again."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    async with server(answer) as config:
        line = await trouble(config, caplog)
    assert "no connection within 2 s" in line


async def test_cancelling_while_connecting() -> None:
    """A connection that is being made can be given up at any step."""

    async def answer(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with server(answer) as config:
        broker = RabbitBroker(config, prefix="", name="impatient", consumes=True)
        with trio.fail_after(PATIENCE):
            for step in range(10):
                with trio.move_on_after(step / 500):
                    await broker.run()


async def test_certificates_that_cannot_be_read(amqp_url: str) -> None:
    """An authority's file that is gone is a refusal that names it, not the end of the program."""
    config = configure(amqp_url, ssl_options={"cafile": "gone.pem"})
    assert "gone.pem" in await refusal(config)


async def test_a_stalled_peer_is_noticed(
    amqp_url: str, prefix: str, created_queues: set[str]
) -> None:
    """A peer that keeps the line open and says nothing is given up, and found again."""
    async with (
        proxied(configure(amqp_url, heartbeat=1)) as (proxy, config),
        running(config, prefix=prefix, consumes=False) as broker,
    ):
        queue = await new_queue(broker, created_queues, prefix)
        proxy.stall()
        with trio.fail_after(10):
            await settles_at(False, lambda: broker.is_connected)
        assert "no connection" in broker.trouble
        proxy.cut()
        proxy.flow()
        await works(broker, queue)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a link that failed wait longer than any test, unless it is woken."""
    for name in ("_FIRST_DELAY", "_MAX_DELAY"):
        monkeypatch.setattr(link, name, 1000.0)


@pytest.mark.usefixtures("patience")
async def test_one_link_that_gets_through_wakes_the_others(amqp_url: str) -> None:
    """They do not wait for the end of their pause: all are up as soon as one is."""
    async with proxied(configure(amqp_url)) as (proxy, config):
        proxy.refusing = True
        async with running(config) as broker:
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert [each.is_up for each in broker._links] == [False, False]
            proxy.refusing = False
            with trio.fail_after(PATIENCE):
                await broker._speaking_link().wait_up()
                await broker.wait_connected()


@pytest.mark.usefixtures("patience")
async def test_links_that_are_cut_off_once_they_are_up_do_not_wake_each_other(
    amqp_url: str,
) -> None:
    """Each waits its time, or a broker that drops all it accepts would be asked without a pause."""
    async with proxied(configure(amqp_url)) as (proxy, config), running(config) as broker:
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
            proxy.cut()
            await settles_at([False, False], lambda: [each.is_up for each in broker._links])
            await broker._speaking_link().wait_up()
            await trio.testing.wait_all_tasks_blocked(0.2)
        assert [each.generation for each in broker._links] == [1, 1]


async def test_constant_traffic_is_life(
    amqp_url: str, prefix: str, created_queues: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With data flowing all the time and heartbeats of a second, no connection is dropped."""
    inbox = Inbox(ack=True)
    async with running(configure(amqp_url, heartbeat=1), prefix=prefix) as broker:
        queue = await new_queue(broker, created_queues, prefix)
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=10, on_delivery=inbox.put)
            caplog.clear()  # What a node is told at its start, of the broker's version.
            ends = trio.current_time() + 5.0
            sent = 0
            with trio.fail_after(PATIENCE):
                while trio.current_time() < ends:
                    await broker.publish(queue, Message(b"x"))
                    sent += 1
                await inbox.wait(sent)
        assert [link.generation for link in broker._links] == [1, 1]
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_a_lost_connection_makes_no_noise(
    amqp_url: str, prefix: str, created_queues: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A loss is one line for each connection: no traceback, and nothing of aiormq's."""
    async with (
        proxied(configure(amqp_url)) as (proxy, config),
        running(config, prefix=prefix) as broker,
    ):
        queue = await new_queue(broker, created_queues, prefix)
        async with broker.open_channel() as channel:
            await channel.subscribe(queue, prefetch=1, on_delivery=Inbox().put)
            await broker.publish_many(queue, messages(10))
            caplog.clear()
            proxy.cut()
            await settles_at([2, 2], lambda: [link.generation for link in broker._links])
        await works(broker, queue)
    noise = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(record.name.startswith("roger_trio") for record in noise)
    assert not any(record.exc_info for record in noise)
    assert len(noise) == 2


async def test_the_first_way_in_is_awaited(amqp_url: str) -> None:
    """While the broker cannot be reached the start goes on, and it connects once it can be."""
    async with proxied(configure(amqp_url)) as (proxy, config):
        proxy.refusing = True
        async with running(config, consumes=False) as broker:
            assert not broker.is_connected
            proxy.refusing = False
            with trio.fail_after(PATIENCE):
                await broker.wait_connected()
