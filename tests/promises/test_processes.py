"""Promises 1 and 11 with processes that die or are told to stop."""

from __future__ import annotations

import signal

import trio

import roger_trio as roger
from tests.apps import node as app
from tests.promises.support import Setup, on_durable_brokers, program


@on_durable_brokers
async def test_jobs_of_a_killed_node_are_performed_by_another(setup: Setup) -> None:
    """Promise 1: SIGKILL in mid-job and with 200 prefetched; all enqueued before any node ran."""
    async with roger.connect(setup.config()) as client:
        await client.enqueue(app.hold.job("stuck"), setup.partition)
        many = await client.enqueue_many(
            [app.hold.job(str(n)) for n in range(199)], setup.partition
        )
        assert len(many) == 199
        with trio.fail_after(60):
            async with program(setup, partitions={setup.partition: {"default": 100}}) as first:
                await first.wait("hold", 100)
                first.process.kill()
                await first.ended.wait()
            async with program(setup, partitions={setup.partition: {"default": 200}}) as second:
                await second.wait("hold", 200)


@on_durable_brokers
async def test_sigterm_lets_jobs_finish_and_a_second_signal_stops_at_once(setup: Setup) -> None:
    """Promise 11: with a backlog; what is given back runs its `finally` and spends no attempt."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(60):
            async with program(setup, shutdown_timeout=30) as node:
                await client.enqueue(app.work.job("w", 0.7), setup.partition)
                await node.wait("work w")
                node.process.send_signal(signal.SIGTERM)
                await node.ended.wait()
                assert node.lines[-2:] == ["worked w", "end"]
            async with program(setup, shutdown_timeout=60) as node:
                await client.enqueue_many(
                    [app.hold.job(str(n)) for n in range(40)], setup.partition
                )
                await node.wait("hold", 10)
                node.process.send_signal(signal.SIGTERM)
                await trio.sleep(0.2)
                node.process.send_signal(signal.SIGTERM)
                with trio.fail_after(10):
                    await node.ended.wait()
                assert (node.count("cleanup"), node.lines[-1]) == (10, "end")
        waiting = await client.queued_jobs(setup.partition, "default")
    assert [(each.retry_count, each.deaths) for each in waiting] == [(0, 0)] * 40
