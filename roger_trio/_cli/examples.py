"""Examples in the help of a command."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., None])

_AS_IT_IS = "\b"
"""Before a paragraph: its lines are not joined (click's and typer's own mark)."""


def with_examples(*lines: str) -> Callable[[F], F]:
    """Put lines, as they are, under the help of a command, which is its docstring."""

    def add(command: F) -> F:
        paragraph = "\n".join((_AS_IT_IS, "Examples:", *(f"  {line}" for line in lines)))
        # Cleaned, as Python 3.13 has done already.
        command.__doc__ = f"{cleandoc(command.__doc__ or '')}\n\n{paragraph}\n"
        return command

    return add
