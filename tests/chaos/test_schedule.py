"""A seed makes a run: the schedule of faults and the load are the same each time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .faults import ACTIONS
from .load import KEYED, LEVELS, PARTITIONS, plan_load
from .schedule import BROKERS, FIRST, GAPS, KINDS, BrokerName, plan_faults

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("broker", BROKERS)
def test_same_seed_same_schedule(broker: BrokerName) -> None:
    """A seed makes one schedule, another seed another one, and so does the other broker."""
    assert plan_faults(1, 60, broker) == plan_faults(1, 60, broker)
    assert plan_faults(1, 60, broker) != plan_faults(2, 60, broker)
    assert plan_faults(1, 60, "rabbitmq") != plan_faults(1, 60, "sqlite")


def test_same_seed_in_another_process() -> None:
    """A seed means the same in every process: enqueuers make the load each for itself."""
    code = "from tests.chaos.load import plan_load; print(hash(str(plan_load(7, 20))))"
    environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert plan_load(7, 20) == plan_load(7, 20) != plan_load(8, 20)


@pytest.mark.parametrize("broker", BROKERS)
def test_all_kinds_of_faults_come(broker: BrokerName) -> None:
    """Ten minutes have every kind of fault for the broker, one every second or two, to the end."""
    faults = plan_faults(1, 600, broker)
    assert {each.kind for each in faults} == {x.name for x in KINDS if broker in x.brokers}
    assert [each.number for each in faults] == list(range(len(faults)))
    assert 600 / len(faults) < 2
    assert faults[0].at >= FIRST
    assert 600 - 5 * GAPS[1] < faults[-1].at < 600
    assert all(each.at + each.lasts < 600 for each in faults)


def test_every_kind_of_fault_can_be_carried_out() -> None:
    """What the schedule may say, somebody knows how to do."""
    assert ACTIONS.keys() == {each.name for each in KINDS}


def test_load_is_mixed() -> None:
    """A minute of load has all kinds of jobs, with distinct ids, in queues that nodes run."""
    orders = plan_load(3, 60)
    assert len(Counter(each.kind for each in orders)) == 12
    assert len({each.id for each in orders}) == len(orders)
    assert all(each.queue in PARTITIONS[each.partition] for each in orders)
    assert all(0 <= each.at <= 60 for each in orders)
    assert {x.partition for x in orders if x.unique or x.serial} <= {*KEYED, "gamma"}


def test_promises_follow_from_orders() -> None:
    """What a job is promised follows from how it is ordered."""
    for each in plan_load(4, 120):
        match each.kind:
            case "doomed":
                assert (each.promise, each.fails) == ("buried", len(LEVELS) + 1)
            case "failing":
                assert each.promise == "failed"
            case "cancelled":
                assert each.promise == "cancelled"
            case _:
                assert each.promise == "done"
