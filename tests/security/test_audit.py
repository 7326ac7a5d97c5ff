"""The audit of dependencies: red for what is known, not for a service that is away."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from tests.promises.support import ROOT

SOUND = {"name": "trio", "version": "0.31.0", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [
        {
            "id": "PYSEC-2014-8",
            "fix_versions": ["2.7.2"],
            "aliases": ["CVE-2014-1402"],
            "description": "…",
        }
    ],
}
OWN = {"name": "roger-trio", "skip_reason": "distribution marked as editable"}
UNKNOWN = {"name": "attrs", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.fixture
def audit() -> ModuleType:
    """Return the program that CI runs."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "statuses", "said"),
    [
        ([SOUND, OWN], (0, 0), "no known vulnerabilities"),
        ([SOUND, BAD], (1, 1), "jinja2 2.4.1: PYSEC-2014-8, CVE-2014-1402; fixed in: 2.7.2"),
        ([UNKNOWN, BAD], (1, 1), "VULNERABLE"),
        ([SOUND, UNKNOWN], (0, 1), "NOT AUDITED: the advisory service told nothing about attrs"),
        (None, (0, 1), "NOT AUDITED"),
    ],
)
def test_what_makes_it_red(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dependencies: list[dict[str, Any]] | None,
    statuses: tuple[int, int],
    said: str,
) -> None:
    """A known vulnerability always does; what could not be asked only where that is required."""
    report = None if dependencies is None else {"dependencies": dependencies, "fixes": []}
    monkeypatch.setattr(audit, "ask", lambda *_: report)
    assert (audit.main([]), audit.main(["--required"])) == statuses
    assert said in capsys.readouterr().out
