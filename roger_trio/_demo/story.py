"""The run that ``roger demo`` shows, told as events. How they are drawn is not decided here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from .._config import Config
from .._jobs.callbacks import Callbacks
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.registry import registry
from .._tree.node import Node
from .._tree.serve import serve
from . import jobs

PARTITION: Final = "demo"
QUEUES: Final[Mapping[str, int]] = {"images": 3, "mail": 2, "default": 4}
"""Queue to the jobs of it that may run at once."""
_TIME_LIMIT: Final = 14.0
_REPORT_DELAY: Final = 4.0


@attrs.frozen
class Note:
    """The story goes on."""

    text: str


@attrs.frozen
class Enqueued:
    """Jobs were enqueued."""

    counts: Mapping[str, int]
    """Queue to how many."""


@attrs.frozen
class Succeeded:
    """A job is done."""

    job: Envelope
    result: str


@attrs.frozen
class Failed:
    """An attempt failed."""

    job: Envelope
    error: BaseException
    is_retried: bool


@attrs.frozen
class Buried:
    """A job was given up, and is kept with its error."""

    job: Envelope
    error: BaseException


Event = Note | Enqueued | Succeeded | Failed | Buried


class _Reporter(Callbacks):
    """Turns what happens to jobs into events: what callbacks are for."""

    def __init__(self, events: trio.MemorySendChannel[Event]) -> None:
        self._events = events

    async def after_run(self, partition: str, job: Envelope, result: Any, state: Any) -> None:
        await self._events.send(Succeeded(job, str(result)))

    async def on_error(
        self, partition: str, job: Envelope, error: BaseException, state: Any
    ) -> None:
        is_retried = registry.get(job.name).options.retryable
        await self._events.send(Failed(job, error, is_retried))

    async def on_buried(
        self, partition: str, job: Envelope, error: BaseException, state: Any
    ) -> None:
        await self._events.send(Buried(job, error))


def work() -> list[Job]:
    """Make the jobs that are enqueued at once."""
    images = [jobs.ResizeImage(f"holiday-{number}.jpg", width=320) for number in range(8, 17)]
    mails = [
        jobs.send_mail.job(f"{name}@example.com") for name in ("ada", "alan", "grace", "edsger")
    ]
    sums = [jobs.checksum.job(text) for text in ("to be", "or not to be")]
    rest = [
        jobs.fetch_feed.job("https://example.com/feed"),
        jobs.charge_card.job(1042),
        jobs.export_everything.job(),
    ]
    return [*images, *mails, *sums, *rest]


async def tell(events: trio.MemorySendChannel[Event], folder: Path) -> None:
    """Run the demo and send what happens; the channel is closed at the end.

    Args:
        events: Where to.
        folder: Where the database of the embedded broker is made.

    Raises:
        TooSlowError: It did not end in time.
    """
    jobs.PaymentService.is_up = False
    database = folder / "demo.db"
    happened, happening = trio.open_memory_channel[Event](100)
    config = Config(
        broker=f"sqlite:{database}",
        partitions={PARTITION: QUEUES},
        callbacks=_Reporter(happened),
        shutdown_timeout=1.0,
    )
    with trio.fail_after(_TIME_LIMIT):
        async with events, trio.open_nursery() as nursery:
            node = await nursery.start(serve, config)
            queues = ", ".join(f"{queue} ({size})" for queue, size in QUEUES.items())
            await events.send(Note(f"One node; partition {PARTITION!r}; queues {queues}."))
            await _act(node, events, happening)
            nursery.cancel_scope.cancel()


async def _act(
    node: Node,
    events: trio.MemorySendChannel[Event],
    happening: trio.MemoryReceiveChannel[Event],
) -> None:
    now = work()
    await node.enqueue_many(now, PARTITION)
    report = jobs.nightly_report.job(date.today() - timedelta(days=1))  # noqa: DTZ011
    await node.enqueue(report, PARTITION, delay=_REPORT_DELAY)
    enqueued = [*now, report]
    counts = {queue: sum(job.queue_type() == queue for job in enqueued) for queue in QUEUES}
    await events.send(Enqueued(counts))
    await _pass_on(happening, events, until_ended=len(enqueued))
    buried = await node.buried_jobs(PARTITION, "default")
    names = ", ".join(each.name.partition(":")[2] for each in buried)
    await events.send(
        Note(f"All quiet. {len(buried)} buried: {names}. The cause is mended; replay.")
    )
    jobs.PaymentService.is_up = True
    replayed = await node.replay_buried(PARTITION, "default")
    await _pass_on(happening, events, until_ended=replayed)


async def _pass_on(
    happening: trio.MemoryReceiveChannel[Event],
    events: trio.MemorySendChannel[Event],
    *,
    until_ended: int,
) -> None:
    """Pass events on until so many jobs have ended."""
    ended = 0
    while ended < until_ended:
        event = await happening.receive()
        await events.send(event)
        ended += not (isinstance(event, Failed) and event.is_retried)
