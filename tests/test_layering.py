"""The layers of the package: a module imports only from its own line and from lower ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "roger_trio"

# Highest first; the head of roger_trio/__init__.py shows the same list to a reader.
LAYERS: tuple[set[str], ...] = (
    {"__init__", "__main__", "_pytest_plugin", "abc", "testing"},  # the public doors
    {"_cli"},  # what an operator types
    {"_demo"},  # the run that `roger demo` shows
    {"_doctor"},  # what is found out for `roger doctor`, and what it means
    {"_processes"},  # several nodes, each in a process, under a supervisor
    {"_tree"},  # node -> partition -> consumer -> worker
    {"_client"},  # enqueue and control
    {"_messages"},  # from a job to a message and back
    {"_control", "_state"},  # cluster commands; what a partition remembers
    {"_topology"},  # names and queue declarations
    {"_brokers"},  # bytes in, bytes out
    {"_config"},  # how all of it is set up
    {"_persisters"},  # where a partition's state is kept
    {"_jobs"},  # what a job is, its wire form, its outcomes
    {"_errors", "_info", "_logs"},  # values
)
FENCED = {"aiormq", "asyncio", "trio_asyncio"}
FENCE = "roger_trio._brokers.rabbitmq"


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of the package."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of all that a module imports, wherever in it that stands."""
    home = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = home[: len(home) - level + 1] if level else []
                stem = ".".join([*base, *([module] if module else [])])
                yield from ((node.lineno, f"{stem}.{alias.name}") for alias in names)
            case _:
                pass


def layer(name: str) -> int:
    """Return the line a dotted name stands on; the package itself stands on the first."""
    parts = [*name.split("."), "__init__"]
    found = [number for number, line in enumerate(LAYERS) if parts[1] in line]
    return found[0] if found else 0  # a name that roger_trio/__init__.py publishes


def violations(package: Path) -> list[str]:
    """Return one line for each import that breaks a rule."""
    found: list[str] = []
    for name, path in modules(package):
        for number, target in imports(name, path):
            where = f"{path.relative_to(package.parent)}:{number}: {target}"
            if target.split(".")[0] == "roger_trio" and layer(target) < layer(name):
                found.append(f"{where} stands above {name}")
            if target.split(".")[0] in FENCED and not f"{name}.".startswith(f"{FENCE}."):
                found.append(f"{where} may only be imported under {FENCE}")
    return found


def test_imports_point_downwards() -> None:
    """No module imports from a higher layer, and only the RabbitMQ broker knows asyncio."""
    assert violations(PACKAGE) == []


def test_every_module_has_a_layer() -> None:
    """A new top-level module must be given its line in LAYERS."""
    known = {name for line in LAYERS for name in line}
    assert {f"{name}.__init__".split(".")[1] for name, _ in modules(PACKAGE)} <= known


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_jobs/job.py", "from .._client import Client", "roger_trio._client.Client stands above"),
        ("_jobs/job.py", "from .. import _tree", "roger_trio._tree stands above"),
        ("_jobs/job.py", "from .. import Job", "roger_trio.Job stands above"),
        ("_client.py", "def f():\n    import roger_trio._cli.main", "roger_trio._cli.main stands"),
        ("_tree/node.py", "import asyncio.events", "asyncio.events may only be imported under"),
        ("_brokers/base.py", "from aiormq import Channel", "aiormq.Channel may only be imported"),
        ("_brokers/rabbitmq/bridge.py", "import asyncio", None),
        ("_brokers/rabbitmq/__init__.py", "import trio_asyncio", None),
        ("_tree/node.py", "from .partition import Partition", None),
        ("_tree/__init__.py", "from .._config import Config", None),
        ("_config.py", "from ._errors import ConfigError", None),
        ("__init__.py", "from ._tree import serve", None),
    ],
)
def test_the_checker_sees(tmp_path: Path, module: str, source: str, complaint: str | None) -> None:
    """The checker tells a wrong import from a right one, however it is written."""
    path = tmp_path / "roger_trio" / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = violations(tmp_path / "roger_trio")
    if complaint is None:
        assert found == []
    else:
        [line] = found
        assert complaint in line
