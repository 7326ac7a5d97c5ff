"""Runs measured programs, one process each, both sides in turn, and sums up their figures."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Final, Self

import attrs

from . import environment, queues
from .benchmark import Benchmark
from .catalogue import FEWER
from .work import Metrics, Work

PROGRAMS: Final = {
    "roger": "benchmarks.with_roger",
    "aiormq": "benchmarks.with_aiormq",
    "huey": "benchmarks.with_huey",
    "fewer": "benchmarks.with_roger",
    "plain": "benchmarks.with_keys",
    "none": "benchmarks.with_keys",
    "single": "benchmarks.with_partitions",
    "one": "benchmarks.with_nodes",
}
TIMEOUT: Final = 600.0
"""Seconds that one program may take."""
QUIET: Final = 0.05
"""Share of the processors that others may use while wall clock is measured."""
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
    look: float = 1.0
    """Seconds to watch what others do before a benchmark."""


@attrs.frozen(kw_only=True)
class Place:
    """Where the jobs of one run are."""

    url: str
    state: str = ""
    partition: str = "run"
    queues: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)


class Harness:
    """Runs benchmarks; use it as a context manager, which tidies up."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._prefix = f"bench{secrets.token_hex(3)}-"
        self._numbers = count()
        self._stack = ExitStack()
        self._is_rabbitmq_prepared = False
        self._backlogs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _prepare_rabbitmq(self) -> None:
        if self._is_rabbitmq_prepared:
            return
        self._is_rabbitmq_prepared = True
        self._stack.callback(queues.delete_shared, self._settings.url, self._prefix)
        with self._rabbitmq() as place:
            self._run(PROGRAMS["roger"], self._work(place, "prepare", count=1))

    def measure(self, benchmark: Benchmark) -> dict[str, Any]:
        """Measure one benchmark: every repeat runs both sides, in alternating order."""
        repeats = min(self._settings.repeats, benchmark.repeats)
        quiet = self._wait_quiet()
        load = environment.load()
        if benchmark.broker == "rabbitmq" and not benchmark.partitions:
            self._prepare_rabbitmq()
        sides = ["roger", benchmark.baseline] if benchmark.baseline else ["roger"]
        runs: dict[str, list[Metrics]] = {side: [] for side in sides}
        for repeat in range(repeats):
            self._say(f"{benchmark.name}: {repeat + 1} of {repeats}")
            for side in sides if repeat % 2 == 0 else reversed(sides):
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
        look, patience = self._settings.look, self._settings.patience
        return environment.wait_quiet(QUIET, look, patience, self._say)

    # One run...

    def _run_once(self, side: str, benchmark: Benchmark) -> Metrics:
        with self._place(side, benchmark) as place:
            work = self._work(
                place,
                benchmark.task,
                count=benchmark.count,
                warm_up=benchmark.warm_up,
                concurrency=benchmark.concurrency,
            )
            program = (benchmark.program if side == "roger" else "") or PROGRAMS[side]
            processes = 1 if side == "one" else benchmark.processes
            work = _changed(work, has_keys=side != "plain", processes=processes)
            if benchmark.partitions:
                work = _changed(work, partitions=1 if side == "single" else benchmark.partitions)
                first = self._run(program, _changed(work, task="first_start"))
                return {**self._run(program, work, benchmark.companion), **first}
            if benchmark.held:
                held = 0 if side == "none" else benchmark.held
                self._run(program, _changed(work, task="hold", count=held))
            if benchmark.is_filled and benchmark.broker == "memory":
                work = _changed(work, own_jobs=benchmark.jobs)
            elif benchmark.is_filled:
                self._fill(side, work, benchmark)
            return self._run(program, work, benchmark.companion)

    def _fill(self, side: str, work: Work, benchmark: Benchmark) -> None:
        blocked = benchmark.concurrency if benchmark.is_blocked else 0
        # On RabbitMQ both sides find the same messages.
        filler = "huey" if side == "huey" else "roger"
        self._run(
            PROGRAMS[filler], _changed(work, task="fill", count=benchmark.jobs, blocked=blocked)
        )

    def _work(
        self, place: Place, task: str, *, count: int, warm_up: int = 0, concurrency: int = 10
    ) -> Work:
        return Work(
            task=task,
            url=place.url,
            prefix=self._prefix,
            partition=place.partition,
            queues=place.queues,
            state=place.state,
            count=count,
            warm_up=warm_up,
            concurrency=concurrency,
        )

    # Places...

    def _place(self, side: str, benchmark: Benchmark) -> AbstractContextManager[Place]:
        if benchmark.broker == "rabbitmq":
            return self._private_rabbitmq() if benchmark.partitions else self._rabbitmq()
        if benchmark.broker == "memory":
            return nullcontext(Place(url="memory:"))
        return self._sqlite(FEWER if side == "fewer" else benchmark.waiting)

    @contextmanager
    def _rabbitmq(self) -> Generator[Place]:
        partition = f"run{next(self._numbers)}"
        declared = queues.declarations(self._prefix, partition)
        with TemporaryDirectory(prefix="bench") as state:
            try:
                yield Place(
                    url=self._settings.url, state=state, partition=partition, queues=declared
                )
            finally:
                others = queues.partition_queues(self._prefix, partition)
                queues.delete(self._settings.url, [*(name for name, _ in declared), *others])

    @contextmanager
    def _private_rabbitmq(self) -> Generator[Place]:
        """Start a RabbitMQ that may have many queues, and is gone with them afterwards."""
        from tests.rabbitmq import PrivateRabbit

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # The broker inherits it.
        with TemporaryDirectory(prefix="bench") as state, PrivateRabbit() as rabbit:
            yield Place(url=rabbit.url, state=state)

    @contextmanager
    def _sqlite(self, waiting: int) -> Generator[Place]:
        with TemporaryDirectory(prefix="bench") as folder:
            if waiting:
                shutil.copytree(self._backlog(waiting), folder, dirs_exist_ok=True)
                os.sync()  # or the next sync of the database writes the copy too
            yield Place(url=f"sqlite:{folder}/jobs.db")

    def _backlog(self, waiting: int) -> Path:
        """Make a folder with a database where so many jobs wait, once."""
        if waiting not in self._backlogs:
            self._say(f"filling a database with {waiting:,} jobs")
            folder = self._stack.enter_context(TemporaryDirectory(prefix="bench"))
            place = Place(url=f"sqlite:{folder}/jobs.db")
            self._run(PROGRAMS["roger"], self._work(place, "fill", count=waiting))
            self._backlogs[waiting] = Path(folder)
        return self._backlogs[waiting]

    def _run(self, module: str, work: Work, companion: str = "") -> Metrics:
        """Run a program; its figures, and those of its companion."""
        with ExitStack() as stack:
            program = stack.enter_context(_Program(module, work))
            figures: Metrics = {}
            if companion:
                program.wait_ready()
                helper = stack.enter_context(_Program(module, _changed(work, task=companion)))
                figures = helper.figures()
            return {**figures, **program.figures()}


