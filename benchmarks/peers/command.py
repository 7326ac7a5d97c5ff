"""The command: ``python -m benchmarks peers``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from .. import environment, queues
from ..harness import QUIET
from . import installs, processes
from .line import LINES
from .peer import PEERS, Peer
from .run import Installed, Run, measure_all

REPEATS: Final = 3
MINUTES: Final = 20.0
"""No line is begun later than that."""


def measure(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Measure lines, all of them unless some are named, of the peers that can be installed.

    Raises:
        OSError, aiormq.AMQPError: The broker cannot be reached.
    """
    if not processes.is_supported():
        raise OSError("peers: expected Linux, whose /proc tells what processes use")
    facts = environment.record(options.amqp, {"rabbitmq"})
    installed, versions, missing = _install(_chosen_peers(options.peer), renew=options.renew)
    lines = [line for line in LINES if not names or line.name in names]
    shared = {name for each in installed for name in each.peer.shares}
    absent = queues.absent(options.amqp, sorted(shared))
    try:
        results = measure_all(
            Run(options.amqp),
            [line.quick() for line in lines] if options.quick else lines,
            installed,
            1 if options.quick else options.repeats or REPEATS,
            minutes=MINUTES,
            wait_quiet=partial(
                environment.wait_quiet, QUIET, 0.1 if options.quick else 1.0, options.patience, say
            ),
            say=say,
        )
    finally:
        queues.delete(options.amqp, absent)
    return {
        "kind": "peers",
        "environment": facts,
        "quick": options.quick,
        "versions": versions,
        "missing": missing,
        "lines": results,
    }


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def unknown(names: Iterable[str], peers: Iterable[str]) -> set[str]:
    """Find what is the name of no line, and of no peer."""
    strange = set(names) - {line.name for line in LINES}
    return strange | set(peers) - {peer.name for peer in PEERS}


def _chosen_peers(names: Sequence[str]) -> list[Peer]:
    return [peer for peer in PEERS if not names or peer.name in names]


def _install(
    peers: Iterable[Peer], *, renew: bool
) -> tuple[list[Installed], dict[str, dict[str, str]], dict[str, str]]:
    """Install peers; return those that are, their versions, and why the others are not."""
    done: list[Installed] = []
    versions: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}
    for peer in peers:
        try:
            python = installs.install(peer, say, renew=renew and not peer.base)
            versions[peer.name] = installs.versions(peer, python)
        except installs.NotInstalled as exc:
            say(str(exc))
            missing[peer.name] = str(exc)
        else:
            done.append(Installed(peer=peer, python=python))
    return done, versions, missing
