"""The figures as tables: Markdown, which can be read as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..harness import QUIET, Summary
from .line import TARGETS, UNITS, Target, value
from .peer import PEERS, TITLES

_DIGITS: Final = {"per_second": 0, "busy_percent": 0, "median_ms": 2, "p99_ms": 2}
_WALL_CLOCK: Final = frozenset(("per_second", "median_ms", "p99_ms"))


def render(results: dict[str, Any]) -> str:
    """Write results as Markdown: environment, figures, targets, what failed."""
    parts = (_environment, _figures, _targets, _failures)
    texts = ("\n".join(part(results)).strip() for part in parts)
    return "\n\n".join(text for text in texts if text)


def _environment(results: dict[str, Any]) -> Iterator[str]:
    facts = results["environment"]
    repeats = max(
        (len(runs) for line in results["lines"] for runs in line["runs"].values()), default=0
    )
    memory = f"{facts['memory_mib'] / 1024:.1f} GiB"
    quick = ", quick: they mean nothing" if results["quick"] else ""
    yield f"- {facts['date']}, {repeats} repeats{quick}"
    yield f"- {facts['python']}"
    for peer, versions in results["versions"].items():
        packages = ", ".join(f"{name} {number}" for name, number in versions.items())
        yield f"- {TITLES[peer]}: {packages}"
    for reason in results["missing"].values():
        yield f"- not measured: {reason}"
    yield f"- {facts['cpu']}, {facts['cores']} cores, {memory}; {facts['system']}"
    yield f"- {facts['broker']}, on {facts['broker_runs_on']}"


def _figures(results: dict[str, Any]) -> Iterator[str]:
    peers = measured_peers(results)
    heads = ("what", "unit", *(TITLES[each] for each in peers), "others busy")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for line in results["lines"]:
        for metric, summaries in line["metrics"].items():
            digits = _DIGITS.get(metric, 1)
            cells = [_spread(summaries.get(each), digits) for each in peers]
            yield f"| {' | '.join((line['title'], UNITS[metric], *cells, _busy(line)))} |"


def measured_peers(results: dict[str, Any]) -> list[str]:
    """Name the peers that have any figure, in our order."""
    seen = {name for line in results["lines"] for name in line["runs"]}
    return [peer.name for peer in PEERS if peer.name in seen]


def _spread(summary: Summary | None, digits: int) -> str:
    if summary is None:
        return ""
    median, least, most = (f"{summary[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"**{median}**" if least == most else f"**{median}** ({least} … {most})"


def _busy(line: dict[str, Any]) -> str:
    shares = line["others_busy_before"]
    return f"{min(shares):.0%} … {max(shares):.0%}" if shares else "?"


def _targets(results: dict[str, Any]) -> Iterator[str]:
    figures = {line["name"]: line for line in results["lines"]}
    rows = [_target(each, figures) for each in TARGETS]
    if any(rows):
        yield "| target | limit | measured | |"
        yield "|---|---|---|---|"
        yield from filter(None, rows)


def _target(target: Target, figures: dict[str, dict[str, Any]]) -> str:
    measured = value(target, figures)
    if measured is None:
        return ""
    sign = "≥" if target.at_least else "≤"
    ratio = ", ratio" if target.peers or target.itself else ""
    verdict = "met" if target.is_met(measured) else "**missed**"
    shares = _shares(target.lines + target.peers + target.itself, figures)
    if target.metric in _WALL_CLOCK and shares and max(shares) > QUIET:
        verdict += f", but others used up to {max(shares):.0%} of the processors"
    what = f"{target.title}: {UNITS[target.metric]}{ratio}"
    return f"| {what} | {sign} {target.limit:,g} | {measured:,.2f} | {verdict} |"


def _shares(lines: Sequence[str], figures: dict[str, dict[str, Any]]) -> list[float]:
    return [
        share for line in lines if line in figures for share in figures[line]["others_busy_before"]
    ]


def _failures(results: dict[str, Any]) -> Iterator[str]:
    for line in results["lines"]:
        for peer, messages in line["failures"].items():
            first = messages[0].splitlines()[0]
            yield f"- failed {len(messages)} times: {TITLES[peer]}, {line['title']}: {first}"
