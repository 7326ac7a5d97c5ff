"""The nodes of the cluster: asked what they are and what time they have, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import attrs

from .._client import Client
from .._control.cluster import CLOCK, read_clock
from .._control.roster import Unreadable
from .._info import VERSION, NodeInfo
from .findings import Finding, listed, ok, warning

_CLOCK_TOLERANCE: Final = 1.0
"""Seconds that the clocks of nodes may differ."""


@attrs.frozen(kw_only=True)
class NodesFacts:
    """The nodes, as they answered."""

    nodes: Mapping[str, NodeInfo]
    """Also those that did not answer."""
    clocks: Mapping[str, float]
    """Node → seconds its clock is ahead of ours, as far as can be told."""

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts they run on."""
        return frozenset(each.host for each in self.nodes.values())


async def ask(client: Client) -> NodesFacts:
    """Ask all nodes.

    Raises:
        RogerError: They cannot be asked.
    """
    nodes = await client.nodes()
    before = datetime.now(UTC)
    replies, _ = await client._ask_nodes(CLOCK)  # noqa: SLF001 -- of this package
    after = datetime.now(UTC)
    clocks: dict[str, float] = {}
    for name, reply in replies.items():
        try:
            clocks[name] = ahead(before, read_clock(reply), after)
        except Unreadable:
            continue  # Of another version, which says no time.
    return NodesFacts(nodes=nodes, clocks=clocks)


def ahead(before: datetime, then: datetime, after: datetime) -> float:
    """Decide how far a clock is ahead that told a time between two of ours.

    Returns:
        Seconds; 0 if they agree as far as can be told, less than 0 if it is behind.
    """
    if then > after:
        return (then - after).total_seconds()
    return min(0.0, (then - before).total_seconds())


def judge(facts: NodesFacts, partitions: Sequence[str]) -> list[Finding]:
    """Judge what the nodes answered.

    Args:
        facts: Their answers.
        partitions: Those of the configuration.
    """
    if not facts.nodes:
        return [ok("nodes.answering", "no node runs now")]
    return [_answering(facts), _versions(facts), _clocks(facts), *_hosting(facts, partitions)]


def _answering(facts: NodesFacts) -> Finding:
    silent = [name for name, each in facts.nodes.items() if not each.answering]
    if silent:
        return warning(
            "nodes.answering",
            f"{len(silent)} of {len(facts.nodes)} nodes did not answer: {listed(silent)}",
            "they are frozen, busy, or have just died: look at their processes and their logs",
        )
    return ok("nodes.answering", f"all that run: {listed(facts.nodes)}")


def _versions(facts: NodesFacts) -> Finding:
    versions = sorted({each.version for each in facts.nodes.values()} | {VERSION})
    if len(versions) > 1:
        return warning(
            "nodes.versions",
            f"versions of roger_trio differ, between nodes or from this one: {', '.join(versions)}",
            "finish the deploy",
        )
    return ok("nodes.versions", f"all have roger_trio {VERSION}")


def _clocks(facts: NodesFacts) -> Finding:
    id = "nodes.clocks"
    wrong = {name: by for name, by in facts.clocks.items() if abs(by) > _CLOCK_TOLERANCE}
    if wrong:
        found = ", ".join(f"{name!r} by {by:+.1f} s" for name, by in sorted(wrong.items()))
        return warning(
            id,
            f"clocks differ from this machine's: {found}",
            "let all machines follow a time server: `at=`, the order of events in logs and what "
            "is told of since when a job runs go by their clocks",
        )
    return ok(id, f"of {len(facts.clocks)} that told theirs, all agree with this machine's")


def _hosting(facts: NodesFacts, partitions: Sequence[str]) -> list[Finding]:
    hosted = {name for each in facts.nodes.values() for name in each.partitions}
    missing = [name for name in partitions if name not in hosted]
    if not missing:
        return [ok("nodes.partitions", "each partition of the configuration is hosted")]
    return [
        warning(
            "nodes.partitions",
            f"no node hosts {listed(missing)}: its jobs wait",
            "start a node with this configuration",
        )
    ]
