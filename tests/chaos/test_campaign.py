"""The short campaign: every kind of fault once and some twice, and an account of every job."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from .campaign import run
from .report import report
from .schedule import KINDS, BrokerName
from .system import Settings

SEED = 1
SHOWN = 5


@pytest.mark.timeout(300)  # A broker that is restarted twice, and a drain: more than other tests.
@pytest.mark.parametrize(("broker", "duration"), [("rabbitmq", 35), ("sqlite", 20)])
def test_nothing_is_lost(broker: BrokerName, duration: float, tmp_path: Path) -> None:
    """Whatever breaks, each job ends as promised, no key leaks, and no two of a key overlap."""
    figures, account = report(trio.run(run, Settings(SEED, duration, broker, tmp_path)))
    stories = "\n".join(map(str, account.violations[:SHOWN]))
    assert not account.violations, f"seed {SEED}, {len(account.violations)} violations\n{stories}"
    kinds = {each.name for each in KINDS if broker in each.brokers}
    assert len(kinds & figures["by_kind"].keys()) > 0.7 * len(kinds)
    assert account.counts["ended: done"] > 2 * duration  # A busy machine takes longer over faults.
