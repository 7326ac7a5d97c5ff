"""What ``roger enqueue`` makes of its words, before any broker is asked."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import typer

from roger_trio._cli.enqueue import _arguments, _moment
from tests.unit.cli.conftest import Roger

SOURCE = """
@roger.job
def paint(colour: str, coats: int = 1) -> None: ...
config = roger.Config(broker="amqp://localhost:1", enqueue_timeout=0.1)
"""


@pytest.mark.parametrize("text", ["", "{", "nope", '{"a": 1} x'])
def test_arguments_that_are_no_json(roger: Roger, text: str) -> None:
    """Arguments that are not JSON are wrong usage; the text is not repeated."""
    done = roger("enqueue", "app:config", "p", "Job", text)
    assert done.status == 2
    assert "Invalid value for ARGS: expected a JSON object (" in done.err


@pytest.mark.parametrize("text", ["[1]", '"a"', "1", "null"])
def test_arguments_that_are_no_object(roger: Roger, text: str) -> None:
    """Arguments go by name."""
    done = roger("enqueue", "app:config", "p", "Job", text)
    assert done.status == 2
    assert "expected a JSON object, got " in done.err


def test_arguments_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads them from stdin."""
    stdin = io.TextIOWrapper(io.BytesIO('{"name": "żółw"}'.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert _arguments("-") == {"name": "żółw"}


def test_time_with_a_zone() -> None:
    """A time with a zone is that time."""
    assert _moment("2030-12-31T23:59:00Z") == datetime(2030, 12, 31, 23, 59, tzinfo=UTC)
    assert _moment("2030-12-31T23:59+02:00").utcoffset() == timedelta(hours=2)


def test_time_without_a_zone() -> None:
    """A time without one is local."""
    assert _moment("2030-12-31T23:59") == datetime(2030, 12, 31, 23, 59).astimezone()


@pytest.mark.parametrize("text", ["", "tomorrow", "25:00", "2030-13-01"])
def test_time_that_is_none(text: str) -> None:
    """Anything else is wrong usage."""
    with pytest.raises(typer.BadParameter, match="expected a time such as"):
        _moment(text)


def test_an_unknown_job(roger: Roger, module: Callable[[str], str]) -> None:
    """A job that nobody registered is refused, and those that are there are listed."""
    name = module(SOURCE)
    done = roger("enqueue", f"{name}:config", "p", "piant")
    assert done.status == 1
    assert "roger: no job is called 'piant'; " in done.err
    assert f"{name}:paint" in done.err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ("{}", "'colour' is missing"),
        ('{"colour": 1}', "colour: "),
        ('{"colour": "red", "x": 1}', "'x'"),
    ],
)
def test_wrong_arguments(
    roger: Roger, module: Callable[[str], str], args: str, complaint: str
) -> None:
    """Arguments that do not fit are refused by job and field."""
    name = module(SOURCE)
    done = roger("enqueue", f"{name}:config", "p", f"{name}:paint", args)
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"roger: job {name}:paint: ")
    assert complaint in line


def test_no_broker(roger: Roger, module: Callable[[str], str]) -> None:
    """A broker that cannot be reached is a refusal, after why is told once."""
    name = module(SOURCE)
    done = roger("enqueue", f"{name}:config", "p", f"{name}:paint", '{"colour": "red"}')
    assert (done.status, done.out) == (1, "")
    why, end = done.err.splitlines()
    assert why.startswith("roger: no connection to the broker: amqp://guest:***@localhost:1/: ")
    assert end.startswith("roger: job ")
    assert end.endswith("within 0.1 s: no connection to amqp://guest:***@localhost:1/")
