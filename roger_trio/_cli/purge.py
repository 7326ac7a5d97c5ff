"""``roger purge``: delete the jobs of a queue."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .._client import Client
from .errors import Refused
from .examples import with_examples
from .options import App, Imports, Json, Partition, Queue, Timeout
from .output import counted, print_json, say
from .session import load_client_config, run_with_client


@with_examples(
    "roger purge app:config myapp images",
    "roger purge app:config myapp --buried --yes",
)
def purge(  # noqa: PLR0913 -- each is an argument or option of the command
    app: App,
    partition: Partition,
    queue: Queue = "default",
    *,
    buried: Annotated[
        bool, typer.Option("--buried", help="Delete the buried jobs instead of the waiting ones.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Delete all jobs of a queue.

    Those that wait in it, or its buried ones; they are gone for good, and their keys are free.
    Running jobs go on, and jobs that wait for their delay or retry stay. It asks first; where
    nobody can answer, it needs --yes.
    """
    config = load_client_config(app, imports, timeout)
    kind = "buried" if buried else "waiting"
    if not yes:
        _ask(f"Delete all {kind} jobs of {partition}/{queue} on {config.broker_config().display}?")

    async def act(client: Client) -> int:
        delete = client.purge_buried if buried else client.purge
        return await delete(partition, queue)

    purged = run_with_client(config, act)
    if json:
        print_json({"partition": partition, "queue": queue, "buried": buried, "purged": purged})
    else:
        say(f"{counted(purged, f'{kind} job')} of {partition}/{queue} deleted")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise Refused("nothing was deleted: stdin is not a terminal to ask on, so it takes --yes")
    if not typer.confirm(question, err=True):
        raise Refused("nothing was deleted")
