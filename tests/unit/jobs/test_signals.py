"""What a job raises to say how it ends."""

from __future__ import annotations

import math
from typing import Any

import pytest

from roger_trio._errors import RogerError
from roger_trio._jobs.signals import Bury, Discard, Retry, Snooze


def test_signals_carry_what_they_were_given() -> None:
    """Seconds become floats, reasons stay texts."""
    assert Retry().after is None
    assert Retry(5).after == 5.0
    assert Snooze(0).seconds == 0.0
    assert Bury("broken").reason == "broken"
    assert Discard().reason == ""


def test_signals_print_what_they_mean() -> None:
    """A log line about a signal can be read."""
    texts = [str(signal) for signal in (Retry(), Retry(1.5), Snooze(3), Bury("x"), Discard("y"))]

    assert texts == ["retry", "retry after 1.5 s", "snooze 3 s", "x", "y"]


@pytest.mark.parametrize("seconds", [-1, -0.1, math.inf, math.nan, 10**400])
@pytest.mark.parametrize(("signal", "key"), [(Retry, "Retry.after"), (Snooze, "Snooze.seconds")])
def test_impossible_seconds_are_refused(signal: Any, key: str, seconds: float) -> None:
    """The error names rule and value."""
    with pytest.raises(ValueError, match=f"^{key}: expected a finite number of seconds, at least"):
        signal(seconds)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry("5"),  # type: ignore[arg-type]
        lambda: Snooze(True),
        lambda: Snooze(None),  # type: ignore[arg-type]
        lambda: Bury(5),  # type: ignore[arg-type]
        lambda: Discard(None),  # type: ignore[arg-type]
    ],
)
def test_other_types_are_refused(make: Any) -> None:
    """Seconds are numbers and reasons are texts."""
    with pytest.raises(TypeError, match=r"expected .*, got "):
        make()


@pytest.mark.parametrize("signal", [Retry, Snooze, Bury, Discard])
def test_signals_are_no_errors_of_roger(signal: type[Exception]) -> None:
    """``except RogerError`` inside a job does not swallow them."""
    assert not issubclass(signal, RogerError)
