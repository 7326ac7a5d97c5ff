"""Serving on the embedded brokers: what it says, and how it ends before it is ready."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

import roger_trio as roger
from roger_trio._brokers.choose import make_broker
from roger_trio._brokers.embedded.broker import EmbeddedBroker
from roger_trio._topology import NODES_TOPIC
from roger_trio._tree.serve import serve_as


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


@pytest.mark.parametrize(("chosen", "seconds"), [(None, 0), ("ada", 2)])
async def test_only_a_name_that_was_chosen_may_be_anothers(
    chosen: str | None, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A name that the configuration leaves open is not looked for among nodes that are silent."""
    config = roger.Config(broker="memory:", partitions={"p": {"default": 1}}, node_name=chosen)
    other = make_broker(config, name="other", consumes=True)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            async with other.listen(NODES_TOPIC):
                began = trio.current_time()
                node = await nursery.start(serve_as, config, config.make_node_name())
                assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
                assert chosen in (None, node.name)
                nursery.cancel_scope.cancel()
