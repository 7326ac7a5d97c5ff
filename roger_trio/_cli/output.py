"""What commands print: results to stdout, flushed at once, remarks to stderr.

On a terminal, tables are drawn and coloured by rich; anywhere else they are plain aligned lines,
never cut, for other programs to read. Text that came from the broker or from jobs cannot control
the terminal: what is not printable is shown escaped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TextIO

import orjson


def printable(text: str, *, keep: str = "") -> str:
    """Escape what a terminal would act on, line breaks included.

    Args:
        text: Any text.
        keep: Control characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )


def has_colours(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that wants colours; https://no-color.org is heeded."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Print a line of result."""
    print(printable(text), flush=True)


def remark(text: str) -> None:
    """Print a line that is not part of the result."""
    print(printable(text), file=sys.stderr)


def print_json(document: object) -> None:
    """Print one JSON document: on one line, or indented where a person reads it."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    print(orjson.dumps(document, option=option).decode(), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table.

    Args:
        columns: The headings. The first column is never broken over lines, so it can be copied.
        rows: The cells, as many in each row as there are columns.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_drawn(columns, cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip(), flush=True)


def _print_drawn(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def age(moment: datetime, now: datetime | None = None) -> str:
    """Say how long ago something was: ``5 min ago``; what lies ahead (clocks differ) is now."""
    seconds = int(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def counted(count: int, what: str) -> str:
    """Say a number of things: ``1 job``, ``2 jobs``."""
    return f"{count} {what}{'' if count == 1 else 's'}"
