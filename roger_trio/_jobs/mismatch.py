"""How the codec says what does not fit, and where."""

from __future__ import annotations

from typing import Any, Final

LONGEST_REPR: Final = 100


class _Located(Exception):
    """A complaint about one place inside a value or an annotation.

    It is raised where the trouble is; every level it passes on the way out calls `under`.
    """

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self._steps: list[str] = []

    def under(self, step: str) -> None:
        """Say that the place lies under ``step``: ``.field`` or ``[index]``."""
        self._steps.append(step)

    def __str__(self) -> str:
        path = "".join(reversed(self._steps)).removeprefix(".")
        return f"{path}: {self.complaint}" if path else self.complaint


class Mismatch(_Located):
    """A value does not fit its annotation."""


class Unsupported(_Located):
    """An annotation has no JSON form."""


def expected(rule: str, value: Any) -> Mismatch:
    """Build the complaint that ``value`` is not what ``rule`` asks for."""
    return Mismatch(f"expected {rule}, got {short_repr(value)}")


def short_repr(value: Any) -> str:
    """Return ``repr(value)``, cut where it gets long. Never raises."""
    if isinstance(value, (str, bytes)):
        value = value[: LONGEST_REPR + 1]  # no need to quote megabytes to show a line
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # user code: a broken repr must not hide the complaint
        text = f"<{type(value).__name__} without a repr>"
    return text if len(text) <= LONGEST_REPR else text[:LONGEST_REPR] + "…"
