"""An environment for each peer, made once and kept beside this file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .peer import Peer

FOLDER: Final = Path(__file__).parent.parent / ".peers"
TIMEOUT: Final = 240.0
"""Seconds that making one environment may take."""

_TELL: Final = (
    "import json, sys, importlib.metadata as m;"
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


class NotInstalled(Exception):
    """A peer could not be installed; says why."""


def install(peer: Peer, say: Callable[[str], None], *, renew: bool = False) -> Path:
    """Install the current version of a peer, unless it is there; return its interpreter.

    Raises:
        NotInstalled: pip could not, or it took too long.
    """
    if not peer.requirements:
        return Path(sys.executable)
    folder = FOLDER / peer.family
    stamp = folder / "installed.json"
    wanted = json.dumps({"python": sys.version, "requirements": peer.requirements})
    if renew or not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing {peer.title} in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        _run(peer, sys.executable, "-m", "venv", str(folder))
        _run(peer, str(_python(folder)), "-m", "pip", "install", "--quiet", *peer.requirements)
        stamp.write_text(wanted)
    return _python(folder)


def versions(peer: Peer, python: Path) -> dict[str, str]:
    """Tell the versions of a peer's packages.

    Raises:
        NotInstalled: A package is not there.
    """
    found: dict[str, str] = json.loads(_run(peer, str(python), "-c", _TELL, *peer.packages))
    return found


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(peer: Peer, *command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{peer.title}: not installed within {TIMEOUT:g} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise NotInstalled(f"{peer.title}: {last[0]}")
    return done.stdout
