"""Read a configuration file: TOML in, the arguments of `Config` out."""

from __future__ import annotations

import importlib
import operator
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import ConfigError
from .._persisters import BrokerPersister, FilePersister, MemoryPersister
from .amqp import amqp_from_table
from .checks import as_mapping, fail, unknown


def read_toml(path: str | os.PathLike[str], known: Sequence[str]) -> dict[str, Any]:
    """Read a file and turn what TOML cannot hold into what `Config` takes.

    Args:
        path: The file.
        known: The top-level keys there may be.

    Raises:
        ConfigError: The file cannot be read or is not TOML, or a key is unknown; the message
            begins with the path.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        for key in values:
            if key not in known:
                unknown(key, known)
        return {key: _value(key, value) for key, value in values.items()}
    except OSError as error:
        rule = f"expected a readable file ({error.strerror})"
    except ValueError as error:  # of TOML or of UTF-8
        rule = f"expected TOML in UTF-8 ({error})"
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error.__cause__
    raise ConfigError(f"{os.fspath(path)}: {rule}")


def _value(key: str, value: Any) -> Any:
    if key == "broker" and not isinstance(value, str):
        return amqp_from_table(as_mapping(value, key=key, rule='text or a table, "[broker]"'))
    if key == "persister":
        return _persister(value)
    return load_object(value, key=key) if key == "callbacks" else value


def _persister(value: object) -> object:
    if value == "broker":
        return BrokerPersister()
    if value == "memory":
        return MemoryPersister()
    if not isinstance(value, str) or ":" not in value.strip(":"):
        fail("persister", '"broker", "memory", "file:DIRECTORY" or "module:object"', value)
    if value.startswith("file:"):
        return FilePersister(value.removeprefix("file:"))
    return load_object(value, key="persister")


def load_object(name: object, *, key: str) -> object:
    """Import ``"module:object"``; what turns out to be a class is called without arguments.

    Raises:
        ConfigError: It is not of this form, or importing or calling it fails, for whatever
            reason, which is the error's cause.
    """
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (module and colon and attribute):
        fail(key, '"module:object"', name)
    # What a user's module raises can be anything.
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
        return found() if isinstance(found, type) else found
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key}: cannot load {name!r} ({reason})") from error
