"""How one delivery of a job ended, and what follows from it. Decisions only, no effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import attrs

from .._errors import RogerError


class WorkerDied(RogerError):
    """The process of a job's worker died each time the job was started; so it was buried.

    Args:
        deaths: How often.
    """

    def __init__(self, deaths: int) -> None:
        super().__init__(f"its worker's process died {deaths} times; it was not started again")
        self.deaths = deaths


# Outcomes: what became of a delivery.


@attrs.frozen
class Succeeded:
    """`perform` returned."""

    result: Any


@attrs.frozen
class Failed:
    """`perform` raised, or took too long (`JobTimeout`)."""

    error: BaseException


@attrs.frozen
class NotRunnable:
    """This node cannot run it: an unknown name, or arguments that do not fit.

    Another version of the program may, as in a rolling deploy, so it is always retried.
    """

    error: Exception


@attrs.frozen
class RetryRequested:
    """`perform` raised `Retry`."""

    error: BaseException
    after: float | None


@attrs.frozen
class Snoozed:
    """`perform` raised `Snooze`."""

    seconds: float


@attrs.frozen
class BuryRequested:
    """`perform` raised `Bury`."""

    error: BaseException


@attrs.frozen
class Discarded:
    """`perform` raised `Discard`."""

    reason: str


@attrs.frozen
class Interrupted:
    """The node stops; the job did not end, and spends no attempt."""


@attrs.frozen
class DeliveryLost:
    """The connection that brought the delivery is gone, and the broker gives it to another."""


@attrs.frozen
class Cancelled:
    """Somebody cancelled it: however `perform` ended, it never starts again."""


@attrs.frozen
class Postponed:
    """It was not begun: its queue was paused, or the node stopped, while it waited for leave."""


Outcome = (
    Succeeded
    | Failed
    | NotRunnable
    | RetryRequested
    | Snoozed
    | BuryRequested
    | Discarded
    | Interrupted
    | DeliveryLost
    | Cancelled
    | Postponed
)

# Settlements: what the worker does about it.


@attrs.frozen
class Finish:
    """The job is over: acknowledge it."""


@attrs.frozen
class Conclude:
    """The job is cancelled: see whether its end was told yet, then acknowledge it."""


@attrs.frozen
class RunAgain:
    """Publish it again, then acknowledge it."""

    delay: float
    """Seconds to wait."""
    retry_count: int
    """Attempts spent when it comes back."""


@attrs.frozen
class PutAway:
    """Publish it to the buried jobs, with the error, then acknowledge it."""

    error: BaseException


@attrs.frozen
class GiveBack:
    """Let the broker give it to another worker."""


@attrs.frozen
class LeaveAlone:
    """There is nothing left to settle."""


Settlement = Finish | Conclude | RunAgain | PutAway | GiveBack | LeaveAlone


def is_over(settlement: Settlement) -> bool:
    """Tell whether the job ends for good with it."""
    return isinstance(settlement, Finish | Conclude | PutAway)


def decide(  # noqa: PLR0911 -- one for each outcome
    outcome: Outcome, *, retryable: bool, retry_count: int, levels: Sequence[float]
) -> Settlement:
    """Decide what follows from an outcome.

    Args:
        outcome: What became of the delivery.
        retryable: Whether the job's failures are retried.
        retry_count: Attempts spent before this one.
        levels: Seconds to wait before each retry; after the last one comes the burial.
    """
    match outcome:
        case Succeeded() | Discarded():
            return Finish()
        case Failed(error):
            return _retry(error, None, retry_count, levels) if retryable else Finish()
        case NotRunnable(error):
            return _retry(error, None, retry_count, levels)
        case RetryRequested(error, after):
            return _retry(error, after, retry_count, levels)
        case Snoozed(seconds):
            return RunAgain(seconds, retry_count)
        case BuryRequested(error):
            return PutAway(error)
        case Cancelled():
            return Conclude()
        case Interrupted() | Postponed():
            return GiveBack()
        case DeliveryLost():
            return LeaveAlone()
        case _:
            assert_never(outcome)


def _retry(
    error: BaseException, after: float | None, retry_count: int, levels: Sequence[float]
) -> RunAgain | PutAway:
    if retry_count >= len(levels):
        return PutAway(error)
    return RunAgain(levels[retry_count] if after is None else after, retry_count + 1)


# Redeliveries: a delivery that was handed out before may have killed the process that had it.


@attrs.frozen
class Run:
    """Start it."""


@attrs.frozen
class Requeue:
    """Publish it to the redelivered jobs, so noted, then acknowledge it."""

    deaths: int
    orphaned: bool = False
    """Whether it goes on elsewhere, without this delivery: that is for its node to have back."""


@attrs.frozen
class Forget:
    """It has ended before: acknowledge it."""

    is_over: bool
    """Whether for good; else it was retried, snoozed or moved."""


Admission = Run | Requeue | PutAway | Forget


def admit(
    *,
    in_redelivered_queue: bool,
    deaths: int,
    survived: bool,
    max_deliveries: int,
) -> Admission:
    """Decide whether a delivery that was handed out before may start.

    The broker says of a message that it was handed out before, not what became of it: a process
    may have died of the job, or been stopped, or a person may have looked at the queue. So a job
    that comes back moves to a queue of its own, which nobody looks into and from which stopping
    nodes give nothing back unsettled: what comes back there was started and not ended, and counts
    as a death. The first return alone proves nothing, and starts no count.

    Args:
        in_redelivered_queue: Whether it came from the queue of the redelivered.
        deaths: Deaths counted so far, the first return left out.
        survived: Whether the process that had it lives: then only a connection was lost.
        max_deliveries: Deaths of which it is buried.
    """
    if not in_redelivered_queue:
        return Requeue(deaths)
    if survived:
        return Requeue(deaths)
    counted = deaths + 1
    if counted >= max(1, max_deliveries - 1):
        return PutAway(WorkerDied(counted + 1))
    return Requeue(counted)
