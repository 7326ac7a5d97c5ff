"""``roger keys``: who holds which key; free one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .._client import Client
from .._info import KeyInfo
from .examples import with_examples
from .options import App, Imports, Json, Partition, Timeout
from .output import age, print_json, print_table, remark, say
from .session import load_client_config, run_with_client


@with_examples(
    "roger keys app:config myapp",
    "roger keys app:config myapp --release invoice:4711",
)
def keys(
    app: App,
    partition: Partition,
    *,
    release: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Free this key, whoever holds it. The job that held it goes on, so that another "
            "one with the key may run beside it.",
            show_default=False,
        ),
    ] = None,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Show the keys that jobs hold, or free one.

    Queue keys are held from the moment a job is enqueued until it is over, execution keys while
    it runs. Keys leave with their job, so freeing one by hand is for what nobody thought of.
    """
    config = load_client_config(app, imports, timeout)

    async def act(client: Client) -> list[KeyInfo]:
        if release is None:
            return await client.keys(partition)
        return await client.release_key(partition, release)

    found = sorted(run_with_client(config, act), key=lambda each: (each.key, each.kind))
    if json:
        documents = [_as_json(each) for each in found]
        print_json({"partition": partition, "keys" if release is None else "released": documents})
    elif release is None:
        _show(partition, found)
    else:
        for each in found:
            say(f"{each.kind} key {each.key!r} is free; job {each.job_id} held it")


def _show(partition: str, found: Sequence[KeyInfo]) -> None:
    if not found:
        remark(f"no job of {partition} holds a key")
        return
    columns = ("KEY", "KIND", "JOB", "QUEUE", "SINCE", "NODE", "WAITING")
    print_table(columns, [_cells(each) for each in found])


def _cells(found: KeyInfo) -> tuple[str, ...]:
    waiting = str(found.waiting) if found.kind == "execution" else "-"
    since, node = age(found.since), found.node or "-"
    return found.key, found.kind, found.job_id, found.queue, since, node, waiting


def _as_json(found: KeyInfo) -> dict[str, Any]:
    return {
        "key": found.key,
        "kind": found.kind,
        "job_id": found.job_id,
        "queue": found.queue,
        "since": found.since.isoformat(),
        "node": found.node,
        "waiting": found.waiting,
    }
