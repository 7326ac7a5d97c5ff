"""Where figures come from: what is worth knowing, and nothing that tells whose machine it was."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiormq.abc import AbstractConnection
from yarl import URL

from . import queues

_PACKAGES = ("roger-trio", "trio", "trio-asyncio", "aiormq", "pamqp", "orjson", "attrs", "huey")
_STAT = Path("/proc/stat")
_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))


def record(url: str, brokers: Collection[str]) -> dict[str, Any]:
    """Record the environment before a run, and of the brokers those that are used.

    Raises:
        OSError, aiormq.AMQPError: The broker cannot be reached.
    """
    facts = record_machine()
    if "rabbitmq" in brokers:
        server = queues.ask(url, _server_properties)
        is_local = (URL(url).host or "localhost") in _LOCAL
        facts["broker"] = f"{server['product']} {server['version']} on {server['platform']}"
        facts["broker_runs_on"] = "the same machine" if is_local else "another machine"
    if "sqlite" in brokers:
        facts["sqlite"] = sqlite3.sqlite_version
        facts["sync_ms"] = round(sync_time() * 1000, 2)
    return facts


def sync_time(count: int = 100) -> float:
    """Measure what it takes to append 4 KiB to a temporary file and sync it: seconds, median."""
    times: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def record_machine() -> dict[str, Any]:
    """Record what does not depend on a broker."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_mib": _memory_mib(),
    }


async def _server_properties(connection: AbstractConnection) -> dict[str, Any]:
    return dict(connection.server_properties)


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        import roger_trio

        return roger_trio.__version__ if package == "roger-trio" else "unknown"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def load() -> float:
    """Tell the load average of the last minute; our own broker and programs count."""
    return round(os.getloadavg()[0], 2)


def busy_share(seconds: float) -> float | None:
    """Watch for some seconds, while we do nothing, how busy all processors are; only Linux tells.

    Returns:
        From 0, all idle, to 1, all busy with somebody else's work.
    """
    if not _STAT.exists():
        return None
    before = ticks()
    time.sleep(seconds)
    after = ticks()
    idle, total = (new - old for old, new in zip(before, after, strict=True))
    return round(1 - idle / total, 2) if total else None


def wait_quiet(
    quiet: float, look: float, patience: float, say: Callable[[str], None]
) -> float | None:
    """Wait until others leave the processors alone, or patience ends; tell what they use then."""
    share = busy_share(look)
    waited = 0.0
    while share is not None and share > quiet and waited < patience:
        if not waited:
            say(f"others use {share:.0%} of the processors; waiting")
        waited += look
        share = busy_share(look)
    return share


def ticks() -> tuple[int, int]:
    """Tell the clock ticks of all processors so far: idle ones, and all; only Linux tells."""
    times = [int(each) for each in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return times[3] + times[4], sum(times)
