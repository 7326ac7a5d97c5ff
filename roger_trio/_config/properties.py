"""Client properties: what an AMQP table can hold, kept so that nobody can change it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from .checks import as_mapping, fail, fail_hidden, is_text

_KEY = "broker.client_properties"
_MAX_NAME = 128  # bytes, by AMQP
_MAX_TEXT = 2**16 - 1


def freeze_properties(properties: Mapping[str, object]) -> Mapping[str, object]:
    """Make a read-only copy, lists and mappings inside included.

    Raises:
        ConfigError: A name or value is none that an AMQP table can hold.
    """
    return _frozen_table(properties, _KEY)


def thaw_properties(properties: Mapping[str, object]) -> dict[str, Any]:
    """Make a copy of dicts and lists, which an AMQP encoder takes."""
    return {name: _thawed(value) for name, value in properties.items()}


def _frozen_table(value: object, key: str) -> Mapping[str, object]:
    table = as_mapping(value, key=key, rule="a mapping of names to values")
    for name in table:
        if not name or not is_text(name, _MAX_NAME):
            fail(key, f"names of 1 to {_MAX_NAME} bytes in UTF-8", name)
    return MappingProxyType({name: _frozen(item, f"{key}.{name}") for name, item in table.items()})


def _frozen(value: object, key: str) -> object:
    if isinstance(value, Mapping):
        return _frozen_table(cast("object", value), key)
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        return tuple(_frozen(item, f"{key}[{index}]") for index, item in enumerate(items))
    if not _is_scalar(value):
        rule = "text, a bool, a 64-bit whole number, a finite number, or a list or mapping of them"
        fail_hidden(key, rule, value)
    return value


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return is_text(value, _MAX_TEXT)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _thawed(value: object) -> object:
    if isinstance(value, Mapping):
        return thaw_properties(cast("Mapping[str, object]", value))
    if isinstance(value, tuple):
        return [_thawed(item) for item in cast("tuple[object, ...]", value)]
    return value
