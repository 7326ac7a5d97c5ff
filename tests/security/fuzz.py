"""Fuzz what reads foreign bytes with atheris, which looks for inputs that reach new code.

``python -m tests.security.fuzz [TARGET [SECONDS]]``; without a target each of them, 20 s. An input
that fails is written to a file named ``crash-…`` in the working directory, and given again as
``python -m tests.security.fuzz TARGET crash-…``.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import trio

SECONDS: Final = "20"


def fuzz(name: str, how: str) -> None:
    """Fuzz one target for some seconds, or give it one file; ends this process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["roger_trio", "pamqp"]):
        from tests.security.targets import TARGETS
        from tests.security.test_fuzz import SEEDS
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        target(data)

    with tempfile.TemporaryDirectory() as corpus:
        if how.isdigit():
            for number, seed in enumerate(SEEDS[name]):
                Path(corpus, str(number)).write_bytes(seed)
            # What takes a second, or a GB, is a bug too.
            limits = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=4096", "-verbosity=0"]
            options = [f"-max_total_time={how}", "-print_final_stats=1", *limits, corpus]
        else:
            options = [how]
        atheris.Setup([sys.argv[0], *options], one_input)

        async def run() -> None:  # What speaks AMQP asks Trio for the time.
            atheris.Fuzz()

        trio.run(run)


def main(arguments: list[str]) -> int:
    """Fuzz what is asked for; return the exit status."""
    if len(arguments) == 2:
        fuzz(*arguments)
        return 0
    from tests.security.targets import TARGETS

    failed: list[str] = []
    for name in arguments or TARGETS:
        command = [sys.executable, "-m", "tests.security.fuzz", name, SECONDS]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        print(
            f"{name}: {runs[1] if runs else 'no'} inputs, {'failed' if done.returncode else 'ok'}"
        )
        if done.returncode:
            print(done.stderr)
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
