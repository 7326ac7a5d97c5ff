"""The log of the command line."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import trio

from roger_trio import Envelope
from roger_trio._cli.logs import LogFormat, LogLevel, set_up_logs, set_up_quiet_logs
from roger_trio._jobs.context import current_envelope
from roger_trio._logs import log_job

JOB = Envelope(
    id="j1", name="app:paint", args={}, partition="p", queue="q", queued_at=datetime.now(UTC)
)
logger = logging.getLogger("theirs")

Lines = Callable[[], list[str]]


@pytest.fixture
def in_job() -> Iterator[None]:
    """Be in a job."""
    token = current_envelope.set(JOB)
    yield
    current_envelope.reset(token)


def setup(style: LogFormat, level: LogLevel = LogLevel.INFO) -> Lines:
    """Set up the log and return what returns its lines."""
    stream = io.StringIO()
    set_up_logs(level, style, stream)
    return lambda: stream.getvalue().splitlines()


def documents(lines: list[str]) -> list[dict[str, object]]:
    """Read JSON lines."""
    return [json.loads(line) for line in lines]


def log_failure(text: str) -> None:
    """Log an exception, with its traceback and the stack."""
    try:
        int(text)
    except ValueError as exc:
        exc.args = (text,)
        logger.exception("failed", stack_info=True)


def test_text() -> None:
    """A line is time, level and message; below the level there is none."""
    lines = setup(LogFormat.TEXT)
    logger.debug("no")
    logger.warning("hello %s", "ada")
    [line] = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING  hello ada", line)


def test_text_in_a_job(in_job: None) -> None:
    """A line that is written in a job names it, whoever writes it, and never twice."""
    lines = setup(LogFormat.TEXT)
    logger.info("by them")
    log_job(logging.getLogger("roger_trio.jobs"), logging.INFO, JOB, "by %s", "us")
    assert [line[24:] for line in lines()] == [
        "INFO     job j1 (app:paint) of p/q: by them",
        "INFO     job j1 (app:paint) of p/q: by us",
    ]


async def test_everywhere_in_a_job(in_job: None) -> None:
    """Child tasks and threads of a job are in it; what began outside is not."""
    lines = setup(LogFormat.TEXT)

    async def child() -> None:
        logger.info("child")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
    await trio.to_thread.run_sync(logger.info, "thread")
    token = current_envelope.set(None)
    logger.info("outside")
    current_envelope.reset(token)
    assert [line.rpartition("INFO     ")[2] for line in lines()] == [
        "job j1 (app:paint) of p/q: child",
        "job j1 (app:paint) of p/q: thread",
        "outside",
    ]


def test_text_cannot_be_forged() -> None:
    """Later lines are indented, and a terminal is not controlled."""
    lines = setup(LogFormat.TEXT)
    logger.info("one\n2030-01-01 00:00:00.000 INFO     two\x1b[2J")
    first, second = lines()
    assert first.endswith("one")
    assert second == r"    2030-01-01 00:00:00.000 INFO     two\x1b[2J"


def test_text_of_an_exception() -> None:
    """A traceback follows, indented; so does a stack."""
    lines = setup(LogFormat.TEXT)
    log_failure("oops")
    head, *rest = lines()
    assert head.endswith("ERROR    failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert "    ValueError: oops" in rest
    assert "    Stack (most recent call last):" in rest
    assert all(line.startswith("    ") for line in rest)


def test_json() -> None:
    """A line is one object with a time, a level, a logger and a message."""
    lines = setup(LogFormat.JSON)
    logger.warning("hello\n%s", "ada")
    [found] = documents(lines())
    moment = datetime.fromisoformat(str(found.pop("timestamp")))
    assert moment.tzinfo is not None
    assert found == {"level": "WARNING", "logger": "theirs", "message": "hello\nada"}


def test_json_in_a_job(in_job: None) -> None:
    """The job is in fields of its own, for our lines and for theirs."""
    lines = setup(LogFormat.JSON)
    logger.info("by them")
    log_job(logger, logging.INFO, JOB, "by us")
    theirs, ours = documents(lines())
    fields = {"job_id": "j1", "job_name": "app:paint", "partition": "p", "queue": "q"}
    assert fields.items() <= theirs.items()
    assert fields.items() <= ours.items()
    assert theirs["message"] == "by them"
    assert ours["message"] == "job j1 (app:paint) of p/q: by us"


def test_json_about_another_job(in_job: None) -> None:
    """A line about one job written in another is about the one it names."""
    lines = setup(LogFormat.JSON)
    other = Envelope(
        id="j2", name="app:x", args={}, partition="p2", queue="q2", queued_at=JOB.queued_at
    )
    log_job(logger, logging.INFO, other, "hm")
    [found] = documents(lines())
    assert (found["job_id"], found["partition"]) == ("j2", "p2")


def test_json_extras() -> None:
    """Simple extras are fields; they cannot replace ours, and others are left out."""
    lines = setup(LogFormat.JSON)
    extra = {"size": 3, "ok": True, "none": None, "level": "fake", "thing": object(), "big": 2**70}
    logger.info("x", extra=extra)
    [found] = documents(lines())
    assert found["level"] == "INFO"
    assert {"size": 3, "ok": True, "none": None, "big": 2**70}.items() <= found.items()
    assert "thing" not in found


def test_json_of_an_exception() -> None:
    """The traceback is a field; so is a stack."""
    lines = setup(LogFormat.JSON)
    log_failure("oops \ud800")
    [found] = documents(lines())
    assert str(found["exception"]).startswith("Traceback ")
    assert str(found["exception"]).endswith("ValueError: oops \ud800")
    assert str(found["stack"]).startswith("Stack ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variable", "value", "coloured"),
    [
        ("TERM", "xterm", True), ("TERM", "dumb", False),
        ("NO_COLOR", "1", False), ("NO_COLOR", "", True),
    ],
)  # fmt: skip
def test_colours(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, coloured: bool
) -> None:
    """A terminal gets colours, unless it or its user has none."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    set_up_logs(LogLevel.INFO, LogFormat.TEXT, stream)
    logger.warning("hello")
    assert ("\x1b[33mWARNING \x1b[0m hello" in stream.getvalue()) is coloured
    assert ("\x1b" in stream.getvalue()) is coloured


def test_aiormq_is_silent() -> None:
    """The library below reports each lost connection several times; our links do it once."""
    lines = setup(LogFormat.TEXT, LogLevel.DEBUG)
    logging.getLogger("aiormq.connection").error("lost")
    assert lines() == []


def test_commands_log_little(capsys: pytest.CaptureFixture[str]) -> None:
    """A command shows each of our warnings once, no errors of ours, and all that others warn of."""
    set_up_quiet_logs()
    ours = logging.getLogger("roger_trio._brokers.x")
    for number in range(3):
        ours.warning("no connection: %d", number)
        ours.error("refused")
        ours.info("x")
        logger.warning("theirs")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["roger: no connection: 0", *["roger: theirs"] * 3]
