"""How long a link waits before it tries again."""

from __future__ import annotations

from hypothesis import given, strategies as st

from roger_trio._brokers.rabbitmq.link import backoff


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_backoff_is_bounded(failures: int, chance: float) -> None:
    """A link never waits more than 2 s, nor so little that it hammers the broker."""
    assert 0.05 <= backoff(failures, chance) <= 2.0


@given(st.integers(1, 100), st.floats(0, 1))
def test_backoff_grows(failures: int, chance: float) -> None:
    """Each failure in a row waits at least as long as the one before."""
    assert backoff(failures, chance) <= backoff(failures + 1, chance)


@given(st.integers(1, 100), st.floats(0, 1))
def test_backoff_is_spread(failures: int, chance: float) -> None:
    """Chance takes away up to half, so that many nodes do not come back in step."""
    longest = backoff(failures, 1.0)
    assert longest / 2 <= backoff(failures, chance) <= longest
