"""Frozen snapshots of what runs: what the command line, operators and tests read."""

from __future__ import annotations

from typing import Final

import attrs

VERSION: Final = "0.1.0"
"""The version of this package."""


@attrs.frozen(kw_only=True)
class QueueInfo:
    """One queue of a partition, as one node sees it."""

    max_workers: int
    """Jobs of it that may run at once on this node."""
    paused: bool
    """Whether it is paused."""
    message_count: int
    """Jobs ready for delivery in the broker, for all nodes together; without delayed ones."""
    consumer_count: int
    """Nodes that consume it."""
    running: int
    """Jobs of it that run on this node now."""
