"""What a job raises inside ``perform`` to say how it wants to end.

These derive from `Exception`, not from `RogerError`: they are instructions, and an
``except RogerError`` around a client call inside a job must not swallow them.
"""

from __future__ import annotations

import math


class Retry(Exception):
    """Try this job again later; the attempt is spent.

    Works for jobs that are not ``retryable`` too. Once the retry levels are used up, the job is
    buried like after any other failure.

    Args:
        after: Seconds to wait, at least 0. Default: the delay of the job's next retry level.

    Raises:
        ValueError: ``after`` is negative, infinite or not a number.
        TypeError: ``after`` is not a number at all.

    Delivery: The job is published again, confirmed, and only then settled: a crash in between
    performs it twice, never not at all.
    """

    def __init__(self, after: float | None = None) -> None:
        self.after: float | None = None if after is None else _seconds("Retry.after", after)
        super().__init__("retry" if after is None else f"retry after {after:g} s")


class Snooze(Exception):
    """Let this job come back later without spending an attempt.

    Args:
        seconds: Seconds to wait, at least 0.

    Raises:
        ValueError: ``seconds`` is negative, infinite or not a number.
        TypeError: ``seconds`` is not a number at all.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds: float = _seconds("Snooze.seconds", seconds)
        super().__init__(f"snooze {seconds:g} s")


class Bury(Exception):
    """Bury this job now: it is kept with the reason, and can be looked at and replayed.

    Args:
        reason: Why, in words for a person.

    Raises:
        TypeError: ``reason`` is not text.
    """

    def __init__(self, reason: str) -> None:
        self.reason: str = _text("Bury.reason", reason)
        super().__init__(reason)


class Discard(Exception):
    """End this job here and forget it: not a failure, not retried, not kept.

    Args:
        reason: Why, in words for a person; it goes to the log. Default: none.

    Raises:
        TypeError: ``reason`` is not text.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason: str = _text("Discard.reason", reason)
        super().__init__(reason)


def _seconds(key: str, value: float) -> float:
    """Return ``value`` as float seconds, or say which rule it breaks."""
    rule = f"{key}: expected a finite number of seconds, at least 0, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(rule)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(rule) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(rule)
    return seconds


def _text(key: str, value: str) -> str:
    """Return ``value`` if it is text."""
    if not isinstance(value, str):
        raise TypeError(f"{key}: expected text, got {value!r}")
    return value
