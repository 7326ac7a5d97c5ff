"""Where the state of partitions is kept: looked at, and judged."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

import attrs

from .._config import AmqpConfig, Config
from .._persisters import BrokerPersister, FilePersister, MemoryPersister
from .._persisters.file import default_directory
from .._state.binding import cluster_name
from .findings import Finding, error, listed, ok, size, warning

_LITTLE: Final = 64 * 1024**2
"""Free bytes below which the state may soon find no room."""

Kind = Literal["broker", "file", "memory", "own"]


@attrs.frozen(kw_only=True)
class StateFacts:
    """Where partitions' state is kept."""

    kind: Kind
    place: str = ""
    """The directory, or the class of a persister of the user's own."""
    problem: str = ""
    """Why it cannot be written there."""
    free: int = 0
    """Bytes that are free there."""


def look(config: Config) -> StateFacts:
    """Find out where the state is kept, and try to write there; blocks. Nothing is left behind."""
    persister, address = config.persister, config.broker_config()
    if isinstance(persister, MemoryPersister):
        return StateFacts(kind="memory")
    if isinstance(persister, BrokerPersister):
        return StateFacts(kind="broker")
    if not isinstance(persister, FilePersister):
        return StateFacts(kind="own", place=type(persister).__qualname__)
    directory = persister.path
    if directory is None:
        if not isinstance(address, AmqpConfig):
            return StateFacts(kind="broker")
        directory = default_directory() / cluster_name(address, config.prefix)
    return _look_at(directory.absolute())


def _look_at(directory: Path) -> StateFacts:
    problem, free = "", 0
    try:
        there = next(each for each in (directory, *directory.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if there == directory:
            with tempfile.TemporaryFile(dir=directory):
                pass
        elif not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            problem = f"it cannot be made in {str(there)!r}"
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    return StateFacts(kind="file", place=str(directory), problem=problem, free=free)


def judge(facts: StateFacts, hosts: Collection[str], *, is_shared: bool) -> list[Finding]:
    """Judge where the state is kept.

    Args:
        facts: Where that is.
        hosts: The hosts that nodes run on now.
        is_shared: Whether nodes may be on several hosts: not with an embedded broker.
    """
    findings = [_place(facts)]
    if facts.kind in ("file", "memory") and is_shared and hosts:
        findings.append(_hosts(facts, hosts))
    return findings


def _place(facts: StateFacts) -> Finding:
    id = "state.place"
    match facts.kind:
        case "broker":
            return ok(id, "kept in the broker")
        case "memory":
            return warning(
                id,
                "kept in memory: held keys, cancelled jobs and paused queues are forgotten when "
                "the node ends",
                "use FilePersister() or BrokerPersister(), except in tests",
            )
        case "own":
            return ok(id, f"kept by {facts.place}, which is not ours to look into")
        case "file":
            return _directory(id, facts)


def _directory(id: str, facts: StateFacts) -> Finding:
    if facts.problem:
        return error(
            id,
            f"cannot be written to {facts.place!r}: {facts.problem}",
            "change the directory's owner or mode, or choose another one: "
            "Config(persister=FilePersister(PATH))",
        )
    if facts.free < _LITTLE:
        return warning(id, f"{facts.place!r}, {size(facts.free)} free", "make room on the disk")
    return ok(id, f"{facts.place!r}, {size(facts.free)} free")


def _hosts(facts: StateFacts, hosts: Collection[str]) -> Finding:
    id = "state.hosts"
    if len(hosts) > 1:
        return error(
            id,
            f"nodes run on {listed(sorted(hosts))}, and each host keeps a state of its own: keys, "
            "pauses and cancellations are lost whenever another host's node becomes the "
            "coordinator",
            "configure persister=BrokerPersister() on all of them",
        )
    return ok(id, "all nodes that answer are on one host")
