"""A finding: what is so, how bad that is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import attrs


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """It works, and may hurt some day."""
    ERROR = "error"
    """Jobs cannot be enqueued or run, or are in danger."""


@attrs.frozen
class Finding:
    """Something that was looked at."""

    id: str
    """What it is about; stable, for other programs. Several findings may share one."""
    level: Level
    found: str
    """What is so."""
    advice: str = ""
    """What to do; '' if nothing."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
        }


@attrs.frozen
class ByHand:
    """Something that cannot be looked at from here, and how an operator does."""

    id: str
    """As a finding's."""
    why: str
    """What to look for."""
    command: str
    """What shows it."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return attrs.asdict(self)


@attrs.frozen
class Report:
    """All that a doctor says."""

    findings: tuple[Finding, ...]
    by_hand: tuple[ByHand, ...] = ()

    @property
    def worst(self) -> Level:
        """The level of the worst finding."""
        levels = {each.level for each in self.findings}
        return next(level for level in reversed(Level) if level in levels or level is Level.OK)

    def as_json(self) -> Mapping[str, Any]:
        """Return it as JSON values."""
        return {
            "level": self.worst.value,
            "findings": [each.as_json() for each in self.findings],
            "by_hand": [each.as_json() for each in self.by_hand],
        }


def ok(id: str, found: str) -> Finding:
    """Find that something is as it should be."""
    return Finding(id, Level.OK, found)


def warning(id: str, found: str, advice: str) -> Finding:
    """Find something that works and may hurt some day."""
    return Finding(id, Level.WARNING, found, advice)


def error(id: str, found: str, advice: str) -> Finding:
    """Find something that keeps jobs from being enqueued or run, or endangers them."""
    return Finding(id, Level.ERROR, found, advice)


def listed(names: Iterable[str], most: int = 5) -> str:
    """Write names in a row, and how many more there are."""
    every = [repr(name) for name in names]
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, what: str) -> str:
    """Write a number of things: ``1 queue``, ``2 queues``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Write a number of bytes: ``16 MiB``."""
    units = ["TiB", "GiB", "MiB", "KiB", "bytes"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop()
    # Three digits, and four where it takes them to write no exponent.
    return f"{count:.3g} {units[-1]}" if count < 999.5 else f"{count:.0f} {units[-1]}"
