"""The report says what was measured, and what was missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .campaign import Record
from .report import publish, render, report
from .system import Settings
from .test_account import Told
from .verdict import Left


def _results(told: Told, **left: Any) -> dict[str, Any]:
    """Report of a run with these journals."""
    settings = Settings(3, 60, "rabbitmq", Path("unused"))
    figures, _ = report(
        Record(settings, [], told.events, Left(**left), 1.0, "RabbitMQ 3.10.8", busy=0.5)
    )
    environment = {
        "date": "2026-01-01", "python": "CPython 3.11", "system": "Linux", "cpu": "fast",
        "cores": 2, "memory_mib": 1024,
    }  # fmt: skip
    return {"command": "nox -s chaos", "environment": environment, "runs": [figures]}


def _told() -> Told:
    told = Told()
    told.enqueue("a")
    told.fault("broker killed", "broker", 1.5, 1.9)
    told.run("a")
    told.note(1.9, "suite", "consumed again", number=0, seconds=1.25, calm=True)
    return told


def test_all_met() -> None:
    """A run without violations meets its targets; that the machine was busy is said."""
    text = render(_results(_told()))
    assert "| jobs lost: 0 | 0 | met |" in text
    assert "1.2 s median, 1.2 s at most, of 1 | met |" in text
    assert "missed" not in text
    assert "| broker killed | 1 |" in text
    assert "50%: **the machine was busy with other work**" in text


def test_missed() -> None:
    """What was violated is missed, and late is late."""
    told = _told()
    told.enqueue("b")
    told.note(3.0, "suite", "consumed again", number=1, seconds=5.1, calm=True)
    text = render(_results(told, keys=[("alpha", "k", "b")]))
    for target in ("jobs lost: 0", "keys leaked: 0"):
        assert f"| {target} | 1 | **missed** |" in text
    assert "5.1 s at most, of 2 | **missed** |" in text


def test_published_between_the_marks(tmp_path: Path) -> None:
    """Figures go between the marks of a page, again and again; a page without any is refused."""
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n\nafter\n")
    publish(_results(_told()), page)
    once = page.read_text()
    publish(_results(_told()), page)
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    page.write_text("no marks")
    with pytest.raises(ValueError, match="figures: begin"):
        publish(_results(_told()), page)
