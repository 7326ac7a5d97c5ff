"""Whatever operations a coordinator is sent: what it remembers holds together."""

from __future__ import annotations

import typing
from typing import Any

import attrs
from hypothesis import given, strategies as st

from roger_trio._state import operations
from roger_trio._state.changes import dump, load
from roger_trio._state.ledger import Ledger

# Few of each, so that they meet: the same nonce for two keys, a job that is two nodes' at once.
TEXTS = st.sampled_from(["", "a", "b"])
TIMES = st.sampled_from([0.0, 5.0, 100.0, -1e308, 1e308])
KINDS: tuple[type[Any], ...] = typing.get_args(operations.Operation)


def _field(field: Any) -> st.SearchStrategy[Any]:
    kind = str(field.type)
    if "str" in kind:
        return TEXTS | st.none() if "None" in kind else TEXTS
    return TIMES if "float" in kind else st.sampled_from([0, 1])


OPERATIONS = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(kind, *(_field(each) for each in attrs.fields(kind)))
)
STEPS = st.lists(
    OPERATIONS | st.tuples(TEXTS, TEXTS, TEXTS) | st.just("expire") | st.just("sweep"),
    max_size=30,
)


@given(STEPS)
def test_any_operations(steps: list[Any]) -> None:
    """None fails, the changes rebuild what there is, and a snapshot can be read.

    An attempt that bears the nonce of a claim ends that, but only once the snapshot is read: who
    sends such a thing could have ended it anyway.
    """
    ledger, again, now = Ledger(), Ledger(), 0.0
    for step in steps:
        now += 1.0
        if step == "expire":
            decision = ledger.expire(now + 10_000, 10_000)
        elif step == "sweep":
            assert all(isinstance(jobs, frozenset) for jobs in ledger.unconfirmed(now, 0).values())
            continue
        elif isinstance(step, tuple):
            job, queue, key = step
            decision = ledger.arrive(job, queue, key, now)
        else:
            decision = ledger.handle(step, now)
        for change in decision.changes:
            again.apply(load(dump(change)))
        ledger.unconfirmed(now, 0.0)
    assert again == ledger
    rebuilt = Ledger()
    for change in ledger.snapshot():
        rebuilt.apply(load(dump(change)))
    assert rebuilt.members == ledger.members
