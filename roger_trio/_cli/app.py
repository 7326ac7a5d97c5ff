"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from .._errors import RogerError
from .._info import VERSION
from . import cluster, control, demo, doctor, enqueue, health, keys, looking, purge, replay, serve
from .errors import Refused
from .examples import with_examples
from .output import has_colours, printable, say

GROUPS: Final[Mapping[str, tuple[Callable[..., None], ...]]] = {
    "Run and enqueue": (serve.serve, demo.demo, enqueue.enqueue),
    "Look": (
        cluster.status,
        cluster.running,
        looking.queued,
        looking.buried,
        cluster.nodes,
        keys.keys,
        doctor.doctor,
        health.health,
    ),
    "Act": (control.cancel, control.pause, control.resume, replay.replay, purge.purge),
}
"""Drawn help shows them in these groups; each command is called like its function."""
COMMANDS: Final = tuple(command for group in GROUPS.values() for command in group)
"""In the order of the help."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 refused, 2 wrong usage, 130 interrupted.

    Args:
        args: The words after ``roger``; default: those of the process.
    """
    try:
        make_app()(args=args, prog_name="roger")
    except RogerError as exc:
        if isinstance(exc, Refused) and exc.details:
            print(exc.details, file=sys.stderr)
        print(f"roger: {printable(str(exc))}", file=sys.stderr)
        sys.exit(1)


def make_app() -> typer.Typer:
    """Put the commands together; help and complaints are drawn only on a terminal."""
    drawn = has_colours(sys.stdout) and has_colours(sys.stderr)
    app = typer.Typer(
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,  # they would show values: a password may be among them
        rich_markup_mode="rich" if drawn else None,
    )
    app.callback(invoke_without_command=True)(_roger)
    for title, commands in GROUPS.items():
        for command in commands:
            app.command(rich_help_panel=title)(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"roger_trio {VERSION}")
        raise typer.Exit


@with_examples(
    "roger serve app:config",
    'roger enqueue app:config myapp send_mail \'{"to": "ada@example.com"}\'',
    "roger status app:config",
)
def _roger(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Background jobs for Trio: run a node, enqueue jobs, look after them and their queues.

    Exit status: 0 done, 1 refused (one line on stderr says why), 2 wrong usage.
    """
    if context.invoked_subcommand is None:
        text: Any = context.get_help()  # typer prints drawn help itself and returns nothing
        if text:
            print(text)
