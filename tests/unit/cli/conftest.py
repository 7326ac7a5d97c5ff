"""The command line called as a function, and what it leaves in the process put back."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from roger_trio._cli import main


@attrs.frozen
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Roger = Callable[..., Done]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in a folder of our own, and put back sys.path, modules and logging."""
    root, modules = logging.getLogger(), set(sys.modules)
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("ROGER_BROKER", raising=False)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in set(sys.modules) - modules:
        if not name.startswith("roger_trio"):
            del sys.modules[name]


@pytest.fixture
def roger(capsys: pytest.CaptureFixture[str]) -> Roger:
    """Return the command, as a function of its words."""

    def run(*words: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err)

    return run


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], str]:
    """Return what writes a module, of a name of its own, into the current folder."""

    def write(source: str) -> str:
        name = f"app_{secrets.token_hex(4)}"
        (tmp_path / f"{name}.py").write_text(f"import roger_trio as roger\n{source}\n")
        return name

    return write
