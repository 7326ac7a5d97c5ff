"""``roger status``, ``roger running`` and ``roger nodes``: look at all nodes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias

import orjson
import typer

from .._client import Client
from .._errors import PartitionNotRunning
from .._info import Answers, NodeInfo, QueueInfo
from .._jobs.envelope import Envelope
from .examples import with_examples
from .options import App, Imports, Json, ShowArgs, Timeout
from .output import age, print_json, print_table, remark
from .session import load_client_config, run_with_client

OnePartition: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="PARTITION", help="Only this partition.", show_default=False),
]
Queues: TypeAlias = Mapping[str, Mapping[str, QueueInfo | int]]
"""What one node hosts: partition → queue → what runs, or the max workers of what waits."""
_QUEUE_COLUMNS: Final = (
    "PARTITION", "QUEUE", "NODE", "WORKERS", "RUNNING", "READY", "CONSUMERS", "STATE",
)  # fmt: skip


@with_examples(
    "roger status app:config",
    "roger status app:config myapp --json",
)
def status(
    app: App,
    partition: OnePartition = None,
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show partitions and queues, over all nodes.

    One line for each queue on each node: its workers, the jobs of it that run there, the jobs
    ready in it, the nodes that consume it, and whether it is paused, or waits for the broker,
    which is away or refuses it: the node's log and roger health say why.
    """
    config = load_client_config(app, imports, timeout)
    answers = run_with_client(config, lambda client: client.partitions())
    rows = list(_queues(answers, partition))
    if partition is not None and not rows:
        _refuse_partition(partition, answers)
    if json:
        print_json({"queues": rows, "not_answering": sorted(answers.not_answering)})
    elif rows:
        print_table(_QUEUE_COLUMNS, map(_queue_cells, rows))
    else:
        remark("no partition runs on any node")
    remark_not_answering(answers.not_answering)


def _queues(answers: Mapping[str, Queues], only: str | None) -> Iterator[dict[str, Any]]:
    """Say what is known of each queue on each node, queue by queue."""
    found = sorted(
        (partition, queue, node)
        for node, partitions in answers.items()
        for partition, queues in partitions.items()
        for queue in queues
        if only in (None, partition)
    )
    for partition, queue, node in found:
        info = answers[node][partition][queue]
        place = {"partition": partition, "queue": queue, "node": node}
        if isinstance(info, int):
            yield place | {
                "max_workers": info,
                "running": None,
                "message_count": None,
                "consumer_count": None,
                "paused": None,
                "waiting": True,
            }
        else:
            yield place | {
                "max_workers": info.max_workers,
                "running": info.running,
                "message_count": info.message_count,
                "consumer_count": info.consumer_count,
                "paused": info.paused,
                "waiting": False,
            }


def _queue_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = ("max_workers", "running", "message_count", "consumer_count")
    return (
        row["partition"],
        row["queue"],
        row["node"],
        *("-" if row[name] is None else str(row[name]) for name in numbers),
        "waiting for the broker" if row["waiting"] else "paused" if row["paused"] else "running",
    )


def _refuse_partition(partition: str, answers: Answers[Any]) -> None:
    names = sorted({name for partitions in answers.values() for name in partitions})
    running = ", ".join(map(repr, names)) or "none"
    remark_not_answering(answers.not_answering)
    raise PartitionNotRunning(
        partition, f"no node that answers runs it; partitions that run: {running}"
    )


@with_examples(
    "roger running app:config",
    "roger running app:config myapp --args",
)
def running(
    app: App,
    partition: OnePartition = None,
    *,
    args: ShowArgs = False,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show the jobs that run now, on all nodes.

    Those that have run longest come first.
    """
    config = load_client_config(app, imports, timeout)
    answers = run_with_client(config, lambda client: _running_jobs(client, partition))
    jobs = [(node, job) for node, found in answers.items() for job in found]
    jobs.sort(key=lambda pair: (pair[1].started_at or pair[1].queued_at, pair[1].id))
    if json:
        documents = [{"node": node, **job.as_json()} for node, job in jobs]
        print_json({"jobs": documents, "not_answering": sorted(answers.not_answering)})
    elif jobs:
        columns = ("ID", "JOB", "PARTITION", "QUEUE", "NODE", "STARTED", "RETRIES")
        print_table(
            (*columns, "ARGS") if args else columns,
            [_job_cells(node, job, args) for node, job in jobs],
        )
    else:
        remark("no job runs" + ("" if partition is None else f" in {partition}"))
    remark_not_answering(answers.not_answering)


async def _running_jobs(client: Client, partition: str | None) -> Answers[list[Envelope]]:
    if partition is not None:
        return await client.running_jobs(partition)
    every = await client.running_jobs()
    return Answers(
        {node: [job for jobs in found.values() for job in jobs] for node, found in every.items()},
        every.not_answering,
    )


def _job_cells(node: str, job: Envelope, with_args: bool) -> tuple[str, ...]:
    started = "-" if job.started_at is None else age(job.started_at)
    cells = (job.id, job.name, job.partition, job.queue, node, started, str(job.retry_count))
    return (*cells, orjson.dumps(dict(job.args)).decode()) if with_args else cells


@with_examples("roger nodes app:config")
def nodes(
    app: App,
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show the nodes of the cluster.

    Nodes that are known and do not answer are among them: they are frozen, busy, or have just died.
    """
    config = load_client_config(app, imports, timeout)
    found = run_with_client(config, lambda client: client.nodes())
    if json:
        documents = [_node_as_json(name, info) for name, info in sorted(found.items())]
        print_json({"nodes": documents, "not_answering": sorted(found.not_answering)})
    elif found:
        columns = ("NODE", "HOST", "PID", "VERSION", "STARTED", "PARTITIONS", "STATE")
        print_table(columns, [_node_cells(name, info) for name, info in sorted(found.items())])
    else:
        remark("no node runs")
    remark_not_answering(found.not_answering)


def _node_as_json(name: str, info: NodeInfo) -> dict[str, Any]:
    return {
        "name": name,
        "host": info.host,
        "pid": info.pid,
        "version": info.version,
        "started_at": info.started_at.isoformat(),
        "partitions": {each: dict(queues) for each, queues in info.partitions.items()},
        "answering": info.answering,
    }


def _node_cells(name: str, info: NodeInfo) -> tuple[str, ...]:
    partitions = [
        f"{partition} ({', '.join(f'{queue}: {workers}' for queue, workers in queues.items())})"
        for partition, queues in info.partitions.items()
    ]
    return (
        name,
        info.host,
        str(info.pid),
        info.version,
        age(info.started_at),
        ", ".join(partitions) or "-",
        "answering" if info.answering else "not answering",
    )


def remark_not_answering(names: Iterable[str]) -> None:
    """Name the nodes that did not answer, on stderr."""
    for name in sorted(names):
        remark(f"node {name!r} did not answer: it is frozen, busy, or has just died")
