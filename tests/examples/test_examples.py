"""The examples run and print what they say they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from roger_trio._brokers.rabbitmq import topology
from roger_trio._topology import QueueNames

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PREFIX = 'prefix="example-"'


def expected_output(source: str) -> str:
    """Return what the comment at the end of an example says it prints."""
    _, found, comment = source.partition("\n# Prints")
    assert found, "an example ends with a comment that begins with '# Prints'"
    lines = comment.splitlines()[1:]
    assert all(line.startswith("#   ") for line in lines)
    return "".join(f"{line[4:]}\n" for line in lines)


def hurried(url: str) -> str:
    """Return the broker's URL without the second that a new queue takes to be crash-safe."""
    return f"{url}{'&' if '?' in url else '?'}queue_settle_time=0"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_it_says(
    example: Path,
    tmp_path: Path,
    amqp_url: str,
    prefix: str,
    created_queues: set[str],
    created_exchanges: set[str],
) -> None:
    """An example, under a prefix of its own, ends by itself and prints its last comment."""
    source = example.read_text(encoding="utf-8")
    assert PREFIX in source
    for partition, queue in re.findall(r'partitions=\{"(\w+)": \{"(\w+)"', source):
        created_queues |= {s.name for s in QueueNames.of(prefix, partition, queue).specs()}
    levels = {topology.level_name(prefix, level) for level in range(topology.LEVELS)}
    created_queues |= levels
    created_exchanges |= {
        *levels, topology.last_exchange(prefix), topology.marker_exchange(prefix)
    }  # fmt: skip
    copy = tmp_path / example.name
    copy.write_text(source.replace(PREFIX, f'prefix="{prefix}"'), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        "ROGER_BROKER": hurried(amqp_url),
    }

    done = subprocess.run(
        [sys.executable, copy], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.stdout, done.returncode) == (expected_output(source), 0), done.stderr
