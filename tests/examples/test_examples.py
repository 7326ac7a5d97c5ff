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
def test_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    """An example, as it is and with nothing but Python, prints its last comment and ends."""
    source = example.read_text(encoding="utf-8")

    check(run(example, tmp_path), source)

    assert (tmp_path / "roger.db").exists()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_on_rabbitmq(
    example: Path,
    tmp_path: Path,
    amqp_url: str,
    prefix: str,
    created_queues: set[str],
    created_exchanges: set[str],
) -> None:
    """An example, under a prefix of its own, does the same on the broker of ROGER_BROKER."""
    source = example.read_text(encoding="utf-8")
    assert PREFIX in source
    queues = re.findall(r'"(\w+)": ?\{"(\w+)": \d', source)
    queues += re.findall(r'start_partition\("(\w+)", \{"(\w+)"', source)
    note_names(prefix, queues, created_queues, created_exchanges)
    copy = tmp_path / example.name
    copy.write_text(source.replace(PREFIX, f'prefix="{prefix}"'), encoding="utf-8")

    check(run(copy, tmp_path, ROGER_BROKER=hurried(amqp_url)), source)

    assert not (tmp_path / "roger.db").exists()


def run(program: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end; what it keeps in the user's state directory stays in `cwd`."""
    inherited = {name: value for name, value in os.environ.items() if name != "ROGER_BROKER"}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "XDG_STATE_HOME": str(cwd)}
    environment = {**inherited, **ours, **variables}
    return subprocess.run(
        [sys.executable, program], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip


def check(done: subprocess.CompletedProcess[str], source: str) -> None:
    """Compare what an example printed with what it says."""
    assert (done.stdout, done.returncode) == (expected_output(source), 0), done.stderr
