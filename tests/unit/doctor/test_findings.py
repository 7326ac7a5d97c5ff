"""Reports, and how findings write what they found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roger_trio._doctor.findings import (
    ByHand,
    Finding,
    Level,
    Report,
    error,
    listed,
    ok,
    size,
    warning,
)


@pytest.mark.parametrize(
    ("findings", "level"),
    [
        ((), Level.OK),
        ((ok("a", "x"),), Level.OK),
        ((warning("a", "x", "y"), ok("b", "x")), Level.WARNING),
        ((error("a", "x", "y"), warning("b", "x", "y"), ok("c", "x")), Level.ERROR),
    ],
)
def test_a_report_is_as_bad_as_its_worst_finding(
    findings: tuple[Finding, ...], level: Level
) -> None:
    """The exit status goes by it."""
    assert Report(findings).worst is level


def test_a_report_as_json() -> None:
    """Other programs find the level of the whole, the findings, and what is to be looked at."""
    report = Report((warning("a.b", "x", "y"),), (ByHand("c", "why", "command"),))
    assert report.as_json() == {
        "level": "warning",
        "findings": [{"id": "a.b", "level": "warning", "found": "x", "advice": "y"}],
        "by_hand": [{"id": "c", "why": "why", "command": "command"}],
    }


def test_every_id_is_documented() -> None:
    """The table of the documentation has the ids that the code uses, and no others."""
    root = Path(__file__).parents[3]
    page = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## Checking: `roger doctor`\n")[2].partition("\n#")[0]
    named = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    code = "".join(
        path.read_text(encoding="utf-8") for path in (root / "roger_trio" / "_doctor").glob("*.py")
    )
    pattern = r"[`\"]((?:broker|config|file|nodes|state)\.[a-z_]+)[`\"]"
    documented, used = set(re.findall(pattern, named)), set(re.findall(pattern, code))
    assert documented == used - {"broker.policies", "broker.file_handles"}
    assert "`broker.policies`, `broker.file_handles`" in section


def test_names_in_a_row() -> None:
    """Beyond a few, only their number is told."""
    assert listed("ab") == "'a', 'b'"
    assert listed("abcdefg") == "'a', 'b', 'c', 'd', 'e' and 2 more"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (16 * 1024**2, "16 MiB"),
     (1.5 * 1024**3, "1.5 GiB"), (999 * 1024, "999 KiB"),
     (1000 * 1024, "1000 KiB"), (1023 * 1024, "1023 KiB"), (5 * 1024**5, "5120 TiB")],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    """Numbers of bytes are written in the unit that fits."""
    assert size(count) == text
