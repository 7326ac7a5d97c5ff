"""JSON forms of lists, tuples, sets and dicts. Both directions walk alike and keep the path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from .mismatch import Mismatch, Unsupported, expected, short_repr
from .scalars import SCALARS, Coder, integer, number, text

MAX_DEPTH: Final = 200
"""How deep JSON values may nest. orjson writes 254 levels; the envelope needs some of them."""

_ARRAY: Final[frozenset[type[Any]]] = frozenset({list})
_TEXT: Final[frozenset[type[Any]]] = frozenset({str})
MAX_INT_DIGITS: Final = 20  # of 2**64 - 1, and of -2**63 with its sign
_INTEGER: Final = re.compile(r"0|-?[1-9]\d*", re.ASCII)


def _each(items: Iterable[Any], convert: Callable[[Any], Any]) -> list[Any]:
    """Convert every item; a mismatch learns its index."""
    done: list[Any] = []
    try:
        for item in items:
            done.append(convert(item))  # noqa: PERF401  # its length is the index of the culprit
    except Mismatch as mismatch:
        mismatch.under(f"[{len(done)}]")
        raise
    return done


def _entries(
    items: dict[Any, Any], convert_key: Callable[[Any], Any], convert: Callable[[Any], Any]
) -> dict[Any, Any]:
    """Convert every key and value; a mismatch learns the key."""
    done: dict[Any, Any] = {}
    for key, item in items.items():
        try:
            done[convert_key(key)] = convert(item)
        except Mismatch as mismatch:
            mismatch.under(f"[{short_repr(key)}]")
            raise
    return done


def _array(value: Any) -> list[Any]:
    """Check that a JSON value is an array."""
    items: list[Any] = value
    if type(items) is not list:
        raise expected("an array", value)
    return items


def json_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Check and copy any JSON value; for the annotation ``Any``, the same in both directions.

    A copy, so that a job that changes its argument does not change the envelope, which a retry
    writes again.
    """
    if value is None or value is True or value is False:
        return value
    for kind, check in ((str, text), (int, integer), (float, number)):
        if isinstance(value, kind):
            return check(value)
    if not depth:
        raise Mismatch(f"expected at most {MAX_DEPTH} levels of lists and dicts, got more")
    inner = partial(json_value, depth=depth - 1)
    nested: list[Any] | dict[Any, Any] = value
    if isinstance(nested, list):
        return _each(nested, inner)
    if isinstance(nested, dict):
        return _entries(nested, text, inner)
    raise expected("a JSON value (None, bool, int, float, str, list or dict)", value)


def array(
    label: str,
    item: Coder,
    accepts: tuple[type[Any], ...],
    make: Callable[[list[Any]], Any],
    rule: str,
) -> Coder:
    """Make the coder of a collection of one kind of items.

    Args:
        label: The annotation as text.
        item: The items' coder.
        accepts: The types of the collection.
        make: Makes the collection of a list.
        rule: What is expected, in words.
    """

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, accepts):
            raise expected(rule, value)
        return _each(value, item.encode)

    def decode(value: Any) -> Any:
        items = _each(_array(value), item.decode)
        try:
            return make(items)
        except TypeError:  # a set of what cannot be hashed
            raise expected("an array of hashable items", value) from None

    return Coder(label, encode, decode, frozenset(accepts), _ARRAY)


def fixed_tuple(label: str, items: tuple[Coder, ...]) -> Coder:
    """Make the coder of a tuple of known length."""
    rule = f"{len(items)} items"

    def convert(value: Sequence[Any], converters: list[Callable[[Any], Any]]) -> list[Any]:
        if len(value) != len(items):
            raise expected(rule, value)
        return _each(zip(converters, value, strict=True), lambda pair: pair[0](pair[1]))

    encoders = [item.encode for item in items]
    decoders = [item.decode for item in items]

    def encode(value: tuple[Any, ...]) -> list[Any]:
        if not isinstance(value, tuple):
            raise expected("a tuple", value)
        return convert(value, encoders)

    def decode(value: Any) -> tuple[Any, ...]:
        return tuple(convert(_array(value), decoders))

    return Coder(label, encode, decode, frozenset({tuple}), _ARRAY)


def mapping(label: str, key: Coder, value: Coder) -> Coder:
    """Make the coder of a dict."""
    key = _text_key(key)

    def encode(items: dict[Any, Any]) -> dict[str, Any]:
        if not isinstance(items, dict):
            raise expected("a dict", items)
        return _entries(items, key.encode, value.encode)

    def decode(items: dict[str, Any]) -> dict[Any, Any]:
        if type(items) is not dict:
            raise expected("an object", items)
        return _entries(items, key.decode, value.decode)

    return Coder(label, encode, decode, frozenset({dict}), frozenset({dict}))


def _text_key(key: Coder) -> Coder:
    """Return the coder of a dict's keys: what is text in JSON anyway, and int."""
    if key is SCALARS[int]:
        return Coder(
            key.label,
            _encode_int_key,
            _decode_int_key,
            key.python,
            _TEXT,
        )
    if key.json != _TEXT:
        raise Unsupported(f"dict keys of type {key.label} have no form as a JSON key")
    return key


def _encode_int_key(value: Any) -> str:
    return str(integer(value))


def _decode_int_key(value: str) -> int:
    if len(value) > MAX_INT_DIGITS or not _INTEGER.fullmatch(value):
        raise expected("an integer as text", value)
    return integer(int(value))
