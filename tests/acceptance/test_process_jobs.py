"""``roger serve`` with jobs in worker processes: their log, their end, and without the extra."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from signal import SIGTERM
from typing import Any

import pytest
import trio

from tests.acceptance.command import Roger

APP = """
import logging
from pathlib import Path
import roger_trio as roger
from app import config

@roger.job(process=True)
def crunch(gate: str) -> None:
    logging.getLogger("crunch").info("crunching")
    Path(gate).read_text()
"""


@pytest.fixture(autouse=True)
def _app(roger: Roger) -> None:
    """Have the app, on a broker that needs no server."""
    roger.folder.joinpath("crunching.py").write_text(APP)
    roger.environment["ROGER_BROKER"] = "sqlite:jobs.db"


@pytest.mark.parametrize(
    ("words", "writer"), [((), None), (("--processes", "1"), 1)], ids=["node", "supervisor"]
)
async def test_it_has_its_nodes_log_and_its_nodes_time(
    roger: Roger, words: Sequence[str], writer: int | None
) -> None:
    """Its lines are the node's, and name the job; SIGTERM to the whole group lets it end."""
    gate = roger.folder / "gate"
    os.mkfifo(gate)
    command = ("serve", "crunching:config", "--log-format", "json", *words)
    async with roger.running(*command, own_group=True) as node:
        await node.wait_log("is ready")
        done = await roger(
            "enqueue", "crunching:config", roger.partition, "crunch", '{"gate": "gate"}', "--json"
        )
        line: dict[str, Any] = json.loads(await node.wait_log('"crunching"'))
        assert line["job_id"] == json.loads(done.out)["id"]
        assert (line["job_name"], line["partition"]) == ("crunching:crunch", roger.partition)
        assert (line["level"], line["logger"]) == ("INFO", "crunch")
        assert line.get("process") == writer
        node.signal_group(SIGTERM)
        await node.wait_log("stopping once the running jobs have ended")
        await trio.to_thread.run_sync(gate.write_text, "go", abandon_on_cancel=True)
        await node.wait_log("succeeded in")
        assert await node.wait() == 0
        await node.wait_closed()


async def test_a_node_without_the_extra_says_what_to_install(roger: Roger) -> None:
    """It does not start; a client, which performs nothing, needs no extra."""
    roger.folder.joinpath("trio_parallel.py").write_text("raise ImportError('not here')")
    done = await roger("serve", "crunching:config")
    assert done.status == 1
    assert "job crunching:crunch: process: " in done.err
    assert "pip install roger_trio[process]" in done.err
    done = await roger("enqueue", "crunching:config", roger.partition, "crunch", '{"gate": "gate"}')
    assert done.status == 0
