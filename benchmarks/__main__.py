"""The command: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiormq

from . import environment
from .catalogue import ALL
from .harness import Harness, ProgramFailed, Settings
from .peers import command as peers
from .report import publish, render

PEERS = "peers"
LOCAL_URL = "amqp://guest:guest@localhost:5672/"


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure roger_trio beside plain aiormq on asyncio, and on its embedded brokers"
        " beside Huey; see benchmarks/README.md.",
        epilog=f"benchmarks: {', '.join(each.name for each in ALL)}; groups of them: "
        f"{', '.join(dict.fromkeys(each.group for each in ALL if each.group))}; "
        f"or `peers`, and then lines: {', '.join(each.name for each in peers.LINES)}",
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="what to measure; default: all")
    made.add_argument("--quick", action="store_true", help="a hundredth of the work: a smoke test")
    made.add_argument(
        "--repeats", type=int, help=f"runs of each side (default: 5; of peers {peers.REPEATS})"
    )
    made.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="SECONDS",
        help="wait so long for other programs to be quiet before each benchmark (default: 0)",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument("--show", type=Path, metavar="FILE", help="print the figures of such a file")
    made.add_argument(
        "--publish", type=Path, metavar="FILE", help="put the figures of such a file into README.md"
    )
    made.add_argument(
        "--amqp",
        default=os.environ.get("ROGER_TEST_AMQP") or LOCAL_URL,
        metavar="URL",
        help="the RabbitMQ to use (default: $ROGER_TEST_AMQP, or guest on localhost)",
    )
    made.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help="of the peers, only this one"
    )
    made.add_argument("--renew", action="store_true", help="install the peers' newest versions")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 measured, 1 it could not be done."""
    made = parser()
    options = made.parse_args(arguments)
    if options.show is not None:
        print(render(json.loads(options.show.read_text())))
        return 0
    if options.publish is not None:
        publish(options.publish)
        return 0
    is_of_peers, names = options.names[:1] == [PEERS], options.names[1:]
    unknown = peers.unknown(names, options.peer) if is_of_peers else unknown_names(options.names)
    if unknown or (options.repeats is not None and options.repeats < 1):
        made.error(f"no such benchmark: {', '.join(unknown)}" if unknown else "--repeats below 1")
    try:
        results = peers.measure(options, names) if is_of_peers else measure(options)
    except (ProgramFailed, aiormq.AMQPError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(render(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0


def unknown_names(names: Sequence[str]) -> set[str]:
    """Find what is the name of no benchmark, and of no group."""
    return set(names) - {name for each in ALL for name in (each.name, each.group)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for."""
    names = set(options.names)
    repeats = options.repeats or 5
    chosen = [each for each in ALL if not names or names & {each.name, each.group}]
    settings = Settings(
        url=options.amqp,
        repeats=repeats,
        patience=options.patience,
        look=0.1 if options.quick else 1.0,
    )
    facts = environment.record(settings.url, {each.broker for each in chosen})
    with Harness(settings, lambda line: print(line, file=sys.stderr, flush=True)) as harness:
        measured = [harness.measure(each.quick() if options.quick else each) for each in chosen]
    return {
        "environment": facts,
        "quick": options.quick,
        "repeats": repeats,
        "benchmarks": measured,
    }


if __name__ == "__main__":
    sys.exit(main())
