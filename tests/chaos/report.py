"""The figures of runs: JSON to keep, Markdown to read, and the part of a page that they fill."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from .account import check
from .campaign import Record
from .history import read_history
from .returns import BROKER_BACK_WITHIN, NODE_REPLACED_WITHIN, broker_returns, node_deaths
from .verdict import Account

_PART: Final = re.compile(r"<!-- figures: begin -->\n(.*?)<!-- figures: end -->", re.DOTALL)


def report(record: Record) -> tuple[dict[str, Any], Account]:
    """Account for a run; return its figures, and what was violated."""
    history = read_history(record.events)
    account = check(history, record.left)
    struck = Counter(each.kind for each in history.faults)
    skipped = sum(
        each.what == "fault" and each.data["phase"] == "skipped" for each in record.events
    )
    figures = {
        "broker": record.settings.broker,
        "broker_version": record.version,
        "seed": record.settings.seed,
        "duration": record.settings.duration,
        "faults": sum(struck.values()),
        "faults_skipped": skipped,
        "by_kind": dict(sorted(struck.items())),
        "counts": account.counts,
        "drained": round(record.drained, 2),
        "back_after_broker": broker_returns(record.events),
        "back_after_node": node_deaths(history),
        "busy": record.busy,
        "violations": [
            {"rule": each.rule, "job": each.job, "text": each.text, "story": each.story}
            for each in account.violations
        ],
    }
    return figures, account


def promises(runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, bool]]:
    """Tell for each target of a campaign: what, measured, and whether it was met."""
    rules = Counter(each["rule"] for run in runs for each in run["violations"])
    lost = rules.pop("nothing is lost", 0)
    leaked = rules.pop("no key leaks", 0)
    at_once = sum(rules.pop(each) for each in list(rules) if each.startswith("never two at once"))
    yield "jobs lost: 0", str(lost), not lost
    yield "keys leaked: 0", str(leaked), not leaked
    yield "overlaps of one key, or of one job on one node: 0", str(at_once), not at_once
    others = ", ".join(f"{rule}: {count}" for rule, count in sorted(rules.items()))
    yield "other promises broken: 0", others or "0", not rules
    back = [each for run in runs for each in run["back_after_broker"]["calm"]]
    if back:
        text = f"{statistics.median(back):.1f} s median, {max(back):.1f} s at most, of {len(back)}"
        target = f"all queues consumed again within {BROKER_BACK_WITHIN:g} s of the broker's return"
        yield target, text, max(back) <= BROKER_BACK_WITHIN
    free = [each for run in runs for each in run["back_after_node"]["free"]]
    if free:
        text = f"{statistics.median(free):.2f} s median, {max(free):.2f} s at most, of {len(free)}"
        target = f"a dead node's jobs started again within {NODE_REPLACED_WITHIN:g} s"
        yield target, text, max(free) <= NODE_REPLACED_WITHIN


def render(results: dict[str, Any]) -> str:
    """Write the figures of a campaign as Markdown."""
    parts = (_environment(results), _targets(results), _counts(results), _kinds(results))
    return "\n\n".join("\n".join(part) for part in parts)


def _environment(results: dict[str, Any]) -> Iterator[str]:
    facts, runs = results["environment"], results["runs"]
    brokers = ", ".join(dict.fromkeys(each["broker_version"] for each in runs))
    seeds = ", ".join(dict.fromkeys(str(each["seed"]) for each in runs))
    yield f"- `{results['command']}`; {facts['date']}, seed {seeds}"
    yield f"- {brokers}; {facts['python']}; {facts['system']}"
    yield f"- {facts['cpu']}, {facts['cores']} cores, {facts['memory_mib'] / 1024:.1f} GiB"
    busy = max((each["busy"] for each in runs if each["busy"] is not None), default=None)
    share = "unknown" if busy is None else f"{busy:.0%}"
    note = "" if busy is None or busy <= 0.1 else ": **the machine was busy with other work**"
    yield f"- processor time that others used just before: {share}{note}"


def _targets(results: dict[str, Any]) -> Iterator[str]:
    yield "| target | measured | |"
    yield "|---|---|---|"
    for target, measured, is_met in promises(results["runs"]):
        yield f"| {target} | {measured} | {'met' if is_met else '**missed**'} |"


def _counts(results: dict[str, Any]) -> Iterator[str]:
    runs = results["runs"]
    yield _row("", (each["broker"] for each in runs))
    yield _row("---", ("---" for _ in runs))
    yield _row("seconds of load and faults", (f"{each['duration']:g}" for each in runs))
    yield _row("faults", (each["faults"] for each in runs))
    names = dict.fromkeys(name for each in runs for name in each["counts"])
    for name in sorted(names):
        yield _row(name, (each["counts"].get(name, 0) for each in runs))
    yield _row("seconds until all queues were empty", (each["drained"] for each in runs))
    text = "seconds until a dead node's jobs started again, where another was struck or none free"
    yield _row(text, (_spread(each["back_after_node"]["hindered"]) for each in runs))


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    median, most = statistics.median(seconds), max(seconds)
    return f"{median:.2f} median, {most:.2f} at most, of {len(seconds)}"


def _kinds(results: dict[str, Any]) -> Iterator[str]:
    runs = results["runs"]
    yield _row("fault", (each["broker"] for each in runs))
    yield _row("---", ("---" for _ in runs))
    for name in dict.fromkeys(name for each in runs for name in each["by_kind"]):
        yield _row(name, (each["by_kind"].get(name, "-") for each in runs))


def _row(first: str, cells: Iterator[object]) -> str:
    return f"| {' | '.join((first, *map(str, cells)))} |"


def publish(results: dict[str, Any], page: Path) -> None:
    """Put the figures between the marks of a page.

    Raises:
        ValueError: The page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if not _PART.search(text):
        raise ValueError(f"{page}: expected the lines <!-- figures: begin --> and … end -->")
    part = f"<!-- figures: begin -->\n\n{render(results)}\n\n<!-- figures: end -->"
    page.write_text(_PART.sub(lambda _: part, text), encoding="utf-8")


def write(results: dict[str, Any], path: Path) -> None:
    """Keep the figures."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
