"""Runs a peer's programs: its client to the end, its worker as long as it is looked at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from yarl import URL

from . import processes
from .client import Metrics
from .order import Order

ROOT: Final = Path(__file__).parent.parent.parent
_SHOWN: Final = 1500
"""How much of the end of what a failed program wrote is shown."""


class StepFailed(Exception):
    """A step of a peer gave no figures: its program ended, or it took too long."""


def run_client(python: Path, module: str, order: Order, seconds: float) -> Metrics:
    """Run a client to its end; return its figures.

    Raises:
        StepFailed: It failed, or did not end within the seconds.
    """
    with started(python, module, order) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"{order.task}: no end within {seconds:g} s") from None
        if process.returncode:
            raise StepFailed(f"{order.task}: status {process.returncode}: {written(order)}")
    metrics: Metrics = json.loads(_output(order).read_text().splitlines()[-1])
    return metrics


class Worker:
    """Programs that perform jobs, at least one."""

    def __init__(self, order: Order, programs: list[subprocess.Popen[bytes]]) -> None:
        self._order = order
        self._programs = programs
        self.ids = [each.pid for each in programs]

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Look every 10 ms until a condition holds.

        Raises:
            StepFailed: A program ended, or the condition did not hold within the seconds.
        """
        end = time.monotonic() + seconds
        while not condition():
            if any(each.poll() is not None for each in self._programs):
                raise StepFailed(f"worker ended by itself: {written(self._order)}")
            if time.monotonic() > end:
                raise StepFailed(f"{what}: not within {seconds:g} s: {written(self._order)}")
            time.sleep(0.01)


@contextmanager
def running_worker(python: Path, module: str, order: Order, programs: int) -> Generator[Worker]:
    """Run the worker, as so many programs, and kill it: its queue is deleted anyway."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(started(python, module, order, number))
            for number in range(programs)
        ]
        yield Worker(order, running)


@contextmanager
def started(
    python: Path, module: str, order: Order, number: int = 0
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program; in the end all its processes are killed."""
    with _output(order, number).open("wb") as out, _errors(order, number).open("wb") as errors:
        process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            env=order.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,  # so that all its processes can be killed
        )
    try:
        yield process
    finally:
        for each in processes.family([process.pid]):  # whatever sessions they have made
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# What a program wrote...


def written(order: Order) -> str:
    """Show the end of what the programs of an order wrote to standard error, without secrets."""
    files = sorted(Path(order.folder).glob(f"{order.task}-*.err"))
    text = "\n".join(each.read_text(errors="replace").strip() for each in files)
    return without_password(text, order.url)[-_SHOWN:]


def without_password(text: str, url: str) -> str:
    """Take the password of a URL out of a text; the published one of RabbitMQ is none."""
    password = URL(url).password
    return text if password in {None, "", "guest"} else text.replace(str(password), "***")


def _output(order: Order, number: int = 0) -> Path:
    return Path(order.folder) / f"{order.task}-{number}.out"


def _errors(order: Order, number: int = 0) -> Path:
    return Path(order.folder) / f"{order.task}-{number}.err"
