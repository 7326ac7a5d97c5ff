"""Fixtures for pytest-trio; pytest finds them by itself.

Nothing of roger_trio is used before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this module in every project, also in those that do not need it
    from ._config import Config
    from .testing import RunningNode


@pytest.fixture
def roger_config() -> Config:
    """Return what `roger_node` runs; override it to have your own partitions, callbacks, …."""
    from .testing._node import DEFAULT_CONFIG

    return DEFAULT_CONFIG


@pytest.fixture
async def roger_node(roger_config: Config) -> AsyncGenerator[RunningNode]:
    """Run a node on the broker in memory for a test; see `roger_trio.testing.running_node`."""
    from .testing import running_node

    async with running_node(roger_config) as node:
        yield node
