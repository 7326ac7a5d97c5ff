"""``roger enqueue``: put a job into its queue."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer

from .._client import Client
from .._errors import UnknownJob
from .._jobs.codec import decode_args
from .._jobs.envelope import Envelope
from .._jobs.job import Job
from .._jobs.registry import registry
from .errors import Refused, misused
from .examples import with_examples
from .options import App, Imports, Json, Partition, Timeout
from .output import print_json, say
from .session import load_client_config, run_with_client


@with_examples(
    'roger enqueue app:config myapp ResizeImage \'{"path": "cat.png"}\'',
    "roger enqueue app:config myapp send_mail - --delay 60 < args.json",
)
def enqueue(  # noqa: PLR0913 -- each is an argument or option of the command
    app: App,
    partition: Partition,
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="The job: its full name, an alias, or its class or function name "
            "if only one job has it.",
            show_default=False,
        ),
    ],
    args: Annotated[
        str,
        typer.Argument(
            metavar="ARGS",
            help="Its arguments: a JSON object of name and value; - reads it from stdin.",
        ),
    ] = "{}",
    *,
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="QUEUE",
            help="The queue. Default: what the job says.",
            show_default=False,
        ),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Run it this much later, at the earliest.", show_default=False
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Run it at this time, at the earliest: ISO 8601 such as 2030-12-31T23:59:00Z; "
            "local time if it names no zone.",
            show_default=False,
        ),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The job's id. Default: a new one.", show_default=False),
    ] = None,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Enqueue a job.

    It is done once the broker has confirmed that it keeps the job. No node need run, unless the
    job has a queue key.
    """
    if delay is not None and at is not None:
        misused("expected one of --delay and --at, got both", "--at")
    moment = None if at is None else _moment(at)
    arguments = _arguments(args)
    config = load_client_config(app, imports, timeout)
    made = decode_args(_find(job, app), arguments)

    async def act(client: Client) -> Envelope:
        return await client.enqueue(made, partition, queue=queue, delay=delay, at=moment, id=id)

    envelope = run_with_client(config, act)
    if json:
        print_json(envelope.as_json())
    else:
        where = f"{envelope.partition}/{envelope.queue}"
        say(f"job {envelope.id} ({envelope.name}) is enqueued in {where}")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError):
        misused(f"expected a time such as 2030-12-31T23:59:00Z, got {text!r}", "--at")


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(sys.stdin.buffer.read() if text == "-" else text)
    except orjson.JSONDecodeError as exc:  # which does not repeat the text: it may be private
        misused(f"expected a JSON object ({exc})", "ARGS")
    if not isinstance(found, dict):
        misused(f"expected a JSON object, got {type(found).__name__}", "ARGS")
    return found


def _find(name: str, app: str) -> type[Job]:
    try:
        return registry.find(name)
    except UnknownJob as exc:
        known = ", ".join(sorted(job.options.name for job in registry)) or "none"
        raise Refused(
            f"no job is called {name!r}; {app} brings {known} (--import MODULE brings more)"
        ) from exc
