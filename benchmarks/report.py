"""The figures as a table: Markdown, which can be read as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Any, Final

from .benchmark import Target
from .catalogue import ALL, BASELINES, UNITS, WALL_CLOCK
from .harness import QUIET, Summary
from .peers import plot, report as peers

README: Final = Path(__file__).parent / "README.md"
DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = "performance.md"
"""The page of the documentation with the figures of the peers; the pictures are beside it."""
FIGURES: Final = re.compile(r"<!-- figures of (\w+): (\S+) -->\n(.*?)\n<!-- end -->", re.DOTALL)
"""A part of the README that `publish` writes: its name, the file's name, and its tables."""

_NAMES = {each.name: each for each in ALL}
_TO = {
    "aiormq": "",
    "huey": " to Huey",
    "fewer": " to 1,000 waiting",
    "plain": " to plain jobs",
    "none": " to none held",
    "single": " to one partition",
    "one": " to one process",
}
"""What a ratio is to."""


def render(results: dict[str, Any]) -> str:
    """Write results as Markdown: environment, figures, targets."""
    if is_of_peers(results):
        return peers.render(results)
    parts = (_environment(results), _figures(results), _targets(results))
    return "\n\n".join("\n".join(lines).strip() for lines in parts)


def publish(file: Path) -> None:
    """Put the figures of a file in ``results/`` into those parts of the README it is about.

    Those of the peers go to the documentation too, and have pictures.
    """
    results = json.loads(file.read_text())
    pages = [README]
    if is_of_peers(results):
        pages.append(DOCS / PAGE)
        plot.plot(results, DOCS)
    for page in pages:
        page.write_text(renewed(page, results, f"results/{file.name}"))


def renewed(page: Path, results: dict[str, Any], source: str) -> str:
    """Put results into those parts of a page that they are about; return its text."""

    def renew(found: re.Match[str]) -> str:
        part = found[1]
        chosen = of_part(results, part)
        if not chosen.get("benchmarks") and not chosen.get("lines"):
            return found[0]
        text = render(chosen)
        if is_of_peers(results):
            text = f"![{part}]({relpath(DOCS / plot.NAMES[-1], page.parent)})\n\n{text}"
        return f"<!-- figures of {part}: {source} -->\n\n{text}\n\n<!-- end -->"

    return FIGURES.sub(renew, page.read_text())


def is_of_peers(results: dict[str, Any]) -> bool:
    """Tell whether results are those of ``python -m benchmarks peers``."""
    return results.get("kind") == "peers"


def of_part(results: dict[str, Any], part: str) -> dict[str, Any]:
    """Leave of results what belongs into a part of the README."""
    if is_of_peers(results):
        return results if part == "peers" else {**results, "lines": []}
    benchmarks = [each for each in results["benchmarks"] if _NAMES[each["name"]].part == part]
    return {**results, "benchmarks": benchmarks}


def _environment(results: dict[str, Any]) -> Iterator[str]:
    facts = results["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    memory = f"{facts['memory_mib'] / 1024:.1f} GiB"
    yield f"- {facts['date']}, up to {results['repeats']} repeats"
    yield f"- {facts['python']}; {packages}"
    yield f"- {facts['cpu']}, {facts['cores']} cores, {memory}; {facts['system']}"
    brokers = {_NAMES[each["name"]].broker for each in results["benchmarks"]}
    if "rabbitmq" in brokers:
        yield f"- {facts['broker']}, on {facts['broker_runs_on']}"
    if "sqlite" in brokers:
        yield f"- SQLite {facts['sqlite']}; to write 4 KiB and sync it takes {facts['sync_ms']} ms"


def _figures(results: dict[str, Any]) -> Iterator[str]:
    for baseline in BASELINES:
        chosen = [x for x in results["benchmarks"] if _NAMES[x["name"]].baseline == baseline]
        if chosen:
            yield from _table(chosen, baseline)
            yield ""


def _table(benchmarks: list[dict[str, Any]], baseline: str) -> Iterator[str]:
    ratio = ("ratio",) if baseline else ()
    heads = ("what", "unit", *BASELINES[baseline], *ratio, "others busy, load")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for each in benchmarks:
        for metric, sides in each["metrics"].items():
            digits = 0 if metric == "per_second" else 1 if "ms" not in metric else 2
            figures = [_spread(sides[side], digits) for side in ("roger", baseline) if side]
            if baseline:
                figures.append(_spread(sides["ratio"], 2) if "ratio" in sides else "")
            yield f"| {' | '.join((each['title'], UNITS[metric], *figures, _load(each)))} |"


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
    ratio = f", ratio{_TO[_NAMES[benchmark['name']].baseline]}" if target.of_ratio else ""
    what = f"{benchmark['title']}: {UNITS[target.metric]}{ratio}"
    verdict = "met" if target.is_met(value) else "**missed**"
    busy = benchmark["others_busy_before"] or 0.0
    if target.metric in WALL_CLOCK and busy > QUIET:
        verdict += f", but others used {busy:.0%} of the processors"
    return f"| {what} | {sign} {target.limit:,g} | {value:,.2f} | {verdict} |"
