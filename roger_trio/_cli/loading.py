"""From what is typed, ``app:config`` or ``roger.toml``, to a `Config`."""

from __future__ import annotations

import importlib
import inspect
import operator
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

import typer

from .._config import Config
from .._config.checks import shown
from .._errors import RogerError
from .errors import Refused, misused

T = TypeVar("T")

_APP: Final = "APP"
_IMPORT: Final = "--import"
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s'\"]*@")


def load_config(app: str, imports: Iterable[str] = ()) -> Config:
    """Load a configuration, with ``ROGER_BROKER`` applied.

    The current directory comes first where modules are looked for.

    Args:
        app: ``module:attribute`` of a `Config` or of a function that returns one, or the path of
            a ``.toml`` file.
        imports: Further modules to import, for the jobs in them.

    Raises:
        typer.BadParameter: There is no such file, module or attribute, or it is something else.
        Refused: A module or the function failed; shows where.
        ConfigError: The configuration is wrong.
    """
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    config = _from_file(app) if app.endswith(".toml") else _from_module(app)
    for name in imports:
        _import(name, _IMPORT)
    return config.with_environment()


def _from_file(app: str) -> Config:
    if not Path(app).is_file():
        misused(f"there is no file {shown(app)}", _APP)
    return Config.load(app)


def _from_module(app: str) -> Config:
    name, colon, attribute = app.partition(":")
    if not (name and colon and attribute) or "://" in app:  # a URL may hold a password
        misused(f"expected module:attribute, or the path of a .toml file, got {shown(app)}", _APP)
    module = _import(name, _APP)
    try:
        found = operator.attrgetter(attribute)(module)
    except AttributeError:
        misused(f"module {name!r} has no {attribute!r}{_candidates(module)}", _APP)
    if inspect.isroutine(found):
        found = _guarded(found, f"{app} failed")
    if not isinstance(found, Config):
        what = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        misused(
            f"expected {app!r} to be a roger.Config, or a function that returns one, "
            f"got {what}{_candidates(module)}",
            _APP,
        )
    return found


def _candidates(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Config)]
    return f"; it has {', '.join(f'{module.__name__}:{name}' for name in names)}" if names else ""


def _import(name: str, argument: str) -> ModuleType:
    if "" in name.split("."):
        misused(f"expected the name of a module, got {name!r}", argument)

    def run() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as exc:
            # Otherwise it is there, and something that it imports is not.
            if f"{name}.".startswith(f"{exc.name}.") and not _frames(exc):
                where = f"in {Path.cwd()} or on Python's path"
                misused(f"there is no module {exc.name!r} {where}", argument)
            raise

    return _guarded(run, f"module {name!r} cannot be imported")


def _guarded(function: Callable[[], T], complaint: str) -> T:
    """Call the user's code; what it raises, unless it is ours, is shown with where it happened."""
    try:
        return function()
    except (RogerError, typer.BadParameter):
        raise
    except (Exception, SystemExit) as exc:
        raise Refused(f"{complaint}: {_reason(exc)}", _where(exc)) from exc


def _reason(exc: BaseException) -> str:
    return _CREDENTIALS.sub("***@", f"{type(exc).__name__}: {exc}")


def _where(exc: BaseException) -> str:
    """Write a traceback without source text: it may be the line that has the password."""
    lines = [
        f'  File "{each.filename}", line {each.lineno}, in {each.name}' for each in _frames(exc)
    ]
    return "\n".join(["Traceback (most recent call last):", *lines]) if lines else ""


def _frames(exc: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the user's code."""
    ours = (__file__, importlib.__file__)
    stack = traceback.StackSummary.extract(traceback.walk_tb(exc.__traceback__), lookup_lines=False)
    return [
        each
        for each in stack
        if each.filename not in ours and not each.filename.startswith("<frozen importlib")
    ]
