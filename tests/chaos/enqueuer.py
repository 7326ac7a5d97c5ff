"""The program that enqueues, cancels, and writes down what it was told.

``python -m tests.chaos.enqueuer '{"who": …}'`` makes its share of the load, and ends.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

import roger_trio as roger

from . import jobs
from .journal import Journal
from .load import Order, plan_load
from .node import make_config


class Enqueuer:
    """Enqueues orders at their times."""

    def __init__(self, client: roger.Client, journal: Journal, start: float) -> None:
        self._client = client
        self._journal = journal
        self._start = start

    async def enqueue(self, order: Order) -> None:
        """Enqueue one order, and cancel it if it says so."""
        await trio.sleep_until(self._start + order.at)
        facts = attrs.asdict(order) | {"promise": order.promise}
        self._journal.note("send", job=facts.pop("id"), **facts)
        job = jobs.make_job(order)
        try:
            await self._client.enqueue(
                job, order.partition, queue=order.queue, delay=order.delay, id=order.id
            )
        except roger.DuplicateJob as exc:
            self._journal.note("refused", order.id, why="duplicate", of=exc.job_id)
        except roger.PartitionNotRunning as exc:
            self._journal.note("refused", order.id, why="not running", error=str(exc))
        except roger.BrokerUnavailable as exc:
            self._journal.note("unknown", order.id, error=str(exc))
        else:
            self._journal.note("accepted", order.id)
            if order.cancel_after is not None:
                await self._cancel(order, order.cancel_after)

    async def _cancel(self, order: Order, after: float) -> None:
        await trio.sleep(after)
        self._journal.note("cancel", order.id)
        try:
            result = await self._client.cancel(order.id, order.partition)
        except (roger.BrokerUnavailable, roger.PartitionNotRunning) as exc:
            self._journal.note("cancel unknown", order.id, error=str(exc))
        else:
            self._journal.note("cancel told", order.id, result=result.name)


async def _run(options: dict[str, Any], journal: Journal) -> None:
    """Make this program's share of the load: what is due from now on."""
    start: float = options["start"]  # of CLOCK_MONOTONIC
    # Trio's clock has an origin of its own.
    here = trio.current_time() - journal.note("begin") + start
    due = trio.current_time() - here
    orders = plan_load(options["seed"], options["duration"])
    share = [each for each in orders[options["share"] :: options["of"]] if each.at >= due]
    async with roger.connect(make_config(options)) as client:
        enqueuer = Enqueuer(client, journal, here)
        async with trio.open_nursery() as nursery:
            for order in share:
                nursery.start_soon(enqueuer.enqueue, order)
    journal.note("finish")


def main() -> None:
    """Make the load."""
    options = json.loads(sys.argv[1])
    logging.basicConfig(stream=sys.stderr, level="WARNING", format="%(asctime)s %(message)s")
    journal = Journal(Path(options["folder"]), options["who"])
    jobs.write_to(journal)
    trio.run(_run, options, journal)


if __name__ == "__main__":
    main()
