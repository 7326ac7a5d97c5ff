"""``roger health``: ask the nodes on this machine how they are, for probes of containers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .._tree.doorbell import RUN_DIRECTORY, Found, ask_all, run_directory
from .errors import Refused
from .examples import with_examples
from .loading import load_config
from .logs import set_up_quiet_logs
from .options import Imports, Json
from .output import print_json, print_table, remark
from .session import run


@with_examples(
    "roger health",
    "roger health --live",
    "roger health app:config --json",
)
def health(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[APP]",
            help="The configuration, as for roger serve: only nodes of its cluster. Without it, "
            "all nodes, and nothing has to be imported.",
            show_default=False,
        ),
    ] = None,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Only ask whether nodes are alive, ready or not.")
    ] = False,
    node: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this node.", show_default=False)
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="How long nodes may take to answer.")
    ] = 3.0,
    imports: Imports = None,
    json: Json = False,
) -> None:
    """Ask the nodes that this user runs on this machine whether they are alive and ready.

    Alive: the node answers. Ready: it consumes its queues, and the broker takes messages; while
    the broker is away, a node is alive and not ready. The broker is not asked.

    Exit status: 0 all are ready (with --live: alive), 1 one is not, or there is none.
    """
    set_up_quiet_logs()
    config = None if app is None else load_config(app, imports or ())
    try:
        found = run(lambda: ask_all(config, timeout=timeout))
    except OSError as exc:
        raise Refused(f"{run_directory()}: {exc.strerror or exc}; see {RUN_DIRECTORY}") from exc
    told = list(map(_as_json, found))
    nodes = [each for each in told if node in (None, each["node"])]
    # What does not answer does not tell its name: it may be the one that was asked for.
    nodes = nodes or [each for each in told if each["node"] is None]
    is_live = bool(nodes) and all(each["live"] for each in nodes)
    is_ready = bool(nodes) and all(each["ready"] for each in nodes)
    if json:
        print_json({"live": is_live, "ready": is_ready, "nodes": nodes})
    elif nodes:
        print_table(("NODE", "PID", "LIVE", "READY", "WHY NOT"), map(_cells, nodes))
        if node is not None and nodes[0]["node"] is None:
            remark(f"no node that answers is {node!r}; one that does not may be it")
    else:
        where = run_directory()
        if node is None:
            remark(f"no node runs here, as this user: there is no socket in {where}")
        else:
            remark(f"node {node!r} does not run here, as this user: no socket in {where} is its")
    if not (is_live if live else is_ready):
        raise typer.Exit(1)


def _as_json(found: Found) -> dict[str, Any]:
    told = found.health
    if told is None:
        why = ["it does not answer: it is frozen, or busy with something that blocks it"]
        return {"node": None, "pid": found.pid, "live": False, "ready": False, "reasons": why}
    return {
        "node": told.node,
        "pid": found.pid,
        "live": told.live,
        "ready": told.ready,
        "reasons": list(told.reasons),
    }


def _cells(node: dict[str, Any]) -> tuple[str, ...]:
    yes_or_no = ["yes" if node[name] else "no" for name in ("live", "ready")]
    return (node["node"] or "-", str(node["pid"]), *yes_or_no, "; ".join(node["reasons"]))
