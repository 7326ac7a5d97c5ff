"""``roger health``, as a container's probes call it: fast, and right about live and dead."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from tests.acceptance.command import PATIENCE, Roger
from tests.proxy import Proxy


@pytest.fixture(autouse=True)
def _sockets(roger: Roger) -> Iterator[None]:
    """Have sockets in a folder of our own; pytest's have names too long for them."""
    with TemporaryDirectory(prefix="roger") as folder:
        roger.environment["ROGER_RUN_DIR"] = folder
        yield


async def health(roger: Roger, *words: str) -> tuple[int, dict[str, Any]]:
    """Ask; return exit status and document."""
    done = await roger("health", *words, "--json")
    assert done.err == "", done
    return done.status, json.loads(done.out)


async def eventually(roger: Roger, *, ready: bool) -> dict[str, Any]:
    """Ask until a live node is ready, or is not; return what it says."""
    with trio.fail_after(PATIENCE):
        while True:
            status, found = await health(roger)
            assert found["live"]
            assert status == (0 if found["ready"] else 1)
            if found["ready"] == ready:
                return found


@asynccontextmanager
async def proxied(roger: Roger, url: str) -> AsyncGenerator[Proxy]:
    """Have the app reach its broker through a proxy."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    proxy = Proxy(parts.hostname, parts.port or 5672)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        roger.environment["ROGER_BROKER"] = parts._replace(
            netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}",
            query="queue_settle_time=0",
        ).geturl()
        yield proxy
        nursery.cancel_scope.cancel()


@contextmanager
def silent_node(roger: Roger) -> Iterator[trio.SocketListener]:
    """Have a socket as a node of this process would, at which nobody answers."""
    folder = Path(roger.environment["ROGER_RUN_DIR"]) / f"roger-{os.getuid()}"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.bind(str(folder / f"{'0' * 16}-{os.getpid()}-abcd.sock"))
        opened.listen()
        yield trio.SocketListener(trio.socket.from_stdlib_socket(opened))


async def test_a_broker_outage_makes_a_node_unready_and_not_dead(
    roger: Roger, amqp_url: str
) -> None:
    """While the broker is away the node is live, and says why it is not ready; then it is again."""
    async with proxied(roger, amqp_url) as proxy, roger.serving():
        found = await eventually(roger, ready=True)
        assert [each["reasons"] for each in found["nodes"]] == [[]]

        proxy.refusing = True
        proxy.cut()
        found = await eventually(roger, ready=False)
        assert "no connection to amqp://" in found["nodes"][0]["reasons"][0]
        assert "guest:***@" in found["nodes"][0]["reasons"][0]
        assert (await health(roger, "--live"))[0] == 0

        proxy.refusing = False
        await eventually(roger, ready=True)


async def test_a_node_that_starts_without_its_broker_is_live(roger: Roger) -> None:
    """From the beginning it tells that it lives, and what it waits for."""
    roger.environment["ROGER_BROKER"] = "amqp://guest:guest@127.0.0.1:1/"
    async with roger.running("serve", "app:config") as node:
        await node.wait_log("no connection to the broker")
        found = await eventually(roger, ready=False)
        node.signal(SIGTERM)
        assert await node.wait() == 0
    assert "no connection" in found["nodes"][0]["reasons"][0]


async def test_a_frozen_node_is_not_live(roger: Roger) -> None:
    """One that does not answer in time is dead to a probe, and lives again when it goes on."""
    roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"
    async with roger.serving() as node:
        node.signal(SIGSTOP)
        status, found = await health(roger, "--live", "--timeout", "0.5")
        node.signal(SIGCONT)
        assert (status, found["live"]) == (1, False)
        assert "does not answer" in found["nodes"][0]["reasons"][0]
        assert (await health(roger, "--live"))[0] == 0


async def test_a_frozen_node_is_not_said_to_be_gone(roger: Roger) -> None:
    """Nobody can tell whether one that does not answer has the name asked for: it is shown."""
    with silent_node(roger) as listener:
        async with listener:
            words = ("health", "--node", "ada", "--timeout", "0.1")
            table = await roger(*words)
            status, found = await health(roger, *words[1:])
    assert table.status == status == 1
    assert table.out.splitlines()[1].split()[:4] == ["-", str(os.getpid()), "no", "no"]
    assert table.err == "no node that answers is 'ada'; one that does not may be it\n"
    assert (found["live"], found["ready"]) == (False, False)
    assert [each["pid"] for each in found["nodes"]] == [os.getpid()]


async def test_interrupted_while_a_node_says_nothing(roger: Roger) -> None:
    """Ctrl-C ends a probe that waits for a frozen node, without a traceback."""
    with silent_node(roger) as listener:
        async with roger.running("health", "--timeout", "600") as command, listener:
            with trio.fail_after(PATIENCE):
                connection = await listener.accept()
            async with connection:
                command.signal(SIGINT)
                assert await command.wait() == 130
    assert (command.log, command.out) == ([], "")


async def test_which_nodes_are_asked(roger: Roger) -> None:
    """Those of the configuration's cluster, or one by its name; where there is none, it is said."""
    roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"
    async with roger.serving() as node:
        _, found = await health(roger, "app:config")
        name = found["nodes"][0]["node"]
        table = await roger("health", "--node", name)
        assert table.status == 0
        assert table.out.splitlines()[1].split() == [
            name, str(found["nodes"][0]["pid"]), "yes", "yes",
        ]  # fmt: skip
        other = await roger("health", "--node", "another")
        assert (other.status, other.out) == (1, "")
        assert other.err.startswith("node 'another' does not run here")
        roger.environment["ROGER_BROKER"] = "sqlite:other.db"
        assert (await health(roger, "app:config"))[0] == 1
        assert (await health(roger))[0] == 0
        node.signal(SIGKILL)
        await node.wait()
    done = await roger("health", "--live")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("no node runs here")
