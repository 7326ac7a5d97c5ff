"""What `roger doctor` does: facts are gathered by thin probes, and judged by pure functions.

findings  a finding, and what only an operator can look at
examine   the probes called, one after the other
rabbitmq  what the facts about a RabbitMQ mean
embedded  what the facts about an embedded broker's file mean
nodes     the nodes of the cluster asked, and what their answers mean
state     where partitions' state is kept: looked at, and judged
"""

from __future__ import annotations

from .examine import examine
from .findings import ByHand, Finding, Level, Report

__all__ = ["ByHand", "Finding", "Level", "Report", "examine"]
