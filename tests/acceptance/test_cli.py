"""The command line as an operator uses it: processes of their own, and a real broker."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

import roger_trio
from tests.acceptance.command import PATIENCE, Roger
from tests.rabbitmq import free_port

KEYS = [
    "id", "name", "args", "partition", "queue", "queue_key", "execution_key", "retry_count",
    "queued_at", "started_at", "max_execution_time", "redelivered", "deaths", "edition", "moves",
    "orphaned", "error",
]  # fmt: skip
SECRET = "s3cret-of-the-test"


def with_broker(roger: Roger, url: str) -> None:
    """Send its commands to another broker."""
    roger.environment["ROGER_BROKER"] = url


@pytest.fixture
def unreachable() -> str:
    """Return the URL of a broker that is not there."""
    return f"amqp://somebody:{SECRET}@127.0.0.1:{free_port()}/"


@pytest.fixture
def wrong_password(amqp_url: str) -> str:
    """Return the URL of the run's broker with a wrong password."""
    parts = urlsplit(amqp_url)
    address = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or 'guest'}:{SECRET}@{address}").geturl()


# A node...


async def test_serve(roger: Roger) -> None:
    """A node performs what is enqueued, logs who did what to stderr alone, and ends on SIGTERM."""
    async with roger.serving() as node:
        said = await roger.ask("enqueue", "greet", '{"name": "ada"}')
        line = await node.wait_log("hello ada")
        id = said.split()[1]
        assert said == f"job {id} (app:greet) is enqueued in {roger.partition}/default\n"
        assert line.endswith(
            f"INFO     job {id} (app:greet) of {roger.partition}/default: hello ada"
        )
        await node.wait_log(f"job {id} (app:greet) of {roger.partition}/default: succeeded")
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0
    assert node.out == ""
    first = node.log[0]
    assert f" INFO     roger_trio {roger_trio.__version__}, node " in first
    assert ", broker amqp" in first
    assert ":***@" in first
    assert first.endswith(f", partitions: {roger.partition!r} (default: 2)")
    assert node.log[-1].endswith("has stopped")
    assert "\x1b" not in "".join(node.log)


async def test_serve_with_json_log(roger: Roger) -> None:
    """With --log-format json every line is an object, and those of jobs have their names."""
    async with roger.serving("--log-format", "json") as node:
        id = json.loads(await roger.ask("enqueue", "fail", '{"reason": "bad"}', "--json"))["id"]
        await roger.ask("enqueue", "app:greet")
        await node.wait_log("buried after")
        await node.wait_log("hello you")
        node.signal(signal.SIGINT)
        assert await node.wait() == 0
    documents: list[dict[str, Any]] = [json.loads(line) for line in node.log]
    for each in documents:
        assert {"timestamp", "level", "logger", "message"} <= each.keys()
        assert datetime.fromisoformat(each["timestamp"]).tzinfo is not None
    [greeting] = [each for each in documents if each["message"] == "hello you"]
    where = (greeting["job_name"], greeting["partition"], greeting["queue"])
    assert where == ("app:greet", roger.partition, "default")
    assert greeting["size"] == 3
    [failure] = [each for each in documents if "exception" in each]
    assert (failure["job_id"], failure["level"]) == (id, "ERROR")
    assert failure["exception"].endswith("ValueError: bad")


async def test_second_signal(roger: Roger) -> None:
    """A second signal ends a node at once, whatever its jobs do."""
    async with roger.serving() as node:
        await roger.ask("enqueue", "hang")
        await node.wait_log("hanging")
        node.signal(signal.SIGTERM)
        await node.wait_log("got SIGTERM; stopping once")
        node.signal(signal.SIGTERM)
        await node.wait_log("got SIGTERM; stopping at once")
        assert await node.wait() == 0


async def test_serve_delays(roger: Roger) -> None:
    """A job with a delay, and one with a time, are performed when it has come."""
    async with roger.serving() as node:
        await roger.ask("enqueue", "greet", '{"name": "later"}', "--delay", "0.3")
        await roger.ask("enqueue", "greet", '{"name": "past"}', "--at", "2001-01-01T00:00Z")
        await node.wait_log("hello past")
        await node.wait_log("hello later")


# Looking after queues...


async def test_queued(roger: Roger) -> None:
    """Waiting jobs are shown oldest first, plain and whole; arguments only if asked for."""
    for number in (1, 2):
        await roger.ask("enqueue", "greet", '{"name": "ada"}', "--id", f"job-{number}")
    head, *rows = (await roger.ask("queued")).splitlines()
    assert head.split() == ["ID", "JOB", "QUEUED", "RETRIES"]
    assert [row.split()[:2] for row in rows] == [["job-1", "app:greet"], ["job-2", "app:greet"]]
    assert all(row.split()[-3:] == ["s", "ago", "0"] for row in rows)
    with_args = await roger.ask("queued", "default", "--limit", "1", "--args")
    [row] = with_args.splitlines()[1:]
    assert row.startswith("job-1 ")
    assert row.endswith('  {"name":"ada"}')


