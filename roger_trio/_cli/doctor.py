"""``roger doctor``: look at all that a configuration depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import typer

from .._doctor import ByHand, Finding, Level, Report, examine
from .examples import with_examples
from .options import App, Imports, Json, Timeout
from .output import print_json, print_table, say
from .session import load_client_config, run


@with_examples(
    "roger doctor app:config",
    "roger doctor app:config --json",
)
def doctor(
    app: App,
    *,
    imports: Imports = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Look at the broker, its queues, the nodes and the state, and say what to do.

    Nothing is changed. What only the broker's operator can see is listed with the command that
    shows it. Exit status: 0 all is well, or there are warnings; 1 there are errors.
    """
    config = load_client_config(app, imports, timeout)
    report = run(partial(examine, config))
    if json:
        print_json(report.as_json())
    else:
        _print(report)
    if report.worst is Level.ERROR:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    print_table(("CHECK", "LEVEL", "FOUND"), _rows(report.findings))
    if report.by_hand:
        say("")
        say("What cannot be seen from here; on the broker's machine, look at it with:")
        say("")
        print_table(("CHECK", "LOOK FOR"), _rows_by_hand(report.by_hand))


def _rows(findings: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    """Give each finding a row, and what to do about it the next one."""
    for each in findings:
        yield each.id, each.level.value, each.found
        if each.advice:
            yield "", "", f"-> {each.advice}"


def _rows_by_hand(checks: Iterable[ByHand]) -> Iterator[tuple[str, str]]:
    for each in checks:
        yield each.id, each.why
        yield "", f"$ {each.command}"
