"""What an operator sees and does across all nodes, with processes of their own."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import Any

import pytest
from pamqp import commands as spec

import roger_trio
from roger_trio._topology import QueueNames
from tests.acceptance.command import Process, Roger
from tests.amqp import AmqpSession

MORE = """
class Sync(roger.Job):
    customer: str

    def queue_key(self) -> str:
        return f"sync {self.customer}"

    def execution_key(self) -> str:
        return self.customer

    async def perform(self) -> None:
        logger.info("syncing %s", self.customer)
        await trio.sleep_forever()

class Report(roger.Callbacks):
    async def on_cancel(self, partition, job):
        logger.info("on_cancel %s", job.id)

config = attrs.evolve(config, callbacks=Report())
"""


@pytest.fixture
def roger(roger: Roger) -> Roger:
    """Return the command, with an app that has keys and callbacks too."""
    with (roger.folder / "app.py").open("a") as app:
        app.write(MORE)
    return roger


async def document(roger: Roger, *words: str) -> Any:
    """Run a command with --json that has to succeed; return its document."""
    done = await roger(*words, "--json")
    assert (done.status, done.err) == (0, ""), done
    return json.loads(done.out)


async def name_of(roger: Roger, node: Process) -> str:
    """Return the name of a node: its first line has it."""
    line = await node.wait_log(", node ")
    return line.partition(", node '")[2].partition("'")[0]


# Looking...


async def test_status(roger: Roger) -> None:
    """Each queue on each node has a row; one partition can be named; an unknown one is refused."""
    partition = roger.partition
    async with roger.serving() as node, roger.serving() as other:
        names = sorted([await name_of(roger, node), await name_of(roger, other)])
        await roger.ask("enqueue", "hang")
        await (node.wait_log("hanging") if node.log else other.wait_log("hanging"))
        head, *rows = (await roger.ask("status")).splitlines()
        assert head.split() == [
            "PARTITION", "QUEUE", "NODE", "WORKERS", "RUNNING", "READY", "CONSUMERS", "STATE",
        ]  # fmt: skip
        assert [row.split()[:4] for row in rows] == [
            [partition, "default", name, "2"] for name in names
        ]
        assert {row.split()[-1] for row in rows} == {"running"}
        found = await document(roger, "status", "app:config")
        assert list(found) == ["queues", "not_answering"]
        mine = [each for each in found["queues"] if each["partition"] == partition]
        assert sum(each["running"] for each in mine) == 1
        assert [each["consumer_count"] for each in mine] == [2, 2]
        refused = await roger("status", "app:config", "nobody")
        assert (refused.status, refused.out) == (1, "")
        assert refused.err.startswith("roger: partition 'nobody' is not running: no node that ")
        assert repr(partition) in refused.err


async def test_status_of_a_queue_that_the_broker_refuses(
    roger: Roger, amqp_url: str, prefix: str
) -> None:
    """It has its row, as one that waits, and its partition runs."""
    work = QueueNames.of(prefix, roger.partition, "default").work
    with AmqpSession(amqp_url) as session:
        foreign = spec.Queue.Declare(queue=work, durable=True)  # A classic one.
        session.call(foreign, spec.Queue.DeclareOk)
    async with roger.serving() as node:
        name = await name_of(roger, node)
        _, row = (await roger.ask("status")).splitlines()
        assert row.split() == [
            roger.partition, "default", name, "2", "-", "-", "-", "waiting", "for", "the", "broker",
        ]  # fmt: skip
        found = await document(roger, "status", "app:config", roger.partition)
        assert [each["waiting"] for each in found["queues"]] == [True]


async def test_nodes(roger: Roger) -> None:
    """A node's row says where it is and what it hosts."""
    async with roger.serving() as node:
        name = await name_of(roger, node)
        done = await roger("nodes", "app:config")
        head, *rows = done.out.splitlines()
        assert head.split() == ["NODE", "HOST", "PID", "VERSION", "STARTED", "PARTITIONS", "STATE"]
        [row] = [row for row in rows if row.split()[0] == name]
        assert row.endswith(f"{roger.partition} (default: 2)  answering")
        found = await document(roger, "nodes", "app:config")
        [mine] = [each for each in found["nodes"] if each["name"] == name]
        assert mine["version"] == roger_trio.__version__
        assert mine["host"] == os.uname().nodename
        assert datetime.fromisoformat(mine["started_at"]).tzinfo is not None
        assert mine["partitions"] == {roger.partition: {"default": 2}}


async def test_a_frozen_node(roger: Roger) -> None:
    """A node that does not answer is named, not waited for; a pause is then not confirmed."""
    async with roger.serving() as node, roger.serving() as frozen:
        name = await name_of(roger, frozen)
        await document(roger, "nodes", "app:config")
        frozen.signal(signal.SIGSTOP)
        done = await roger("nodes", "app:config", "--json")
        assert done.status == 0
        assert f"node {name!r} did not answer" in done.err
        found = json.loads(done.out)
        assert found["not_answering"] == [name]
        assert {each["name"]: each["answering"] for each in found["nodes"]}[name] is False
        status = await roger("status", "app:config", "--json")
        assert f"node {name!r} did not answer" in status.err
        assert json.loads(status.out)["not_answering"] == [name]

        paused = await roger("pause", "app:config", roger.partition, "default", "--json")
        assert paused.status == 1
        assert json.loads(paused.out) == {
            "partition": roger.partition, "queue": "default", "paused": True,
            "not_answering": [name],
        }  # fmt: skip
        assert paused.err.startswith(f"roger: {roger.partition}/default is paused, but not ")
        assert repr(name) in paused.err
        resumed = await roger("resume", "app:config", roger.partition, "default")
        assert resumed.status == 0
        assert resumed.out == f"{roger.partition}/default is resumed\n"
        assert resumed.err == f"node {name!r} did not answer: it resumes the queue once it does\n"
        frozen.signal(signal.SIGCONT)
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0


