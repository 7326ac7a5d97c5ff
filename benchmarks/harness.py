"""Runs measured programs, one process each, both sides in turn, and sums up their figures."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import attrs

from . import environment, queues
from .catalogue import Benchmark
from .work import Metrics, Work

SIDES: Final = {"roger": "benchmarks.with_roger", "aiormq": "benchmarks.with_aiormq"}
TIMEOUT: Final = 600.0
"""Seconds that one program may take."""
_ROOT: Final = Path(__file__).parent.parent

Summary = dict[str, float]


class ProgramFailed(Exception):
    """A measured program ended without figures; says what it wrote."""


@attrs.frozen(kw_only=True)
class Settings:
    """How to run."""

    url: str
    repeats: int
    patience: float
    """Seconds to wait for others to be quiet before a benchmark."""


class Harness:
    """Runs benchmarks on one broker; use it as a context manager, which tidies up."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._prefix = f"bench{secrets.token_hex(3)}-"
        self._numbers = count()

    def __enter__(self) -> Self:
        work = self._work("prepare", count=1)
        try:
            self._run("roger", work)
        finally:
            self._delete(work)
        return self

    def __exit__(self, *_exc: object) -> None:
        queues.delete_shared(self._settings.url, self._prefix)

    def measure(self, benchmark: Benchmark) -> dict[str, Any]:
        """Measure one benchmark: every repeat runs both sides, in alternating order."""
        repeats = min(self._settings.repeats, benchmark.repeats)
        quiet = self._wait_quiet()
        load = environment.load()
        runs: dict[str, list[Metrics]] = {side: [] for side in SIDES}
        for repeat in range(repeats):
            self._say(f"{benchmark.name}: {repeat + 1} of {repeats}")
            order = list(SIDES) if repeat % 2 == 0 else list(reversed(SIDES))
            for side in order:
                runs[side].append(self._run_once(side, benchmark))
        return {
            "name": benchmark.name,
            "title": benchmark.title,
            "count": benchmark.count,
            "warm_up": benchmark.warm_up,
            "concurrency": benchmark.concurrency,
            "others_busy_before": quiet,
            "load_before": load,
            "load_after": environment.load(),
            "runs": runs,
            "metrics": summarise(runs),
        }

    def _wait_quiet(self) -> float | None:
        """Wait until others leave the processors alone, or patience ends."""
        share = environment.busy_share()
        waited = 0.0
        while share is not None and share > 0.05 and waited < self._settings.patience:
            if not waited:
                self._say(f"others use {share:.0%} of the processors; waiting")
            waited += 1
            share = environment.busy_share()
        return share

    # One run...

    def _run_once(self, side: str, benchmark: Benchmark) -> Metrics:
        work = self._work(
            benchmark.task,
            count=benchmark.count,
            warm_up=benchmark.warm_up,
            concurrency=benchmark.concurrency,
        )
        try:
            if benchmark.is_filled:
                self._fill(work, benchmark)
            return self._run(side, work, benchmark.companion)
        finally:
            self._delete(work)

    def _fill(self, work: Work, benchmark: Benchmark) -> None:
        blocked = benchmark.concurrency if benchmark.is_blocked else 0
        jobs = work.count + work.warm_up + benchmark.margin
        # Both sides find the same messages.
        self._run("roger", _changed(work, task="fill", count=jobs, blocked=blocked))

    def _work(self, task: str, *, count: int, warm_up: int = 0, concurrency: int = 10) -> Work:
        partition = f"run{next(self._numbers)}"
        return Work(
            task=task,
            url=self._settings.url,
            prefix=self._prefix,
            partition=partition,
            queues=queues.declarations(self._prefix, partition),
            count=count,
            warm_up=warm_up,
            concurrency=concurrency,
        )

    def _delete(self, work: Work) -> None:
        queues.delete(self._settings.url, [name for name, _ in work.queues])

    def _run(self, side: str, work: Work, companion: str = "") -> Metrics:
        with ExitStack() as stack:
            program = stack.enter_context(_Program(side, work))
            if companion:
                program.wait_ready()
                helper = stack.enter_context(_Program(side, _changed(work, task=companion)))
                helper.figures()
            return program.figures()


def _changed(work: Work, **changes: Any) -> Work:
    return Work(**{**vars(work), **changes})


class _Program:
    """One measured program in a process of its own."""

    def __init__(self, side: str, work: Work) -> None:
        self._name = f"{SIDES[side]} {work.task}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", SIDES[side]],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Not on the command line, where everybody could read the password in it.
        assert self._process.stdin is not None
        self._process.stdin.write(work.dump())
        self._process.stdin.flush()

    def wait_ready(self) -> None:
        """Wait until the program says so."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.figures()
            raise ProgramFailed(f"{self._name}: it did not get ready")

    def figures(self) -> Metrics:
        """Wait for the end; return the last line."""
        try:
            output, errors = self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self._name}: no end within {TIMEOUT:g} s") from None
        if self._process.returncode:
            raise ProgramFailed(f"{self._name}: status {self._process.returncode}\n{errors}")
        metrics: Metrics = json.loads(output.splitlines()[-1])
        return metrics

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


# Summing up...


def summarise(runs: dict[str, list[Metrics]]) -> dict[str, dict[str, Summary]]:
    """Sum up each metric of each side, and the ratio of what was measured side by side."""
    summaries: dict[str, dict[str, Summary]] = {}
    for metric in runs["roger"][0]:
        roger, plain = ([run[metric] for run in runs[side]] for side in SIDES)
        summaries[metric] = {"roger": summary(roger), "aiormq": summary(plain)}
        if not metric.startswith("growth"):
            pairs = zip(roger, plain, strict=True)
            summaries[metric]["ratio"] = summary([ours / theirs for ours, theirs in pairs])
    return summaries


def summary(values: Sequence[float]) -> Summary:
    """Sum up repeats."""
    several = [*values, *values] if len(values) == 1 else values
    quartiles = statistics.quantiles(several, method="inclusive")
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "iqr": quartiles[2] - quartiles[0],
    }
