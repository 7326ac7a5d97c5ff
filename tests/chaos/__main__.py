"""The command: ``python -m tests.chaos --help``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks import environment
from tests.amqp import NoRabbitMQ

from .campaign import run
from .report import publish, render, report, write
from .schedule import BROKERS, BrokerName, plan_faults
from .system import Settings

_SHOWN: Final = 10
"""Violations whose story is printed; the JSON has all."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Run real nodes under a mixed load while things break, and account for every "
        "job; see docs/reliability.md. Exit status: 0 all promises were kept, 1 not.",
    )
    made.add_argument("--seed", type=int, default=1, help="of schedule and load (default: 1)")
    made.add_argument(
        "--duration",
        type=float,
        default=600,
        metavar="SECONDS",
        help="of load and faults, for each broker (default: 600)",
    )
    made.add_argument(
        "--broker", choices=(*BROKERS, "both"), default="both", help="(default: both)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--publish", type=Path, metavar="PAGE", help="put the figures into docs/reliability.md"
    )
    made.add_argument(
        "--report", type=Path, metavar="FILE", help="make no run: show, or publish, such figures"
    )
    made.add_argument("--schedule", action="store_true", help="make no run: show what would be")
    made.add_argument("--log", default="WARNING", metavar="LEVEL", help="of the nodes")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="keep journals and logs there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parser().parse_args(arguments)
    brokers: tuple[BrokerName, ...] = BROKERS if options.broker == "both" else (options.broker,)
    if options.schedule:
        for broker in brokers:
            for fault in plan_faults(options.seed, options.duration, broker):
                print(f"{broker} {fault.at:7.2f} {fault.kind} {fault.target} {fault.lasts:g}")
        return 0
    if options.report is not None:
        results = json.loads(options.report.read_text(encoding="utf-8"))
    else:
        try:
            results = campaign(options, brokers)
        except NoRabbitMQ as exc:
            print(exc, file=sys.stderr)
            return 1
    print(render(results))
    if options.json is not None:
        write(results, options.json)
    if options.publish is not None:
        publish(results, options.publish)
    return 1 if any(each["violations"] for each in results["runs"]) else 0


def campaign(options: argparse.Namespace, brokers: Sequence[BrokerName]) -> dict[str, Any]:
    """Make the runs that were asked for."""
    words = f"--seed {options.seed} --duration {options.duration:g} --broker {options.broker}"
    results: dict[str, Any] = {
        "command": f"nox -s chaos -- {words}",
        "environment": environment.record_machine(),
        "runs": [],
    }
    for broker in brokers:
        folder = Path(tempfile.mkdtemp(prefix=f"roger-chaos-{broker}-", dir=options.keep))
        print(f"{broker}: journals and logs are in {folder}", file=sys.stderr)
        settings = Settings(options.seed, options.duration, broker, folder, options.log)
        figures, account = report(trio.run(run, settings))
        results["runs"].append(figures)
        for violation in account.violations[:_SHOWN]:
            print(violation, file=sys.stderr)
        count = len(account.violations)
        print(f"{broker}: seed {options.seed}, {count} violations", file=sys.stderr)
        if not count and options.keep is None:
            shutil.rmtree(folder)
    return results


if __name__ == "__main__":
    sys.exit(main())
