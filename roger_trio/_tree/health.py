"""Deciding whether a node is well: a pure function of what it knows of itself."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from .._info import Health


@attrs.frozen(kw_only=True)
class QueueState:
    """A queue that a node shall consume."""

    partition: str
    queue: str
    is_consuming: bool
    is_paused: bool
    failure: str = ""
    """Why the broker refuses it."""


def judge(
    node: str,
    *,
    is_running: bool,
    is_stopping: bool,
    trouble: str,
    queues: Iterable[QueueState],
) -> Health:
    """Decide whether a node is alive and ready.

    A broker that is away, or refuses, makes a node unready and never dead: it comes back by
    itself, and a restart would only cost what runs.

    Args:
        node: Its name.
        is_running: Whether it runs, from its start until it has stopped.
        is_stopping: Whether it has been asked to stop.
        trouble: What keeps messages from being confirmed; '' if nothing does.
        queues: The queues that it shall consume.
    """
    reasons: list[str] = []
    if not is_running:
        reasons.append("it does not run")
    elif is_stopping:
        reasons.append("it is stopping")
    if trouble:
        reasons.append(trouble)
    else:  # That says why nothing is consumed, too.
        reasons += [_complaint(each) for each in queues if not _is_well(each)]
    return Health(node=node, live=is_running, ready=not reasons, reasons=tuple(reasons))


def _is_well(state: QueueState) -> bool:
    return state.is_consuming or state.is_paused


def _complaint(state: QueueState) -> str:
    why = state.failure or "it is being opened"
    return f"queue {state.queue!r} of partition {state.partition!r} is not consumed: {why}"
