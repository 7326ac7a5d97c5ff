"""Where figures come from: what is worth knowing, and nothing that tells whose machine it was."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiormq
from yarl import URL

_PACKAGES = ("roger-trio", "trio", "trio-asyncio", "aiormq", "pamqp", "orjson", "attrs")
_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))


def record(url: str) -> dict[str, Any]:
    """Record the environment before a run.

    Raises:
        OSError, aiormq.AMQPError: The broker cannot be reached.
    """
    broker = asyncio.run(_server_properties(url))
    is_local = (URL(url).host or "localhost") in _LOCAL
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_mib": _memory_mib(),
        "broker": f"{broker.get('product')} {broker.get('version')} on {broker.get('platform')}",
        "broker_runs_on": "the same machine" if is_local else "another machine",
    }


async def _server_properties(url: str) -> dict[str, Any]:
    async with aiormq.connect(url) as connection:
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


def busy_share(seconds: float = 1.0) -> float | None:
    """Watch for a second, while we do nothing, how busy all processors are; only Linux tells.

    Returns:
        From 0, all idle, to 1, all busy with somebody else's work.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    before = _ticks(stat)
    time.sleep(seconds)
    after = _ticks(stat)
    idle, total = (new - old for old, new in zip(before, after, strict=True))
    return round(1 - idle / total, 2) if total else None


def _ticks(stat: Path) -> tuple[int, int]:
    times = [int(each) for each in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return times[3] + times[4], sum(times)