# Cancelling...


async def test_cancel_a_running_job(roger: Roger) -> None:
    """A running job is shown with its node, stopped, and gone; then it has ended."""
    async with roger.serving() as node:
        await roger.ask("enqueue", "hang", "--id", "h1")
        await node.wait_log("hanging")
        head, row = (await roger.ask("running")).splitlines()
        assert head.split() == [
            "ID", "JOB", "PARTITION", "QUEUE", "NODE", "STARTED", "RETRIES",
        ]  # fmt: skip
        assert row.split()[:4] == ["h1", "app:hang", roger.partition, "default"]
        assert row.split()[4] == await name_of(roger, node)
        found = await document(roger, "running", "app:config")
        assert [(each["id"], each["node"]) for each in found["jobs"]] == [("h1", row.split()[4])]

        assert await roger.ask("cancel", "h1") == "job h1 was running and has been stopped\n"
        await node.wait_log("on_cancel h1")
        empty = await roger("running", "app:config", roger.partition)
        assert (empty.status, empty.out, empty.err) == (
            0,
            "",
            f"no job runs in {roger.partition}\n",
        )
        assert await roger.ask("cancel", "h1") == "job h1 had ended before; nothing was changed\n"


async def test_cancel_queued_jobs(roger: Roger) -> None:
    """What is queued is recorded, and told as cancelled when it is met; each id has its line."""
    async with roger.serving() as node:
        await roger.ask("pause", "default")
        for id in ("q1", "q2"):
            await roger.ask("enqueue", "greet", "--id", id)
        found = await document(roger, "cancel", "app:config", roger.partition, "q2", "q1", "q2")
        assert found == {
            "partition": roger.partition,
            "jobs": [{"id": "q2", "result": "recorded"}, {"id": "q1", "result": "recorded"}],
        }
        await roger.ask("resume", "default")
        await node.wait_log("on_cancel q1")
        await node.wait_log("on_cancel q2")
        assert not any("hello" in line for line in node.log)


# Pausing...


async def test_pause_holds_through_a_restart(roger: Roger) -> None:
    """A paused queue starts nothing, on new nodes neither, until it is resumed."""
    where = f"{roger.partition}/default"
    async with roger.serving() as node:
        said = await roger.ask("pause", "default")
        assert said == f"{where} is paused: no job of it is started\n"
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0
    async with roger.serving() as node:
        await roger.ask("enqueue", "greet")
        [row] = (await roger.ask("status")).splitlines()[1:]
        assert row.split()[-1] == "paused"
        assert (await roger.ask("queued")).count("app:greet") == 1
        assert await roger.ask("resume", "default") == f"{where} is resumed\n"
        await node.wait_log("hello you")


@pytest.mark.parametrize("command", ["pause", "resume"])
async def test_pause_of_a_queue_that_is_none(roger: Roger, command: str) -> None:
    """A queue that the partition does not have is refused, and those it has are listed."""
    async with roger.serving():
        done = await roger(command, "app:config", roger.partition, "none")
        assert (done.status, done.out) == (1, "")
        [line] = done.err.splitlines()
        assert "'none'" in line
        assert "default" in line
        assert repr(roger.partition) in line


# Keys...


async def test_keys(roger: Roger) -> None:
    """Held keys are shown with who holds them, and can be freed; a duplicate is refused."""
    async with roger.serving() as node:
        empty = await roger("keys", "app:config", roger.partition)
        assert (empty.status, empty.out) == (0, "")
        assert empty.err == f"no job of {roger.partition} holds a key\n"
        await roger.ask("enqueue", "Sync", '{"customer": "ada"}', "--id", "s1")
        await node.wait_log("syncing ada")
        words = ("app:config", roger.partition, "Sync", '{"customer": "ada"}')
        duplicate = await roger("enqueue", *words)
        assert (duplicate.status, duplicate.out) == (1, "")
        assert duplicate.err == "roger: queue key 'sync ada' is held by job s1\n"

        head, *rows = (await roger.ask("keys")).splitlines()
        assert head.split() == ["KEY", "KIND", "JOB", "QUEUE", "SINCE", "NODE", "WAITING"]
        name = await name_of(roger, node)
        assert [(row.split()[0], row.split()[-2:]) for row in rows] == [
            ("ada", [name, "0"]), ("sync", [name, "-"]),
        ]  # fmt: skip
        found = await document(roger, "keys", "app:config", roger.partition)
        assert [(each["key"], each["kind"], each["job_id"]) for each in found["keys"]] == [
            ("ada", "execution", "s1"), ("sync ada", "queue", "s1"),
        ]  # fmt: skip

        said = await roger.ask("keys", "--release", "sync ada")
        assert said == "queue key 'sync ada' is free; job s1 held it\n"
        await roger.ask("enqueue", "Sync", '{"customer": "ada"}', "--id", "s2")
        gone = await roger("keys", "app:config", roger.partition, "--release", "nothing")
        assert (gone.status, gone.out) == (1, "")
        assert "'nothing'" in gone.err
        await roger.ask("cancel", "s1", "s2")
