"""The command as a whole: help, version, and how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import roger_trio
from roger_trio._cli.app import COMMANDS
from tests.unit.cli.conftest import Roger

NAMES = [command.__name__ for command in COMMANDS]


def test_the_commands() -> None:
    """These commands exist, in this order."""
    assert NAMES == [
        "serve", "demo", "enqueue",
        "status", "running", "queued", "buried", "nodes", "keys", "doctor", "health",
        "cancel", "pause", "resume", "replay", "purge",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help(roger: Roger, words: tuple[str, ...]) -> None:
    """Without a command, or asked for, the help lists every command, on stdout."""
    done = roger(*words)
    assert (done.status, done.err) == (0, "")
    for name in NAMES:
        assert re.search(rf"^  {name} +[A-Z].+\.$", done.out, re.MULTILINE), name


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(roger: Roger, name: str) -> None:
    """Every command's help has a usage line, an example to copy and no drawing."""
    done = roger(name, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: roger {name} ")
    assert f"\n  Examples:\n    roger {name}" in done.out
    assert f"    roger {name} app:config" in done.out or name == "demo"  # which needs none
    assert done.out.isascii() or name == "replay"  # whose example has shortened ids
    assert "\x1b" not in done.out
    assert "\b" not in done.out


def test_version(roger: Roger) -> None:
    """The version is the package's."""
    assert roger("--version").out == f"roger_trio {roger_trio.__version__}\n"


def test_as_a_module(tmp_path: Path) -> None:
    """``python -m roger_trio`` is the command, and an ImportError of it would show here."""
    package = str(Path(roger_trio.__file__).parents[1])
    command = [sys.executable, "-m", "roger_trio", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True,
        env={"PYTHONPATH": package},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"roger_trio {roger_trio.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ("dance",),
        ("serve",),
        ("serve", "--loud"),
        ("serve", "app:config", "--log-level", "loud"),
        ("queued", "app:config"),
        ("running", "app:config", "p", "q"),
        ("keys", "app:config"),
        ("cancel", "app:config", "p"),
        ("pause", "app:config", "p"),
        ("resume", "app:config", "p"),
        ("queued", "app:config", "p", "--limit", "0"),
        ("queued", "app:config", "p", "--limit", "many"),
        ("replay", "app:config", "p"),
        ("replay", "app:config", "p", "default", "id", "--all"),
        ("enqueue", "app:config", "p", "Job", "{}", "--delay", "1", "--at", "2030-01-01"),
    ],
)
def test_wrong_usage(roger: Roger, words: tuple[str, ...]) -> None:
    """What was typed wrongly is exit status 2, with the usage on stderr and nothing on stdout."""
    done = roger(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Usage: roger ")
    assert "Traceback" not in done.err


def test_what_is_to_be_replayed_has_to_be_said(roger: Roger) -> None:
    """An id without its queue is not taken for a queue to replay as a whole."""
    done = roger("replay", "app:config", "p", "4f0c2a")
    assert done.status == 2
    assert "expected the ids of buried jobs of queue '4f0c2a', or --all" in done.err


def test_refused(roger: Roger, module: Callable[[str], str]) -> None:
    """A refusal is exit status 1 and one line on stderr."""
    name = module('config = roger.Config(broker="memory:")')
    done = roger("queued", f"{name}:config", "p")
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith("roger: partition 'p' has no queue 'default' on the broker")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_timeout(roger: Roger, module: Callable[[str], str], seconds: str) -> None:
    """A timeout that is none is wrong usage."""
    name = module('config = roger.Config(broker="memory:")')
    done = roger("queued", f"{name}:config", "p", "--timeout", seconds)
    assert done.status == 2
    assert f"--timeout: expected seconds above 0, got {seconds}" in done.err


def test_purge_does_not_guess(roger: Roger, module: Callable[[str], str]) -> None:
    """Where nobody can be asked, purge wants --yes before it connects anywhere."""
    name = module('config = roger.Config(broker="amqp://u:s3cret@localhost:1")')
    done = roger("purge", f"{name}:config", "p")
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith("roger: nothing was deleted: ")
    assert "--yes" in line


def test_a_bug_shows_no_values(roger: Roger, module: Callable[[str], str]) -> None:
    """The traceback of an error that nobody expected is Python's own, which shows no values."""
    from roger_trio._cli.app import make_app

    assert make_app().pretty_exceptions_enable is False
