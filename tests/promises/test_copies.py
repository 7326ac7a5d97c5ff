"""Promise 10: a node never runs one job twice at once, whichever way there came to be two of it.

Where a confirmation is lost with its connection, an enqueued job, a retry or a delayed job on its
way is in the broker twice. Neither copy was handed out before, so neither says that it came back.
"""

from __future__ import annotations

import trio

import roger_trio as roger
from tests.promises.support import Hub, Setup, hold, note, on_every_broker, serving


@on_every_broker
async def test_two_copies_of_a_job_do_not_run_at_once_on_a_node(setup: Setup, hub: Hub) -> None:
    """Of two copies that wait in the queue one runs, and the other one after it."""
    async with roger.connect(setup.config()) as client:
        for _ in range(2):
            await client.enqueue(hold.job(hub.name, "x"), setup.partition, id=f"job-{hub.name}")
        await client.enqueue(note.job(hub.name, "behind them"), setup.partition)
    with trio.fail_after(30):
        async with serving(setup.config()):
            await hub.wait("ran", tag="behind them")
            at_once = len(hub.running)
            hub.gate.set()
            await hub.wait("ended", 2)
    assert at_once == 1
    assert not hub.twice
