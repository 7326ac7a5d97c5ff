"""How a command ends that could not do what it was asked for."""

from __future__ import annotations

from typing import NoReturn

import typer

from .._errors import RogerError


class Refused(RogerError):
    """The command was understood and not carried out: exit status 1, one line on stderr.

    Args:
        message: Why.
        details: Lines to show before it.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def misused(message: str, argument: str | None = None) -> NoReturn:
    """End with exit status 2, the usage and a message on stderr.

    Args:
        message: What is wrong with what was typed.
        argument: The argument or option it is about, as the usage line has it.
    """
    raise typer.BadParameter(message, param_hint=argument)
