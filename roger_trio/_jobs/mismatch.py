"""How the codec says what does not fit, and where."""

from __future__ import annotations

from collections.abc import Iterable
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
    try:
        text = _write(value, LONGEST_REPR)
    except Exception:  # noqa: BLE001  # user code: a broken repr must not hide the complaint
        text = f"<{type(value).__name__} without a repr>"
    return text if len(text) <= LONGEST_REPR else text[:LONGEST_REPR] + "…"


def _write(value: Any, room: int) -> str:
    """Return the repr of a value, or more than ``room`` characters of its beginning.

    Whoever sends megabytes of what is not a job gets one line for it, and no time.
    """
    if isinstance(value, (str, bytes)):
        return repr(value[: room + 1])
    if type(value) is list:
        parts: Iterable[tuple[Any, Any]] = ((None, each) for each in value)
        text, end = "[", "]"
    elif type(value) is dict:
        parts = value.items()
        text, end = "{", "}"
    else:
        return repr(value)
    comma = ""
    for key, each in parts:
        text += comma
        if end == "}":
            text += _write(key, room - len(text)) + ": "
        if len(text) > room:
            return text
        text += _write(each, room - len(text))
        comma = ", "
    return text + end
