"""How a log line about a job looks: it always names the job, its class and its partition."""

from __future__ import annotations

import logging
from typing import Protocol


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
            record (``job_id``, ``job_name``, ``partition``, ``queue``) for other formats.
        text: What happened, with ``%`` placeholders.
        args: Their values.
        error: An exception whose traceback follows.
    """
    if not logger.isEnabledFor(level):
        return
    line = "job %s (%s) of %s/%s: " + text
    logger.log(
        level,
        line,
        job.id,
        job.name,
        job.partition,
        job.queue,
        *args,
        exc_info=error,
        extra={
            "job_id": job.id,
            "job_name": job.name,
            "partition": job.partition,
            "queue": job.queue,
        },
    )
