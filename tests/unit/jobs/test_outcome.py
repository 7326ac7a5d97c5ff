"""What follows from an outcome, and whether a delivery that came back may start."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from roger_trio._jobs import outcome as o

ERROR = ValueError("x")
LEVELS = (1.0, 3.0)


@pytest.mark.parametrize(
    ("outcome", "retryable", "retry_count", "settlement"),
    [
        (o.Succeeded(1), True, 0, o.Finish()),
        (o.Discarded(""), True, 0, o.Finish()),
        (o.Failed(ERROR), False, 0, o.Finish()),
        (o.Failed(ERROR), True, 0, o.RunAgain(1.0, 1)),
        (o.Failed(ERROR), True, 1, o.RunAgain(3.0, 2)),
        (o.Failed(ERROR), True, 2, o.PutAway(ERROR)),
        (o.NotRunnable(ERROR), False, 0, o.RunAgain(1.0, 1)),
        (o.NotRunnable(ERROR), False, 2, o.PutAway(ERROR)),
        (o.RetryRequested(ERROR, None), False, 1, o.RunAgain(3.0, 2)),
        (o.RetryRequested(ERROR, 0.0), False, 1, o.RunAgain(0.0, 2)),
        (o.RetryRequested(ERROR, 9.0), False, 2, o.PutAway(ERROR)),
        (o.Snoozed(5.0), False, 2, o.RunAgain(5.0, 2)),
        (o.BuryRequested(ERROR), True, 0, o.PutAway(ERROR)),
        (o.Interrupted(), True, 0, o.GiveBack()),
        (o.DeliveryLost(), True, 0, o.LeaveAlone()),
    ],
)
def test_each_outcome_has_one_settlement(
    outcome: o.Outcome, retryable: bool, retry_count: int, settlement: o.Settlement
) -> None:
    """The table of decisions."""
    found = o.decide(outcome, retryable=retryable, retry_count=retry_count, levels=LEVELS)
    assert found == settlement


@given(
    levels=st.lists(st.floats(0, 1000), max_size=6),
    ways=st.lists(st.sampled_from(["failed", "retry", "not runnable"]), min_size=7, max_size=7),
)
def test_failures_of_any_kind_end_buried_after_as_many_retries_as_levels(
    levels: list[float], ways: list[str]
) -> None:
    """Promise 8: whatever mixture of failures, the job is buried after exactly `len(levels)`."""
    kinds: dict[str, o.Outcome] = {
        "failed": o.Failed(ERROR),
        "retry": o.RetryRequested(ERROR, 0.5),
        "not runnable": o.NotRunnable(ERROR),
    }
    retries = 0
    for way in ways:
        found = o.decide(kinds[way], retryable=True, retry_count=retries, levels=levels)
        if isinstance(found, o.PutAway):
            break
        assert isinstance(found, o.RunAgain)
        retries = found.retry_count
    assert retries == len(levels)


@given(
    max_deliveries=st.integers(1, 8),
    lost=st.lists(st.booleans(), max_size=40),
)
def test_a_job_that_always_dies_is_started_so_often_and_survivors_are_not_counted(
    max_deliveries: int, lost: list[bool]
) -> None:
    """Promise 9: exactly max(2, max_deliveries) deaths, however many connections went between."""
    in_queue = survived = False
    deaths = 0
    ways = iter(lost)
    starts = died = 1  # What was never handed out before is not asked about.
    while True:
        found = o.admit(
            in_redelivered_queue=in_queue,
            deaths=deaths,
            survived=survived,
            max_deliveries=max_deliveries,
        )
        if isinstance(found, o.PutAway):
            break
        if isinstance(found, o.Requeue):
            deaths, in_queue = found.deaths, True
        starts += 1
        survived = next(ways, False)
        died += not survived
    assert died == max(2, max_deliveries)
    assert starts >= died
