"""Fixtures for the tests of the test kit."""

from __future__ import annotations

import pytest

from . import jobs


@pytest.fixture(autouse=True)
def log() -> list[str]:
    """Return what the jobs did, empty before each test."""
    jobs.log.clear()
    return jobs.log
