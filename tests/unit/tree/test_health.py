"""How a node says that it is well: the decision, and the socket that probes ask."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._info import Health
from roger_trio._tree import doorbell
from roger_trio._tree.doorbell import ask_all, cluster_id, run_directory
from roger_trio._tree.health import QueueState, judge

PATIENCE = 20.0
GOOD = QueueState(partition="p", queue="q", is_consuming=True, is_paused=False)
PAUSED = QueueState(partition="p", queue="paused", is_consuming=False, is_paused=True)
REFUSED = QueueState(
    partition="p", queue="bad", is_consuming=False, is_paused=False, failure="no permission"
)
OPENING = QueueState(partition="p", queue="new", is_consuming=False, is_paused=False)


def judged(*queues: QueueState, **changes: Any) -> Health:
    """Judge a node that is well but for what is said."""
    known: dict[str, Any] = {"is_running": True, "is_stopping": False, "trouble": ""}
    return judge("n", **{**known, **changes}, queues=queues)


# The decision...


@pytest.mark.parametrize("queues", [(), (GOOD,), (GOOD, PAUSED)])
def test_a_node_that_consumes_is_ready(queues: tuple[QueueState, ...]) -> None:
    """One that has nothing to consume is ready too, and a paused queue is as it should be."""
    assert judged(*queues) == Health(node="n", live=True, ready=True, reasons=())


@pytest.mark.parametrize(
    ("changes", "queues", "live", "reasons"),
    [
        ({"trouble": "no connection"}, (OPENING,), True, ["no connection"]),
        ({"is_stopping": True}, (), True, ["it is stopping"]),
        ({"is_running": False}, (), False, ["it does not run"]),
        ({}, (GOOD, REFUSED), True,
         ["queue 'bad' of partition 'p' is not consumed: no permission"]),
        ({}, (OPENING,), True,
         ["queue 'new' of partition 'p' is not consumed: it is being opened"]),
    ],
)  # fmt: skip
def test_why_a_node_is_not_ready(
    changes: dict[str, Any], queues: tuple[QueueState, ...], live: bool, reasons: list[str]
) -> None:
    """It is told why; only a node that does not run is dead."""
    found = judged(*queues, **changes)
    assert (found.live, found.ready, list(found.reasons)) == (live, False, reasons)


async def test_a_node_tells_its_own_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready once it is started, stopping and then dead afterwards; without asking anybody."""
    config = roger.Config(broker="memory:", partitions={"p": {"q": 1}}, node_name="n")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            node = await nursery.start(roger.serve, config)
            assert node.health() == Health(node="n", live=True, ready=True, reasons=())
            await node.reconfigure("p", {"q": 1, "r": 1})
            assert node.health().ready
            node.stop()
            assert node.health() == Health(
                node="n", live=True, ready=False, reasons=("it is stopping",)
            )
    assert not node.health().live


# The socket...


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of our own for sockets; pytest's have names too long for them."""
    with TemporaryDirectory(prefix="roger") as made:
        monkeypatch.setenv(doorbell.RUN_DIRECTORY, made)
        yield run_directory()


def made(folder: Path, mode: int = 0o700) -> Path:
    """Make the folder."""
    folder.mkdir()
    folder.chmod(mode)
    return folder


def names_in(folder: Path) -> list[str]:
    """List what lies in the folder, which is its user's alone."""
    assert folder.stat().st_mode & 0o777 == 0o700
    return sorted(each.name for each in folder.iterdir())


CONFIG = roger.Config(broker="sqlite:one.db")
WELL = Health(node="n", live=True, ready=True, reasons=())
ILL = Health(node="é", live=True, ready=False, reasons=("a", "b"))


async def asked(
    config: roger.Config | None, *nodes: tuple[roger.Config, Health], timeout: float = PATIENCE
) -> list[Health | None]:
    """Ask while nodes answer."""
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for its, health in nodes:
                nursery.start_soon(doorbell.answer, its, lambda health=health: health)
            await trio.testing.wait_all_tasks_blocked()
            found = await ask_all(config, timeout=timeout)
            nursery.cancel_scope.cancel()
    assert {each.pid for each in found} <= {os.getpid()}
    return [each.health for each in found]


async def test_what_a_node_says_is_heard(folder: Path) -> None:
    """All that it says of itself arrives; nothing is left of the socket."""
    assert await asked(CONFIG, (CONFIG, ILL)) == [ILL]
    assert names_in(folder) == []
    assert await ask_all(CONFIG, timeout=1) == []


async def test_only_nodes_of_the_cluster_are_asked() -> None:
    """A cluster is one broker and prefix; without one, all nodes are asked."""
    other = roger.Config(broker="sqlite:one.db", prefix="other-")
    assert await asked(CONFIG, (CONFIG, WELL), (other, ILL)) == [WELL]
    found = await asked(None, (CONFIG, WELL), (other, ILL))
    assert sorted(each.node for each in found if each) == ["n", "é"]


def test_a_cluster_is_known_by_where_its_broker_is() -> None:
    """However its address is written; another address, prefix or file is another cluster."""
    urls = ("amqp://a:b@localhost/", "amqp://c:d@127.0.0.1:5672/", "amqp://localhost:5673/",
            "sqlite:a.db", "sqlite:./a.db", "sqlite:b.db")  # fmt: skip
    one, two, other, *files = (cluster_id(roger.Config(broker=url)) for url in urls)
    assert one == two
    assert files[0] == files[1]
    assert len({one, other, files[0], files[2]}) == 4


async def test_a_node_that_hangs_is_told_of(folder: Path) -> None:
    """Its socket takes the connection, and says nothing: it is listed as not answering."""
    made(folder)
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(folder / f"{cluster_id(CONFIG)}-77-abcd.sock"))
        hanging.listen()
        (found,) = await ask_all(CONFIG, timeout=0.1)
    assert (found.pid, found.health) == (77, None)


async def test_what_says_rubbish_is_not_healthy(folder: Path) -> None:
    """Whatever answers there, only a node's own words count."""
    made(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / f"{cluster_id(CONFIG)}-77-abcd.sock"))
    listener.listen()

    async def serve() -> None:
        with trio.socket.from_stdlib_socket(listener) as opened:
            peer, _ = await opened.accept()
            with peer:
                await peer.send(b'{"node": 1}')

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            (found,) = await ask_all(CONFIG, timeout=PATIENCE)
    assert found.health is None


async def test_a_dead_node_leaves_nothing_for_long(folder: Path) -> None:
    """A socket that nobody listens at is no node, and is removed; other files are left alone."""
    left = made(folder) / f"{cluster_id(CONFIG)}-77-abcd.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(left))
    await (trio.Path(folder) / "theirs.sock").touch()
    assert await ask_all(CONFIG, timeout=1) == []
    assert names_in(folder) == ["theirs.sock"]


async def test_a_folder_that_others_can_write_to_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node says so in its log and does without; who asks is told."""
    made(folder, 0o777)
    caplog.set_level(logging.WARNING)
    with trio.fail_after(PATIENCE):
        await doorbell.answer(CONFIG, lambda: WELL)
    assert doorbell.RUN_DIRECTORY in caplog.text
    with pytest.raises(PermissionError):
        await ask_all(CONFIG, timeout=1)


async def test_a_path_that_is_too_long_does_not_stop_a_node(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there can be no socket, the log names the folder and how to choose another."""
    monkeypatch.setenv(doorbell.RUN_DIRECTORY, str(folder.parent / ("x" * 100)))
    with trio.fail_after(PATIENCE):
        await doorbell.answer(CONFIG, lambda: WELL)
    assert "too long" in caplog.text
