"""``roger cancel``, ``roger pause`` and ``roger resume``: act on all nodes at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import trio
import typer

from .._client import Client
from .._errors import RogerError
from .._info import CancelResult
from .errors import Refused
from .examples import with_examples
from .options import App, Imports, Json, Partition, Timeout
from .output import print_json, printable, remark, say
from .session import load_client_config, run_with_client

_AT_ONCE: Final = 50
"""Jobs that are being cancelled at the same time: one that cleans up takes seconds."""

IN_WORDS: Final = {
    CancelResult.STOPPED: "was running and has been stopped",
    CancelResult.STOPPING: "was running and is still cleaning up; however it ends, it counts as "
    "cancelled",
    CancelResult.UNSTOPPABLE: "runs in a thread, which cannot be stopped: it goes on to its end, "
    "and then counts as cancelled",
    CancelResult.RECORDED: "does not run, and will not be started",
    CancelResult.FINISHED: "had ended before; nothing was changed",
}
"""What happened to a job, by the answer."""


@with_examples(
    "roger cancel app:config myapp 5f0c2d6a",
    "roger running app:config myapp --json | jq -r '.jobs[].id'"
    " | xargs roger cancel app:config myapp",
)
def cancel(
    app: App,
    partition: Partition,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The jobs to cancel.")],
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Cancel jobs, wherever they are.

    A running one is stopped, on whichever node it runs; one that is queued, delayed or waiting
    will not be started. The line about each says what was found.
    """
    config = load_client_config(app, imports, timeout)
    chosen = list(dict.fromkeys(ids))
    found = run_with_client(config, lambda client: _cancel_all(client, partition, chosen))
    results = {id: each for id, each in found.items() if isinstance(each, CancelResult)}
    if json:
        documents = [{"id": id, "result": result.value} for id, result in results.items()]
        print_json({"partition": partition, "jobs": documents})
    else:
        for id, result in results.items():
            say(f"job {id} {IN_WORDS[result]}")
    _refuse([str(each) for each in found.values() if isinstance(each, RogerError)])


async def _cancel_all(
    client: Client, partition: str, ids: Sequence[str]
) -> dict[str, CancelResult | RogerError]:
    """Cancel jobs side by side; return, in their order, what became of each."""
    found: dict[str, CancelResult | RogerError] = {}
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def cancel_one(id: str) -> None:
        async with limiter:
            try:
                found[id] = await client.cancel(id, partition)
            except RogerError as exc:
                found[id] = exc

    async with trio.open_nursery() as nursery:
        for id in ids:
            nursery.start_soon(cancel_one, id)
    return {id: found[id] for id in ids}


def _refuse(errors: Sequence[str]) -> None:
    """End with status 1 if there was an error; each is told once."""
    if errors:
        *others, last = dict.fromkeys(errors)
        raise Refused(last, "\n".join(f"roger: {printable(each)}" for each in others))


@with_examples("roger pause app:config myapp images")
def pause(
    app: App,
    partition: Partition,
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.", show_default=False)],
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Start no more jobs of a queue, on any node.

    When the command has returned 0, none starts, until the queue is resumed; not after a restart
    of nodes either. Running jobs go on, and jobs can be enqueued. If a node did not answer, the
    pause is kept all the same, the node is named, and the exit status is 1.
    """
    config = load_client_config(app, imports, timeout)
    silent = run_with_client(config, lambda client: client.pause(partition, queue))
    _tell(partition, queue, silent, json, is_paused=True)
    if silent:
        names = ", ".join(map(repr, sorted(silent)))
        raise Refused(
            f"{partition}/{queue} is paused, but not confirmed by {names}, which did not answer: "
            "jobs may start there until it does"
        )


@with_examples("roger resume app:config myapp images")
def resume(
    app: App,
    partition: Partition,
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.", show_default=False)],
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Start jobs of a paused queue again, on all nodes.

    A node that does not answer is named; it resumes once it does.
    """
    config = load_client_config(app, imports, timeout)
    silent = run_with_client(config, lambda client: client.resume(partition, queue))
    _tell(partition, queue, silent, json, is_paused=False)
    for name in sorted(silent):
        remark(f"node {name!r} did not answer: it resumes the queue once it does")


def _tell(
    partition: str, queue: str, silent: Iterable[str], json: bool, *, is_paused: bool
) -> None:
    if json:
        place = {"partition": partition, "queue": queue}
        print_json({**place, "paused": is_paused, "not_answering": sorted(silent)})
    elif is_paused:
        say(f"{partition}/{queue} is paused: no job of it is started")
    else:
        say(f"{partition}/{queue} is resumed")
