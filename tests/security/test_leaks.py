"""What looks for passwords in the suite's output finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import look, new_secret
from tests.promises.support import ROOT
from tests.rabbitmq import PrivateRabbit

TESTS = """
import logging, os, subprocess, sys, warnings
import pytest
from tests.leaks import new_secret

def test_fine(): print("canary-bird")
def test_stdout(): print(f"amqp://guest:{new_secret()}@localhost/")
def test_stderr(): print(new_secret(), file=sys.stderr)
def test_log(): logging.getLogger("x").warning("refused: %s", new_secret())
def test_descriptor(): os.write(2, new_secret().encode())
def test_child(): subprocess.run([sys.executable, "-c", f"print({new_secret()!r})"], check=True)

@pytest.fixture
def fixture():
    yield
    print(new_secret())

def test_fixture(fixture): pass
"""


def test_each_way_to_show_a_password_fails_the_test(tmp_path: Path) -> None:
    """In this process, in a child, in the log, and after the test."""
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "5 failed, 2 passed, 1 error" in done.stdout
    assert done.stdout.count("a password is shown") >= 6


def test_what_a_child_writes_is_looked_at() -> None:
    """`look` fails on a password within other bytes, and gives back all that has none."""
    assert look(b"a canary-bird \xff") == "a canary-bird \ufffd"
    with pytest.raises(AssertionError, match="a password is shown"):
        look(b"\xff://x:" + new_secret().encode() + b"@")


def test_the_tests_brokers_have_such_passwords() -> None:
    """Else nothing would ever be found."""
    with pytest.raises(AssertionError, match="a password is shown"):
        look(PrivateRabbit(tls=None).url)
