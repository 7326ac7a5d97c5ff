"""Fixtures of the acceptance tests."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from roger_trio._topology import PartitionNames, QueueNames
from tests.acceptance.command import Roger


@pytest.fixture
def roger(
    tmp_path: Path, amqp_url: str, prefix: str, partition: str, created_queues: set[str]
) -> Roger:
    """Return the command ``roger``, with an app of one partition and one queue."""
    created_queues |= {each.name for each in QueueNames.of(prefix, partition, "default").specs()}
    created_queues |= set(attrs.astuple(PartitionNames.of(prefix, partition)))
    return Roger(tmp_path, amqp_url, prefix, partition)
