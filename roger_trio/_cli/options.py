"""The arguments and options that commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

App: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="APP",
        help="The configuration: module:attribute of a Config (or of a function that returns one),"
        " or the path of a .toml file. ROGER_BROKER overrides its broker.",
        show_default=False,
    ),
]
Partition: TypeAlias = Annotated[
    str, typer.Argument(metavar="PARTITION", help="Whose jobs.", show_default=False)
]
Queue: TypeAlias = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
Imports: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        "-i",
        metavar="MODULE",
        help="Import this module too, for the jobs in it. May be repeated.",
        show_default=False,
    ),
]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long the broker may take. Default: the configuration's enqueue_timeout.",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Limit: TypeAlias = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, help="The most jobs to show.")
]
ShowArgs: TypeAlias = Annotated[
    bool, typer.Option("--args", help="Show the arguments too; they may hold private data.")
]
