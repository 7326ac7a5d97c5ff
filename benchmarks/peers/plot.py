"""The figures as a picture, for the documentation: PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from .line import UNITS
from .peer import ROGER, TITLES
from .report import measured_peers

PANELS: Final = (
    ("enqueue", "per_second"),
    ("enqueue-many", "per_second"),
    ("perform-10", "per_second"),
    ("perform-100", "per_second"),
    ("both-100", "per_second"),
    ("nap-100", "per_second"),
    ("perform-100", "cpu_us"),
    ("latency", "median_ms"),
    ("latency", "memory_mib"),
)
"""Line and metric of each panel."""
TITLED: Final = {("latency", "memory_mib"): "memory of an idle worker\nMiB"}
"""Panels that have another title than their line."""
NAMES: Final = ("peers.png", "peers.svg")
_COLUMNS: Final = 3
_OURS: Final = "#2f6f4f"
_THEIRS: Final = "#a9b3ad"


def plot(results: dict[str, Any], folder: Path) -> None:
    """Write the pictures into a folder.

    Raises:
        ModuleNotFoundError: matplotlib is not there; it comes with the group ``bench``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "roger"  # the same figures make the same file
    import matplotlib.pyplot as plt

    panels = panels_of(results)
    rows = -(-len(panels) // _COLUMNS)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.2 * rows), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for name in NAMES:
        made: dict[str, Any] = {"Date": None} if name.endswith("svg") else {"Software": None}
        figure.savefig(folder / name, dpi=110, metadata=made)
    plt.close(figure)


def panels_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Choose what is drawn: of each panel that has figures its title, and a bar for each peer."""
    lines = {line["name"]: line for line in results["lines"]}
    peers = measured_peers(results)
    panels: list[dict[str, Any]] = []
    for name, metric in PANELS:
        summaries = lines.get(name, {"metrics": {}})["metrics"].get(metric, {})
        bars = [(peer, summaries[peer]) for peer in peers if peer in summaries]
        if bars:
            title = TITLED.get((name, metric), f"{lines[name]['title']}\n{UNITS[metric]}")
            panels.append({"title": title, "bars": bars})
    return panels


def _draw(axis: Any, panel: dict[str, Any]) -> None:
    names = [TITLES[peer] for peer, _ in panel["bars"]]
    medians = [each["median"] for _, each in panel["bars"]]
    below = [each["median"] - each["min"] for _, each in panel["bars"]]
    above = [each["max"] - each["median"] for _, each in panel["bars"]]
    colors = [_OURS if peer == ROGER else _THEIRS for peer, _ in panel["bars"]]
    bars = axis.barh(names, medians, xerr=(below, above), color=colors, ecolor="#555555")
    labels = [f"{each:,.3g}" if each < 100 else f"{each:,.0f}" for each in medians]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_title(panel["title"].replace(", concurrency", ",\nconcurrency", 1), fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
