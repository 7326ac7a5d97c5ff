"""How the end of an attempt is told: to the log, and to the broker."""

from __future__ import annotations

import logging

import attrs

from .._brokers.base import Delivery, Message
from .._control.waiting import EXECUTION_KEY, QUEUE
from .._jobs import buried, outcome as o, wire
from .._jobs.buried import text_of
from .._jobs.envelope import Envelope, JobError
from .._logs import log_job

logger = logging.getLogger("roger_trio.jobs")


def log_end(envelope: Envelope, outcome: o.Outcome, settlement: o.Settlement) -> None:
    """Log how an attempt ended, where it did not succeed."""
    match outcome, settlement:
        case o.Succeeded(), _:
            pass
        case (
            o.Failed(error) | o.NotRunnable(error) | o.RetryRequested(error),
            o.RunAgain(delay, count),
        ):
            kind = type(error).__name__
            text = "attempt %d failed, the next one is in %g s: %s: %s"
            log_job(logger, logging.WARNING, envelope, text, count, delay, kind, text_of(error))
        case _, o.PutAway(error):
            text = "buried after %d retries: %s: %s"
            kind = type(error).__name__
            count = envelope.retry_count
            log_job(logger, logging.ERROR, envelope, text, count, kind, text_of(error), error=error)
        case o.Failed(error), _:
            kind = type(error).__name__
            text = "failed: %s: %s"
            log_job(logger, logging.ERROR, envelope, text, kind, text_of(error), error=error)
        case o.Snoozed(seconds), _:
            log_job(logger, logging.INFO, envelope, "snoozed for %g s", seconds)
        case o.Discarded(reason), _:
            log_job(logger, logging.INFO, envelope, "discarded: %s", reason or "no reason given")
        case o.Interrupted(), _:
            log_job(logger, logging.WARNING, envelope, "interrupted as the node stops; given back")
        case o.Cancelled(), _:
            log_job(logger, logging.INFO, envelope, "cancelled")
        case o.DeliveryLost(), _:
            text = "cancelled, as the connection that brought it is gone; the broker redelivers it"
            log_job(logger, logging.WARNING, envelope, text)
        case _:
            pass


def message_of(envelope: Envelope, error: JobError | None = None) -> Message:
    """Make the message of a job; a buried one has its error beside it."""
    headers = buried.headers_of(error) if error is not None else None
    return Message(wire.dump(envelope), envelope.id, headers)


def moved(envelope: Envelope) -> Envelope:
    """Tell of a job what it is in the next broker queue, where it was not settled for good."""
    return attrs.evolve(envelope, moves=envelope.moves + 1)


def waiting_message(envelope: Envelope, onward: str) -> Message:
    """Make the message of a job that has to wait for its execution key.

    Args:
        envelope: The job.
        onward: The broker queue it is to go to when its turn has come.
    """
    headers = {EXECUTION_KEY: envelope.execution_key or "", QUEUE: envelope.queue}
    return Message(wire.dump(moved(envelope)), envelope.id, headers, onward=onward)


def was_forwarded(delivery: Delivery) -> bool:
    """Tell whether a delivery comes from the waiting jobs, not from a worker that had it.

    RabbitMQ 4 may say of it that it came back, as it did while it waited. So, as in the first
    queue, its first return proves nothing.
    """
    return EXECUTION_KEY in delivery.headers
