"""The figures as a table: Markdown, which can be read as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .catalogue import ALL, UNITS, Target
from .harness import Summary

_NAMES = {each.name: each for each in ALL}


def render(results: dict[str, Any]) -> str:
    """Write results as Markdown: environment, figures, targets."""
    parts = (_environment(results), _figures(results), _targets(results))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _environment(results: dict[str, Any]) -> Iterator[str]:
    facts = results["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    memory = f"{facts['memory_mib'] / 1024:.1f} GiB"
    yield f"- {facts['date']}, {results['repeats']} repeats"
    yield f"- {facts['python']}; {packages}"
    yield f"- {facts['cpu']}, {facts['cores']} cores, {memory}; {facts['system']}"
    yield f"- {facts['broker']}, on {facts['broker_runs_on']}"


def _figures(results: dict[str, Any]) -> Iterator[str]:
    yield "| what | unit | roger_trio | plain aiormq | ratio | others busy, load |"
    yield "|---|---|---|---|---|---|"
    for each in results["benchmarks"]:
        for metric, sides in each["metrics"].items():
            digits = 0 if metric == "per_second" else 1 if "ms" not in metric else 2
            ours, plain = (_spread(sides[side], digits) for side in ("roger", "aiormq"))
            ratio = _spread(sides["ratio"], 2) if "ratio" in sides else ""
            cells = (each["title"], UNITS[metric], ours, plain, ratio, _load(each))
            yield f"| {' | '.join(cells)} |"


def _spread(summary: Summary, digits: int) -> str:
    median, least, most = (f"{summary[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"**{median}**" if least == most else f"**{median}** ({least} … {most})"


def _load(benchmark: dict[str, Any]) -> str:
    busy = benchmark["others_busy_before"]
    others = "?" if busy is None else f"{busy:.0%}"
    return f"{others}, {benchmark['load_before']:.1f} → {benchmark['load_after']:.1f}"


def _targets(results: dict[str, Any]) -> Iterator[str]:
    yield "| target | limit | measured | |"
    yield "|---|---|---|---|"
    for each in results["benchmarks"]:
        for target in _NAMES[each["name"]].targets:
            yield _target(each, target)


def _target(benchmark: dict[str, Any], target: Target) -> str:
    side = "ratio" if target.of_ratio else "roger"
    value = benchmark["metrics"][target.metric][side]["median"]
    sign = "≥" if target.at_least else "≤"
    what = f"{benchmark['title']}: {UNITS[target.metric]}{', ratio' if target.of_ratio else ''}"
    verdict = "met" if target.is_met(value) else "**missed**"
    return f"| {what} | {sign} {target.limit:,g} | {value:,.2f} | {verdict} |"
