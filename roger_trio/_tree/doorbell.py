"""The socket at which a node tells probes on its machine how it is, broker or no broker.

Whoever connects gets one line of JSON, and the end. That the line comes shows that the node's loop
turns, which no file could: one would have to be written again and again, and judged by its age.
The sockets of a user lie in one folder that nobody else can enter; the name says which cluster and
which process. A node that was killed leaves its socket, which then refuses connections.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

import attrs
import orjson
import trio

from .._config import AmqpConfig, Config, SqliteConfig
from .._info import Health
from .._state.binding import cluster_name

logger = logging.getLogger(__name__)

RUN_DIRECTORY: Final = "ROGER_RUN_DIR"
"""The environment variable that names where the folder of the sockets is made."""
_NAME: Final = re.compile(r"([0-9a-f]{16})-(\d+)-[0-9a-f]{4}\.sock")
_BACKLOG: Final = 16
_WRITE_TIMEOUT: Final = 1.0
_MOST: Final = 256 * 1024
"""Bytes that a node may have to say."""


def run_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the sockets of this user.

    Not the session's runtime directory: that comes and goes with logins, and a service and a
    person who looks after it have different ones.
    """
    parent = environ.get(RUN_DIRECTORY) or tempfile.gettempdir()
    return Path(parent).absolute() / f"roger-{os.getuid()}"


def cluster_id(config: Config) -> str:
    """Return what the names of a cluster's sockets begin with."""
    address = config.broker_config()
    if isinstance(address, AmqpConfig):
        return cluster_name(address, config.prefix)
    path = str(Path(address.path).resolve()) if isinstance(address, SqliteConfig) else ""
    return hashlib.sha256(json.dumps([path, config.prefix]).encode()).hexdigest()[:16]


# The node's side...


async def answer(config: Config, health: Callable[[], Health]) -> None:
    """Answer probes until cancelled; one that cannot be answered does not matter.

    Where there can be no socket, a WARNING says so, and that is all.

    Args:
        config: The node's.
        health: Tells how it is now.
    """
    folder = run_directory()
    name = f"{cluster_id(config)}-{os.getpid()}-{token_hex(2)}.sock"
    try:
        with _listening(folder / name) as listener:
            await _serve(listener, health)
    except OSError as exc:
        text = "`roger health` cannot ask this node: %s; name another folder in %s"
        logger.warning(text, f"{folder}: {exc.strerror or exc}", RUN_DIRECTORY)


@contextmanager
def _listening(path: Path) -> Generator[trio.SocketListener]:
    _make_private(path.parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.bind(str(path))
        try:
            opened.listen(_BACKLOG)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(opened))
        finally:
            path.unlink(missing_ok=True)


def _make_private(folder: Path) -> None:
    """Make a folder that is this user's alone, or make sure that it is.

    Raises:
        OSError: It cannot be made, or is somebody else's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write there", str(folder))


async def _serve(listener: trio.SocketListener, health: Callable[[], Health]) -> None:
    async def tell(stream: trio.SocketStream) -> None:
        with trio.move_on_after(_WRITE_TIMEOUT), suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(orjson.dumps(attrs.asdict(health())) + b"\n")

    await trio.serve_listeners(tell, [listener])


# The probe's side...


@attrs.frozen(kw_only=True)
class Found:
    """A node's socket, and what came out of it."""

    pid: int
    health: Health | None
    """None: it did not answer in time."""


async def ask_all(config: Config | None, *, timeout: float) -> list[Found]:
    """Ask all nodes of this user on this machine how they are.

    Sockets that dead nodes left are removed.

    Args:
        config: Of which cluster; None: of all.
        timeout: Seconds that they have to answer.

    Raises:
        OSError: The folder of the sockets cannot be read, or is somebody else's.
    """
    folder = run_directory()
    if not folder.exists():
        return []
    _make_private(folder)
    wanted = None if config is None else cluster_id(config)
    found: list[Found] = []

    async def ask(path: Path, pid: int) -> None:
        health: Health | None = None
        try:
            with trio.move_on_after(timeout):
                health = await _ask(path)
        except (ConnectionRefusedError, FileNotFoundError):
            _remove(path)
            return
        except (OSError, ValueError, TypeError, KeyError) as exc:
            logger.debug("%s: %r", path, exc)
        found.append(Found(pid=pid, health=health))

    async with trio.open_nursery() as nursery:
        for path, pid in _sockets(folder, wanted):
            nursery.start_soon(ask, path, pid)
    return sorted(found, key=lambda each: each.pid)


def _sockets(folder: Path, cluster: str | None) -> Iterator[tuple[Path, int]]:
    """Yield path and process id of each socket; of one cluster, or of all."""
    for path in folder.iterdir():
        named = _NAME.fullmatch(path.name)
        if named is not None and cluster in (None, named[1]):
            yield path, int(named[2])


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _ask(path: Path) -> Health:
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as opened:
        await opened.connect(str(path))
        said = bytearray()
        while (part := await opened.recv(_MOST)) and len(said) < _MOST:
            said += part
    fields = orjson.loads(said)
    return Health(
        node=str(fields["node"]),
        live=fields["live"] is True,
        ready=fields["ready"] is True,
        reasons=tuple(map(str, fields["reasons"])),
    )
