"""``roger replay``: put buried jobs back into their queue."""

from __future__ import annotations

from typing import Annotated

import typer

from .errors import Refused, misused
from .examples import with_examples
from .options import App, Imports, Json, Partition, Queue, Timeout
from .output import counted, print_json, say
from .session import load_client_config, run_with_client


@with_examples(
    "roger replay app:config myapp default 4f0c2a… 91be77…",
    "roger replay app:config myapp images --all",
)
def replay(  # noqa: PLR0913 -- each is an argument or option of the command
    app: App,
    partition: Partition,
    queue: Queue = "default",
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The jobs to replay.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Replay all that are buried there.")] = False,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Put buried jobs back into their queue.

    They have all their attempts before them again. Name the jobs by their ids, or say --all. With
    ids, the queue has to be named too. A job whose queue key another one holds stays buried.
    """
    if every and ids:
        misused("expected ids or --all, got both", "--all")
    if not every and not ids:
        misused(f"expected the ids of buried jobs of queue {queue!r}, or --all", "ID")
    chosen = None if every else frozenset(ids or ())
    config = load_client_config(app, imports, timeout)
    replayed = run_with_client(
        config, lambda client: client.replay_buried(partition, queue, chosen)
    )
    where = f"{partition}/{queue}"
    if json:
        print_json({"partition": partition, "queue": queue, "replayed": replayed})
    else:
        say(f"{counted(replayed, 'buried job')} of {where} put back into the queue")
    missing = 0 if chosen is None else len(chosen) - replayed
    if missing > 0:
        verb = "belongs" if missing == 1 else "belong"
        raise Refused(
            f"{missing} of the given ids {verb} to no job that is buried in {where}, "
            "or to one whose queue key another job holds"
        )
