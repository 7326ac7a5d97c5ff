"""Promises 1 and 11 with processes that die or are told to stop."""

from __future__ import annotations

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
