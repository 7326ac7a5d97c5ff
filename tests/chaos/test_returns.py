"""The figures of recovery say what they are said to."""

from __future__ import annotations

from .history import read_history
from .journal import Event
from .load import PARTITIONS
from .returns import broker_returns, node_deaths
from .test_account import Told


def _two_nodes() -> Told:
    told = Told()
    for who in ("node0.0", "node1.0"):
        told.note(0.5, who, "ready")
    told.enqueue("a")
    told.run("a", 2.0, None)
    told.signal(2.5, "node0.0", "SIGKILL")
    told.fault("node killed", "node0.0", 2.5, 2.6)
    return told


def test_node_death() -> None:
    """The time counts from the kill to the next start, where another node was free for it."""
    told = _two_nodes()
    told.run("a", 2.75, 3.0, who="node1.0")
    assert node_deaths(read_history(told.events)) == {"free": [0.25], "hindered": []}


def test_no_node_was_free() -> None:
    """Where the other node was struck, or had no free worker, nothing can be said."""
    told = _two_nodes()
    told.fault("node frozen", "node1.0", 1.0, 4.0)
    told.run("a", 4.5, 4.6, who="node1.0")
    assert node_deaths(read_history(told.events)) == {"free": [], "hindered": [2.0]}
    told = _two_nodes()
    for number in range(PARTITIONS["alpha"]["default"]):
        told.enqueue(f"b{number}")
        told.run(f"b{number}", 2.0, 4.0, who="node1.0")
    told.run("a", 4.5, 4.6, who="node1.0")
    assert node_deaths(read_history(told.events)) == {"free": [], "hindered": [2.0]}


def test_another_node_was_struck_as_well() -> None:
    """The broker may have given it the job, though a third one was free."""
    told = _two_nodes()
    told.note(0.5, "node2.0", "ready")
    told.fault("node frozen", "node1.0", 1.0, 4.0)
    told.run("a", 4.5, 4.6, who="node2.0")
    assert node_deaths(read_history(told.events)) == {"free": [], "hindered": [2.0]}


def test_broker_return() -> None:
    """Returns in which something else was struck are apart."""
    events = [
        Event(1.0, "suite", "consumed again", "", {"seconds": 1.5, "calm": True}),
        Event(2.0, "suite", "consumed again", "", {"seconds": 15.0, "calm": False}),
    ]
    assert broker_returns(events) == {"calm": [1.5], "disturbed": [15.0]}
