"""``roger queued`` and ``roger buried``: look at jobs, without changing anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import orjson
import typer

from .._jobs.envelope import Envelope
from .examples import with_examples
from .options import App, Imports, Json, Limit, Partition, Queue, ShowArgs, Timeout
from .output import age, print_json, print_table, printable, remark, say
from .session import load_client_config, run_with_client

_COLUMNS: Final = ("ID", "JOB", "QUEUED", "RETRIES")
_TAB: Final = "\t"


@with_examples(
    "roger queued app:config myapp",
    "roger queued app:config myapp images --limit 10 --json",
)
def queued(  # noqa: PLR0913 -- each is an argument or option of the command
    app: App,
    partition: Partition,
    queue: Queue = "default",
    *,
    limit: Limit = 100,
    args: ShowArgs = False,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show the jobs that wait in a queue.

    The oldest come first; the look changes nothing. Delayed jobs, and those that wait for their
    retry, are not in the queue until their time has come.
    """
    config = load_client_config(app, imports, timeout)
    jobs = run_with_client(config, lambda client: client.queued_jobs(partition, queue, limit))
    if json:
        _print_jobs(partition, queue, jobs)
        return
    _print_table(_COLUMNS, [_cells(job) for job in jobs], jobs, args)
    _remark_on(jobs, f"queued in {partition}/{queue}", limit)


@with_examples(
    "roger buried app:config myapp",
    "roger buried app:config myapp images --traceback",
)
def buried(  # noqa: PLR0913 -- each is an argument or option of the command
    app: App,
    partition: Partition,
    queue: Queue = "default",
    *,
    limit: Limit = 100,
    args: ShowArgs = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the tracebacks too.")
    ] = False,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show the buried jobs of a queue.

    The oldest come first, each with the error that buried it; the look changes nothing.
    """
    config = load_client_config(app, imports, timeout)
    jobs = run_with_client(config, lambda client: client.buried_jobs(partition, queue, limit))
    if json:
        _print_jobs(partition, queue, jobs)
        return
    columns = (*_COLUMNS, "BURIED", "ERROR", "MESSAGE")
    _print_table(columns, [(*_cells(job), *_error_cells(job)) for job in jobs], jobs, args)
    if traceback:
        _print_tracebacks(jobs)
    _remark_on(jobs, f"buried in {partition}/{queue}", limit)


def _print_jobs(partition: str, queue: str, jobs: Sequence[Envelope]) -> None:
    found = [job.as_json() for job in jobs]
    print_json({"partition": partition, "queue": queue, "jobs": found})


def _print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    jobs: Sequence[Envelope],
    with_args: bool,
) -> None:
    if not jobs:
        return
    if with_args:
        columns = (*columns, "ARGS")
        shown = [orjson.dumps(dict(job.args)).decode() for job in jobs]
        rows = [(*row, text) for row, text in zip(rows, shown, strict=True)]
    print_table(columns, rows)


def _cells(job: Envelope) -> tuple[str, ...]:
    # What is no job was never enqueued by us, and nobody knows when it came.
    queued = age(job.queued_at) if job.name else "-"
    return job.id, job.name or "(not a job)", queued, str(job.retry_count)


def _error_cells(job: Envelope) -> tuple[str, ...]:
    error = job.error
    if error is None:
        return "-", "-", "-"
    return _buried_age(error.buried_at), error.type or "-", error.message or "-"


def _buried_age(moment: datetime) -> str:
    # The start of 1970 stands for jobs that the broker or an operator put there.
    return age(moment) if moment.timestamp() > 0 else "-"


def _print_tracebacks(jobs: Sequence[Envelope]) -> None:
    for job in jobs:
        say(f"job {job.id} ({job.name}):")
        text = (job.error.traceback if job.error else "") or "no traceback was kept"
        for line in text.splitlines():
            print(f"    {printable(line, keep=_TAB)}")


def _remark_on(jobs: Sequence[Envelope], where: str, limit: int) -> None:
    if not jobs:
        remark(f"no jobs are {where}")
    elif len(jobs) == limit:
        remark(f"there may be more {where}: these are the oldest {limit} (--limit)")
