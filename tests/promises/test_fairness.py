"""No job waits behind another one while a worker is free, on whichever node."""

from __future__ import annotations

import trio

import roger_trio as roger
from roger_trio._jobs import wire
from roger_trio._messages import make_envelope
from tests.promises.support import Hub, Outsider, Setup, hold, note, serving

SHORT = 20


async def test_short_jobs_pass_by_a_long_one_on_another_node(setup: Setup, hub: Hub) -> None:
    """A busy node keeps none of them back: the other one's worker runs them all meanwhile."""
    config = setup.config({"default": 1})
    with trio.fail_after(60):
        async with serving(config) as one, serving(setup.config({"default": 1})):
            await one.enqueue(hold.job(hub.name, "long"), setup.partition)
            await hub.wait("began", tag="long")
            jobs = [note.job(hub.name, str(number)) for number in range(SHORT)]
            await one.enqueue_many(jobs, setup.partition)
            with trio.fail_after(10):
                await hub.wait("ran", SHORT)
            assert hub.count("ended", "long") == 0


async def test_jobs_that_came_back_pass_by_a_long_one_on_another_node(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """They have a queue of their own; a node without a free worker lets them go to another one."""
    config = setup.config({"default": 1})
    with trio.fail_after(60):
        async with serving(config) as one, serving(setup.config({"default": 1})):
            await one.enqueue(hold.job(hub.name, "long"), setup.partition)
            await hub.wait("began", tag="long")
            jobs = [note.job(hub.name, str(number)) for number in range(SHORT)]
            await come_back(setup, outsider, *jobs)
            with trio.fail_after(20):
                await hub.wait("ran", SHORT)
            assert hub.count("ended", "long") == 0


async def test_short_jobs_pass_by_long_ones_that_came_back(
    setup: Setup, hub: Hub, outsider: Outsider
) -> None:
    """A node takes as many of both queues as it has workers: those too many go to another one."""
    config = setup.config({"default": 2})
    with trio.fail_after(60):
        async with serving(config) as one:
            long = [hold.job(hub.name, str(number)) for number in range(2)]
            await come_back(setup, outsider, *long)
            await hub.wait("began", 2)
            jobs = [note.job(hub.name, str(number)) for number in range(SHORT)]
            await one.enqueue_many(jobs, setup.partition)
            async with serving(setup.config({"default": 2})):
                with trio.fail_after(20):
                    await hub.wait("ran", SHORT)
            assert hub.count("ended") == 0


async def come_back(setup: Setup, outsider: Outsider, *jobs: roger.Job) -> None:
    """Put jobs where those are that came back."""
    _, redelivered, _ = setup.names()
    for job in jobs:
        envelope = make_envelope(job, setup.partition, None, None)
        await outsider.publish(redelivered, wire.dump(envelope), envelope.id)
