"""Fixtures of the security tests: those of the promises."""

from __future__ import annotations

from tests.promises.conftest import hub, outsider, setup, state_folder, witness

__all__ = ["hub", "outsider", "setup", "state_folder", "witness"]
