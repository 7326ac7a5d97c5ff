"""Looks for passwords in all output of the suite, and fails the test that shows one.

The tests' brokers, keys and users have passwords that can be told from any other text. What a test
writes, in this process or in one of its own, to stdout, to stderr or to the log, is searched for
them: by a hook on what pytest has captured, and by `look` where a test reads a child's pipes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator
from typing import Final

import pytest

_SECRET: Final = re.compile(r"canary-[0-9a-f]{16}")


def new_secret() -> str:
    """Make a password that must not be shown anywhere."""
    return f"canary-{secrets.token_hex(8)}"


def look(text: str | bytes) -> str:
    """Look for passwords in what a process has written; return it as text.

    Raises:
        AssertionError: There is one.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    found = _SECRET.search(text)
    if found is not None:
        around = text[max(0, found.start() - 200) : found.end() + 200]
        raise AssertionError(f"a password is shown: {around!r}")
    return text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose captured output has a password in it."""
    report = yield
    for name, text in report.sections:
        if not name.endswith(f" {report.when}"):
            continue  # Of a phase before this one, which has failed.
        try:
            look(text)
        except AssertionError as error:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {name}: {error}"
    return report
