"""Serving on the embedded brokers: what it says, and how it ends before it is ready."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

import roger_trio as roger
from roger_trio._brokers.embedded.broker import EmbeddedBroker


async def test_serve_says_where_jobs_are_and_how_to_move(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the file, and what to set for RabbitMQ."""
    caplog.set_level(logging.INFO, "roger_trio")
    config = roger.Config(broker=f"sqlite:{tmp_path / 'jobs.db'}")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(roger.serve, config)
            nursery.cancel_scope.cancel()
    lines = [each.getMessage() for each in caplog.records if "jobs are kept" in each.getMessage()]
    assert len(lines) == 1
    assert "jobs.db" in lines[0]
    assert "broker='amqp://" in lines[0]
    assert "ROGER_BROKER" in lines[0]


async def test_a_node_cancelled_before_it_is_ready_is_just_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`nursery.start` reports the cancellation, not a task that ended without being started."""
    begun = trio.Event()

    async def never_connected(self: EmbeddedBroker) -> None:
        begun.set()
        await trio.sleep_forever()

    monkeypatch.setattr(EmbeddedBroker, "wait_connected", never_connected)
    config = roger.Config(broker="memory:", partitions={"p": {"default": 1}})
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                await nursery.start(roger.serve, config)

            nursery.start_soon(start)
            await begun.wait()
            nursery.cancel_scope.cancel()
