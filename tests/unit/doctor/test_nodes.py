"""What the answers of nodes mean, and where the state of partitions is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import roger_trio as roger
from roger_trio._doctor import nodes, state
from roger_trio._doctor.findings import Level
from roger_trio._info import VERSION, NodeInfo

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def info(**changes: Any) -> NodeInfo:
    """Make a node that is well."""
    fields: dict[str, Any] = {
        "host": "a", "pid": 1, "version": VERSION, "started_at": NOON,
        "partitions": {"myapp": {"default": 1}},
    }  # fmt: skip
    return NodeInfo(**(fields | changes))


def levels(facts: nodes.NodesFacts, partitions: tuple[str, ...] = ("myapp",)) -> dict[str, str]:
    """Return the level of each finding."""
    return {each.id: each.level.value for each in nodes.judge(facts, partitions)}


def test_nodes_that_are_well() -> None:
    """All answer, in one version, with one time, and host what is configured."""
    facts = nodes.NodesFacts(nodes={"n": info()}, clocks={"n": 0.2})
    assert levels(facts) == {
        "nodes.answering": "ok", "nodes.versions": "ok", "nodes.clocks": "ok",
        "nodes.partitions": "ok",
    }  # fmt: skip


def test_no_node_is_no_trouble() -> None:
    """Before the first deploy there is none."""
    assert levels(nodes.NodesFacts(nodes={}, clocks={})) == {"nodes.answering": "ok"}


@pytest.mark.parametrize(
    ("changes", "clock", "partitions", "id"),
    [
        ({"answering": False}, 0.0, ("myapp",), "nodes.answering"),
        ({"version": "0.0.9"}, 0.0, ("myapp",), "nodes.versions"),
        ({}, 1.1, ("myapp",), "nodes.clocks"),
        ({}, -1.1, ("myapp",), "nodes.clocks"),
        ({}, 0.0, ("myapp", "other"), "nodes.partitions"),
    ],
)
def test_trouble_with_nodes(
    changes: dict[str, Any], clock: float, partitions: tuple[str, ...], id: str
) -> None:
    """What is wrong with one of two nodes is a warning, and the only one."""
    facts = nodes.NodesFacts(nodes={"n": info(), "m": info(**changes)}, clocks={"m": clock})
    found = levels(facts, partitions)
    assert [each for each, level in found.items() if level != "ok"] == [id]


def test_a_clock_is_compared_with_when_it_was_asked() -> None:
    """A time between question and answer proves nothing; one outside of it does."""
    second = timedelta(seconds=1)
    assert nodes.ahead(NOON, NOON + second, NOON + 2 * second) == 0
    assert nodes.ahead(NOON, NOON + 5 * second, NOON + 2 * second) == 3
    assert nodes.ahead(NOON, NOON - 4 * second, NOON + 2 * second) == -4


# State...


def look(persister: Any, broker: str = "memory:") -> state.StateFacts:
    """Look at where a configuration keeps its state."""
    return state.look(roger.Config(broker=broker, persister=persister))


@pytest.mark.parametrize(
    ("persister", "kind"),
    [
        (roger.MemoryPersister(), "memory"),
        (roger.BrokerPersister(), "broker"),
        (roger.FilePersister(), "broker"),
    ],
)
def test_the_state_of_an_embedded_broker(persister: Any, kind: str) -> None:
    """By default an embedded broker keeps it itself."""
    assert look(persister).kind == kind


def test_a_directory_of_ones_own(tmp_path: Path) -> None:
    """It need not be there, is not made, and nothing is left in it."""
    facts = look(roger.FilePersister(tmp_path / "a" / "b"))
    assert (facts.kind, facts.place, facts.problem) == ("file", str(tmp_path / "a" / "b"), "")
    assert facts.free > 0
    assert look(roger.FilePersister(tmp_path)).problem == ""
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    """What stands in its way is told, as an error."""
    (tmp_path / "file").touch()
    facts = look(roger.FilePersister(tmp_path / "file" / "state"))
    (found,) = state.judge(facts, [], is_shared=False)
    assert found.level is Level.ERROR
    assert str(tmp_path / "file") in found.found


def test_a_persister_of_the_users_own() -> None:
    """Nothing is known of it but its name, and it is left alone."""

    class Mine:
        async def load(self, partition: str) -> bytes | None:
            raise NotImplementedError

        async def save(self, partition: str, data: bytes) -> None:
            raise NotImplementedError

    (found,) = state.judge(look(Mine()), ["a", "b"], is_shared=True)
    assert found.level is Level.OK
    assert "Mine" in found.found


@pytest.mark.parametrize(
    ("kind", "hosts", "level"),
    [
        ("file", ["a"], "ok"),
        ("file", ["a", "b"], "error"),
        ("memory", ["a", "b"], "error"),
    ],
)
def test_nodes_on_several_hosts_must_share_their_state(
    kind: Any, hosts: list[str], level: str
) -> None:
    """A directory of one host is no place for the state of nodes on two."""
    facts = state.StateFacts(kind=kind, place="/x", free=10**12)
    found = {each.id: each.level.value for each in state.judge(facts, hosts, is_shared=True)}
    assert found["state.hosts"] == level
