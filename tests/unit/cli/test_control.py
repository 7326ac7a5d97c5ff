"""The commands about the whole cluster: what they show, and what they answer where nobody is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from roger_trio._cli import cluster, control, keys
from roger_trio._cli.errors import Refused
from roger_trio._errors import PartitionNotRunning, RogerError
from roger_trio._info import Answers, CancelResult, KeyInfo, NodeInfo, QueueInfo
from tests.unit.cli.conftest import Roger

INFO = QueueInfo(max_workers=10, paused=False, message_count=7, consumer_count=2, running=3)
PAUSED = QueueInfo(max_workers=2, paused=True, message_count=0, consumer_count=0, running=0)
BUSY: Answers[dict[str, dict[str, QueueInfo | int]]] = Answers(
    {
        "b": {"myapp": {"default": INFO}},
        "a": {"myapp": {"images": PAUSED, "default": INFO}, "other": {"default": 4}},
    },
    ["c"],
)


# Status...


def test_status_has_a_row_for_each_queue_on_each_node() -> None:
    """Rows are in the order of partition, queue and node; what waits has no numbers."""
    rows = [cluster._queue_cells(row) for row in cluster._queues(BUSY, None)]
    assert rows == [
        ("myapp", "default", "a", "10", "3", "7", "2", "running"),
        ("myapp", "default", "b", "10", "3", "7", "2", "running"),
        ("myapp", "images", "a", "2", "0", "0", "0", "paused"),
        ("other", "default", "a", "4", "-", "-", "-", "waiting for the broker"),
    ]


def test_status_of_one_partition() -> None:
    """Named, a partition is shown alone."""
    assert [row["node"] for row in cluster._queues(BUSY, "other")] == ["a"]


def test_a_partition_that_does_not_run_is_named_with_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is asked for and not there is refused, also where a node has not answered."""
    with pytest.raises(PartitionNotRunning, match=r"'none' .* that run: 'myapp', 'other'$"):
        cluster._refuse_partition("none", BUSY)
    assert capsys.readouterr().err.startswith("node 'c' did not answer: ")
    with pytest.raises(PartitionNotRunning, match=r"'none' .* that run: none$"):
        cluster._refuse_partition("none", Answers({}))


@pytest.fixture
def lately() -> datetime:
    """Return a time a little more than five minutes ago."""
    return datetime.now(UTC) - timedelta(minutes=5, seconds=5)


def test_nodes_have_a_row_each(lately: datetime) -> None:
    """A node's row says where it is, what it hosts, and whether it answers."""
    info = NodeInfo(
        host="h", pid=5, version="0.1.0", started_at=lately,
        partitions={"myapp": {"default": 10, "images": 2}, "other": {"x": 1}}, answering=False,
    )  # fmt: skip
    hosts = "myapp (default: 10, images: 2), other (x: 1)"
    row = ("a", "h", "5", "0.1.0", "5 min ago", hosts, "not answering")
    assert cluster._node_cells("a", info) == row
    document = cluster._node_as_json("a", info)
    assert json.loads(json.dumps(document)) == {
        "name": "a", "host": "h", "pid": 5, "version": "0.1.0",
        "started_at": lately.isoformat(),
        "partitions": {"myapp": {"default": 10, "images": 2}, "other": {"x": 1}},
        "answering": False,
    }  # fmt: skip


# Keys...


def test_keys_have_a_row_each(lately: datetime) -> None:
    """Only an execution key says how many wait for it; all of it is in the JSON."""
    unique = KeyInfo(key="k", kind="queue", job_id="j", queue="default", since=lately)
    serial = KeyInfo(
        key="k", kind="execution", job_id="j", queue="default", since=lately, node="a", waiting=2
    )
    assert keys._cells(unique) == ("k", "queue", "j", "default", "5 min ago", "-", "-")
    assert keys._cells(serial) == ("k", "execution", "j", "default", "5 min ago", "a", "2")
    assert keys._as_json(serial) == {
        "key": "k", "kind": "execution", "job_id": "j", "queue": "default",
        "since": lately.isoformat(), "node": "a", "waiting": 2,
    }  # fmt: skip


# Cancel...


def test_every_result_is_told_in_words() -> None:
    """Whatever cancel finds, a person is told what it means."""
    assert control.IN_WORDS.keys() == set(CancelResult)


class Cancelling:
    """Answers as a client would."""

    def __init__(self, found: dict[str, CancelResult | RogerError]) -> None:
        self._found = found
        self.asked: list[str] = []

    async def cancel(self, job_id: str, partition: str) -> CancelResult:
        self.asked.append(f"{partition}/{job_id}")
        await trio.lowlevel.checkpoint()
        found = self._found[job_id]
        if isinstance(found, RogerError):
            raise found
        return found


async def test_many_jobs_are_cancelled_side_by_side_and_told_in_order() -> None:
    """Each job has its own answer, an error too, in the order of the ids."""
    error = RogerError("no")
    results: dict[str, CancelResult | RogerError] = {
        "2": CancelResult.STOPPED, "1": error, "3": CancelResult.RECORDED,
    }  # fmt: skip
    client: Any = Cancelling(results)
    with trio.fail_after(5):
        found = await control._cancel_all(client, "p", ["2", "1", "3"])
    assert list(found.items()) == list(results.items())
    assert sorted(client.asked) == ["p/1", "p/2", "p/3"]


def test_an_error_that_many_jobs_share_is_told_once() -> None:
    """Different errors are a line each."""
    control._refuse([])
    with pytest.raises(Refused) as refused:
        control._refuse(["a\nb", "c", "a\nb"])
    assert (str(refused.value), refused.value.details) == ("c", r"roger: a\nb")


# Where nobody is...


@pytest.mark.parametrize(
    ("words", "remark", "document"),
    [
        (["status"], "no partition runs on any node", {"queues": [], "not_answering": []}),
        (["running"], "no job runs", {"jobs": [], "not_answering": []}),
        (["nodes"], "no node runs", {"nodes": [], "not_answering": []}),
    ],
)
def test_a_cluster_without_nodes(
    roger: Roger,
    module: Callable[[str], str],
    words: Iterable[str],
    remark: str,
    document: dict[str, Any],
) -> None:
    """Without nodes there is nothing to show, which is an answer; it comes at once."""
    name = module('config = roger.Config(broker="memory:")')
    done = roger(*words, f"{name}:config")
    assert (done.status, done.out, done.err) == (0, "", f"{remark}\n")
    done = roger(*words, f"{name}:config", "--json")
    assert (done.status, json.loads(done.out)) == (0, document)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "{}", "p"],
        ["running", "{}", "p"],
        ["keys", "{}", "p"],
        ["keys", "{}", "p", "--release", "k"],
        ["cancel", "{}", "p", "id"],
        ["pause", "{}", "p", "default"],
        ["resume", "{}", "p", "default"],
    ],
)
def test_a_partition_without_nodes(
    roger: Roger, module: Callable[[str], str], words: list[str]
) -> None:
    """What needs a node of a partition and finds none is refused, in one line that names it."""
    name = module('config = roger.Config(broker="memory:")')
    done = roger(*(word.format(f"{name}:config") for word in words), "--timeout", "0.5")
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith("roger: ")
    assert "'p'" in line
