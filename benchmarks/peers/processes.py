"""Looks at programs from outside: processor time and memory of all their processes. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from .. import environment

_PROC: Final = Path("/proc")
_SCHEDULED: Final = 2
"""What the kernel calls the clock that counts all threads' time in user and system mode."""


@attrs.frozen
class Look:
    """One look at a program and the machine."""

    at: float
    """Seconds, of `time.perf_counter`."""
    cpu: float
    """Processor seconds of all its processes so far."""
    busy: int
    """Clock ticks in which any processor did anything so far, since the machine was started."""
    ticks: int
    """Clock ticks of all processors so far."""
    performed: int
    """Jobs it has performed so far."""


def look(roots: Iterable[int], performed: int) -> Look:
    """Look at programs, given the ids of their main processes."""
    cpu = sum(cpu_seconds(each) for each in family(roots))
    idle, ticks = environment.ticks()
    return Look(time.perf_counter(), cpu, ticks - idle, ticks, performed)


def family(roots: Iterable[int]) -> list[int]:
    """Name the processes, their children, and theirs."""
    known: list[int] = []
    waiting = list(roots)
    while waiting:
        process = waiting.pop()
        known.append(process)
        waiting += _children(process)
    return known


def _children(process: int) -> list[int]:
    try:
        threads = [*(_PROC / str(process) / "task").iterdir()]
        return [int(each) for thread in threads for each in _words(thread / "children")]
    except FileNotFoundError:
        return []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError:
        return []


def cpu_seconds(process: int) -> float:
    """Tell what processor time a process has used, its threads included; 0 if it is gone."""
    try:
        return time.clock_gettime((~process << 3) | _SCHEDULED)
    except OSError:
        return 0.0


def memory_mib(roots: Iterable[int]) -> float:
    """Tell the memory of programs; what their processes share counts once."""
    return sum(_proportional_kib(each) for each in family(roots)) / 1024


def _proportional_kib(process: int) -> int:
    words = _words(_PROC / str(process) / "smaps_rollup")
    return int(words[words.index("Pss:") + 1]) if "Pss:" in words else 0


def is_supported() -> bool:
    """Tell whether this machine has what we look at."""
    return (_PROC / "self" / "smaps_rollup").exists() and bool(cpu_seconds(os.getpid()))
