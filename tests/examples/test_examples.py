"""The examples run and print what they say they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.names import hurried, note_names

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
    queues = re.findall(r'partitions=\{"(\w+)": \{"(\w+)"', source)
    note_names(prefix, queues, created_queues, created_exchanges)
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
