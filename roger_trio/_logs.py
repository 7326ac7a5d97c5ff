"""How a log line about a job looks: it always names the job, its class and its partition."""

from __future__ import annotations

import logging
from typing import Final, Protocol

JOB_PREFIX: Final = "job %s (%s) of %s/%s: "
"""What a line about a job begins with; the values of `JOB_FIELDS` go into it, in their order."""

JOB_FIELDS: Final = ("job_id", "job_name", "partition", "queue")
"""The attributes of a record about a job, for formats that are not text."""


class LoggedJob(Protocol):
    """What a log line needs of a job."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def partition(self) -> str: ...
    @property
    def queue(self) -> str: ...


def job_fields(job: LoggedJob) -> dict[str, object]:
    """Return the values of `JOB_FIELDS` for a job, in their order."""
    values = (job.id, job.name, job.partition, job.queue)
    return dict(zip(JOB_FIELDS, values, strict=True))


def names_job(record: logging.LogRecord) -> bool:
    """Tell whether a record was written by `log_job`: its text names the job already."""
    return isinstance(record.msg, str) and record.msg.startswith(JOB_PREFIX)


def log_job(
    logger: logging.Logger,
    level: int,
    job: LoggedJob,
    text: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """Write one line about a job.

    Args:
        logger: Where to.
        level: A `logging` level.
        job: The job. Its id, name, partition and queue are in the text, and are attributes of the
            record (`JOB_FIELDS`) for other formats.
        text: What happened, with ``%`` placeholders.
        args: Their values.
        error: An exception whose traceback follows.
    """
    if not logger.isEnabledFor(level):
        return
    fields = job_fields(job)
    line = JOB_PREFIX + text
    named = (_on_one_line(str(value)) for value in fields.values())
    logger.log(level, line, *named, *args, exc_info=error, extra=fields)


def _on_one_line(text: str) -> str:
    """Escape what could end the line or control a terminal: names come from the wire."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