async def test_queued_as_json(roger: Roger) -> None:
    """With --json there is one document, of these keys, arguments included.

    The arguments can come from stdin.
    """
    words = ("enqueue", "app:config", roger.partition, "greet", "-", "--json")
    done = await roger(*words, stdin='{"name": "żółw"}'.encode())
    enqueued = json.loads(done.out)
    found = json.loads(await roger.ask("queued", "--json"))
    assert list(enqueued) == KEYS
    assert found == {"partition": roger.partition, "queue": "default", "jobs": [enqueued]}
    assert (enqueued["name"], enqueued["args"]) == ("app:greet", {"name": "żółw"})


async def test_purge(roger: Roger) -> None:
    """Purge deletes what waits, says how much, and does not do it unasked."""
    await roger.ask("enqueue", "greet")
    refused = await roger("purge", "app:config", roger.partition)
    assert (refused.status, refused.out) == (1, "")
    assert await roger.ask("purge", "--yes") == (
        f"1 waiting job of {roger.partition}/default deleted\n"
    )
    assert json.loads(await roger.ask("purge", "default", "--yes", "--json")) == {
        "partition": roger.partition, "queue": "default", "buried": False, "purged": 0,
    }  # fmt: skip
    empty = await roger("queued", "app:config", roger.partition)
    assert (empty.status, empty.out) == (0, "")
    assert empty.err == f"no jobs are queued in {roger.partition}/default\n"


async def bury(roger: Roger, *ids: str) -> None:
    """Have jobs buried."""
    async with roger.serving() as node:
        for id in ids:
            await roger.ask("enqueue", "fail", '{"reason": "no\\nuse"}', "--id", id)
            await node.wait_log(f"job {id} (app:fail) of {roger.partition}/default: buried")
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0


async def test_buried_and_replay(roger: Roger) -> None:
    """Buried jobs are shown with their error, and put back one by one or all at once."""
    await bury(roger, "b1", "b2", "b3")
    head, *rows = (await roger.ask("buried", "--limit", "2")).splitlines()
    assert head.split() == ["ID", "JOB", "QUEUED", "RETRIES", "BURIED", "ERROR", "MESSAGE"]
    assert [row.split()[0] for row in rows] == ["b1", "b2"]
    assert rows[0].endswith(r"  ValueError  no\nuse")

    traced = await roger.ask("buried", "--limit", "1", "--traceback")
    assert "\njob b1 (app:fail):\n    Traceback (most recent call last):\n" in traced
    assert traced.endswith("    ValueError: no\n    use\n")

    found = json.loads(await roger.ask("buried", "--json"))
    assert list(found) == ["partition", "queue", "jobs"]
    assert [list(job) for job in found["jobs"]] == [KEYS] * 3
    error = found["jobs"][0]["error"]
    assert list(error) == ["type", "message", "traceback", "buried_at"]
    assert (error["type"], error["message"]) == ("ValueError", "no\nuse")

    some = await roger("replay", "app:config", roger.partition, "default", "b2", "nobody")
    assert some.status == 1
    assert some.out == f"1 buried job of {roger.partition}/default put back into the queue\n"
    assert "1 of the given ids belongs to no job" in some.err
    every = json.loads(await roger.ask("replay", "--all", "--json"))
    assert every == {"partition": roger.partition, "queue": "default", "replayed": 2}
    queued = json.loads(await roger.ask("queued", "--json"))["jobs"]
    assert [job["id"] for job in queued] == ["b2", "b1", "b3"]


async def test_purge_buried(roger: Roger) -> None:
    """With --buried, purge deletes the buried ones alone."""
    await bury(roger, "b1")
    await roger.ask("enqueue", "greet", "--id", "q1")
    assert json.loads(await roger.ask("purge", "--buried", "--yes", "--json"))["purged"] == 1
    assert json.loads(await roger.ask("buried", "--json"))["jobs"] == []
    assert [each["id"] for each in json.loads(await roger.ask("queued", "--json"))["jobs"]] == [
        "q1"
    ]


@pytest.mark.parametrize("command", ["queued", "buried", "purge"])
async def test_no_such_queue(roger: Roger, command: str) -> None:
    """A queue that never was is refused, and not made by the way, nor is it an empty one."""
    words = ["--yes"] if command == "purge" else []
    done = await roger(command, "app:config", roger.partition, "none", *words)
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"roger: partition {roger.partition!r} has no queue 'none'")