def _changed(work: Work, **changes: Any) -> Work:
    return Work(**{**vars(work), **changes})


class _Program:
    """One measured program in a process of its own."""

    def __init__(self, module: str, work: Work) -> None:
        self._name = f"{module} {work.task}"
        # Not a pipe: nobody reads it before the end, and a full one would hold up who logs much.
        self._errors = TemporaryFile("w+")  # noqa: SIM115 -- closed when the program has ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
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
            output, _ = self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self._name}: no end within {TIMEOUT:g} s") from None
        if self._process.returncode:
            self._errors.seek(0)
            errors = self._errors.read()
            raise ProgramFailed(f"{self._name}: status {self._process.returncode}\n{errors}")
        metrics: Metrics = json.loads(output.splitlines()[-1])
        return metrics

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()


# Summing up...


def summarise(runs: dict[str, list[Metrics]]) -> dict[str, dict[str, Summary]]:
    """Sum up each metric of each side, and the ratio of what was measured side by side."""
    summaries: dict[str, dict[str, Summary]] = {}
    for metric in runs["roger"][0]:
        sides = {side: [run[metric] for run in several] for side, several in runs.items()}
        summaries[metric] = {side: summary(values) for side, values in sides.items()}
        if len(sides) > 1 and not metric.startswith("growth"):
            pairs = zip(*sides.values(), strict=True)
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
