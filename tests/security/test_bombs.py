"""Messages that are made to take all memory or time are refused before they do."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.promises.support import ROOT
from tests.security.bombs import BOMBS

MOST_SECONDS = 1.0
MOST_MEGABYTES = 200.0


def test_no_message_takes_much_more_than_its_size() -> None:
    """Each within a second of CPU, and some times its 16 MiB: a node survives any of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.bombs"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=100,
    )
    found = json.loads(done.stdout)
    assert len(found) == 4 * len(BOMBS)
    assert {name: took for name, took in found.items() if took[0] > MOST_SECONDS} == {}
    assert {name: took for name, took in found.items() if took[1] > MOST_MEGABYTES} == {}