# Terminals and pipes...


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_on_a_terminal(roger: Roger, no_color: str) -> None:
    """On a terminal a table is drawn, with colours unless they are unwanted."""
    roger.environment["NO_COLOR"] = no_color
    await roger.ask("enqueue", "greet", "--id", "job-1")
    words = ["queued", "app:config", roger.partition]
    done = await trio.to_thread.run_sync(roger.on_terminal, words)
    assert done.status == 0
    assert "job-1" in done.out
    assert "──" in done.out
    assert "\x1b[3" not in done.out or not no_color


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
async def test_purge_asks(roger: Roger, answer: bytes, status: int, left: int) -> None:
    """On a terminal purge asks, tells where it would delete, and takes no for an answer."""
    await roger.ask("enqueue", "greet")
    words = ["purge", "app:config", roger.partition]
    done = await trio.to_thread.run_sync(roger.on_terminal, words, answer)
    assert done.status == status
    assert f"Delete all waiting jobs of {roger.partition}/default on amqp" in done.out
    assert len(json.loads(await roger.ask("queued", "--json"))["jobs"]) == left


async def test_a_reader_that_leaves(roger: Roger) -> None:
    """Whoever reads the output may stop doing so; it is no reason for a traceback."""
    await roger.ask("enqueue", "greet")
    reading, writing = os.pipe()
    os.close(reading)
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            roger.command("queued", "app:config", roger.partition), stdout=writing,
            capture_stderr=True, check=False, cwd=roger.folder, env=roger.environment,
        )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


# What goes wrong...

COMMANDS = {
    "enqueue": ["greet", '{"name": "ada"}'],
    "queued": [],
    "buried": [],
    "replay": ["--all"],
    "purge": ["--yes"],
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_wrong_password(roger: Roger, wrong_password: str, command: str) -> None:
    """A broker that refuses us is one line, exit status 1, and never shows the password."""
    with_broker(roger, wrong_password)
    done = await roger(command, "app:config", roger.partition, *COMMANDS[command])
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith("roger: amqp")
    assert "the broker refused user" in line
    assert SECRET not in line


async def test_serve_with_wrong_password(roger: Roger, wrong_password: str) -> None:
    """A node that is refused ends with status 1 and says why at last."""
    with_broker(roger, wrong_password)
    done = await roger("serve", "app:config")
    assert (done.status, done.out) == (1, "")
    assert "CRITICAL amqp" in done.err.splitlines()[-1]
    assert "the broker refused user" in done.err.splitlines()[-1]
    assert SECRET not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", COMMANDS)
async def test_unreachable(roger: Roger, unreachable: str, command: str) -> None:
    """A broker that cannot be reached is told once, and again when time is up."""
    with_broker(roger, unreachable)
    words = ("app:config", roger.partition, *COMMANDS[command], "--timeout", "0.3")
    done = await roger(command, *words)
    assert (done.status, done.out) == (1, "")
    why, end = done.err.splitlines()
    assert why.startswith("roger: no connection to the broker: ")
    assert "within 0.3 s" in end
    assert SECRET not in done.err


async def test_serve_unreachable(roger: Roger, unreachable: str) -> None:
    """A node whose broker cannot be reached waits for it, and still ends when told to."""
    with_broker(roger, unreachable)
    async with roger.running("serve", "app:config") as node:
        await node.wait_log("no connection to the broker")
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0
    assert SECRET not in "".join(node.log)


async def test_interrupted(roger: Roger, unreachable: str) -> None:
    """Ctrl-C ends a command that waits, without a traceback."""
    with_broker(roger, unreachable)
    async with roger.running("queued", "app:config", roger.partition) as command:
        await command.wait_log("no connection to the broker")
        command.signal(signal.SIGINT)
        assert await command.wait() == 130
    assert len(command.log) == 1
    assert command.out == ""


async def test_doctor_interrupted(roger: Roger) -> None:
    """Ctrl-C ends a look at a broker that says nothing, without a traceback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with_broker(roger, f"amqp://somebody:{SECRET}@127.0.0.1:{port}/")
        async with roger.running("doctor", "app:config") as command:
            with trio.fail_after(PATIENCE):
                connection = await listener.accept()
                assert await connection.receive_some() == b"AMQP\x00\x00\x09\x01"
            async with connection:
                command.signal(signal.SIGINT)
                assert await command.wait() == 130
    assert (command.log, command.out) == ([], "")


async def test_serve_a_module_that_fails(roger: Roger) -> None:
    """A module that cannot be imported ends a node with status 1, the place and the reason."""
    text = f"config = make('amqp://u:{SECRET}@localhost')\n"
    (roger.folder / "broken.py").write_text(text)
    done = await roger("serve", "broken:config")
    assert done.status == 1
    trace, place, reason = done.err.splitlines()
    assert trace == "Traceback (most recent call last):"
    assert place == f'  File "{roger.folder}/broken.py", line 1, in <module>'
    assert reason.endswith("'broken' cannot be imported: NameError: name 'make' is not defined")
    assert SECRET not in done.err


async def test_serve_without_partitions(roger: Roger) -> None:
    """A node that would run nothing says so."""
    (roger.folder / "roger.toml").write_text('broker = "amqp://localhost:1"')
    async with roger.running("serve", "roger.toml", "--import", "app") as node:
        await node.wait_log("WARNING  no partitions are configured")
