"""Callbacks around jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from roger_trio._jobs.callbacks import CALLBACK_NAMES, Callbacks, overridden
from roger_trio._jobs.envelope import Envelope

ENVELOPE = Envelope(
    id="1", name="a:b", args={}, partition="p", queue="q", queued_at=datetime.now(UTC)
)


class Counting(Callbacks):
    async def before_run(self, partition: str, job: Envelope) -> int:
        return 1

    async def on_cancel(self, partition: str, job: Envelope) -> None: ...


async def test_the_defaults_do_nothing() -> None:
    """Every callback can be awaited as it is."""
    callbacks = Callbacks()
    error = ValueError()

    assert await callbacks.before_run("p", ENVELOPE) is None
    await callbacks.after_run("p", ENVELOPE, 1, None)
    await callbacks.on_error("p", ENVELOPE, error, None)
    await callbacks.on_cancel("p", ENVELOPE)
    await callbacks.on_buried("p", ENVELOPE, error, None)


def test_overridden_names_what_does_something() -> None:
    """Only methods of the program's own are named, inherited ones too."""

    class More(Counting):
        async def on_buried(self, *args: Any) -> None: ...

    assert overridden(Callbacks()) == frozenset()
    assert overridden(Counting()) == {"before_run", "on_cancel"}
    assert overridden(More()) == {"before_run", "on_cancel", "on_buried"}


def test_overridden_sees_methods_of_the_object() -> None:
    """A callback hung on the object counts."""
    callbacks = Callbacks()
    callbacks.on_error = Counting().on_cancel  # type: ignore[method-assign, assignment]

    assert overridden(callbacks) == {"on_error"}


def test_all_callbacks_are_known() -> None:
    """No public method of Callbacks is forgotten."""
    assert {name for name in vars(Callbacks) if not name.startswith("_")} == set(CALLBACK_NAMES)
