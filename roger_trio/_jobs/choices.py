"""JSON forms of enums, literals and unions: annotations that name alternatives."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final

from .mismatch import Mismatch, Unsupported, expected
from .scalars import SCALARS, Coder

_NONE: Final = SCALARS[type(None)]
_PLAIN: Final = (str, int, float, bool, type(None))

Table = dict[tuple[type[Any], Any], Any]
"""What stands for a value, by type and value: 1, True and 1.0 are equal, and not the same."""


def enumeration(cls: type[enum.Enum]) -> Coder:
    """Make the coder of an enum, whose members travel as their values."""
    for member in cls:
        if type(member.value) not in _PLAIN:
            raise Unsupported(f"the enum {cls.__name__} has the value {member.value!r}")
    members: Table = {(type(member.value), member.value): member for member in cls}
    rule = f"a value of the enum {cls.__name__}"

    def encode(value: Any) -> Any:
        if not isinstance(value, cls):
            raise expected(f"a {cls.__name__}", value)
        return value.value

    def decode(value: Any) -> Any:
        member = _lookup(members, value)
        if member is not None:
            return member
        if issubclass(cls, enum.Flag) and type(value) is int:
            return _flag(cls, value, rule)
        raise expected(rule, value)

    json: frozenset[type[Any]] = frozenset(kind for kind, _ in members)
    return Coder(cls.__name__, encode, decode, frozenset({cls}), json)


def literal(label: str, values: Sequence[Any]) -> Coder:
    """Make the coder of a ``Literal``, whose values travel as themselves; enum members by value."""
    forms = [value.value if isinstance(value, enum.Enum) else value for value in values]
    for form in forms:
        if type(form) not in _PLAIN:
            raise Unsupported(f"the literal {form!r} is not a JSON value")
    # Wrapped, as None may be one of the forms.
    encoded: Table = {(type(v), v): (form,) for v, form in zip(values, forms, strict=True)}
    decoded: Table = {(type(form), form): (v,) for v, form in zip(values, forms, strict=True)}
    if len(decoded) != len(encoded):
        raise Unsupported(f"two values of {label} have the same JSON form")

    def chooser(table: Table) -> Callable[[Any], Any]:
        def choose(value: Any) -> Any:
            found = _lookup(table, value)
            if found is None:
                raise expected(f"one of {', '.join(map(repr, values))}", value)
            return found[0]

        return choose

    return Coder(
        label,
        chooser(encoded),
        chooser(decoded),
        frozenset(map(type, values)),
        frozenset(map(type, forms)),
    )


def _flag(cls: type[enum.Enum], value: int, rule: str) -> Any:
    """Return a combination of flags; not another one, as boundaries other than STRICT make.

    Which is what Python 3.11 took for the default in its first releases.
    """
    try:
        made = cls(value)
    except ValueError:
        made = None
    if not isinstance(made, cls) or made.value != value:
        raise expected(rule, value)
    return made


def _lookup(table: Table, value: object) -> Any:
    """Find a value by type and equality; None if it is not there, or cannot be hashed."""
    try:
        return table.get((type(value), value))
    except TypeError:
        return None


def union(members: Sequence[Coder]) -> Coder:
    """Make the coder of a union.

    None is null. A single other member travels as it would alone. Several travel as they would
    alone if their JSON forms differ in type, so that a reader can tell them apart; if two members
    share a type (``str | datetime``, two classes), every member but None is tagged:
    ``{"type": "datetime", "value": "2024-…"}``.
    """
    optional = _NONE in members
    # Sorted, as typing takes `A | B` and `B | A` for equal and may hand us either.
    others = sorted((each for each in members if each is not _NONE), key=lambda each: each.label)
    if len(others) > 1 and any(each.json is None for each in others):
        raise Unsupported("Any beside other types of a union makes them indistinguishable")
    by_json = _by_json(others)
    if len(others) == 1:
        coder = others[0]
    elif by_json is not None:
        coder = _plain(others, by_json)
    else:
        coder = _tagged(others)
    return _optional(coder) if optional else coder


def _optional(coder: Coder) -> Coder:
    """Let None pass."""
    inner_encode, inner_decode = coder.encode, coder.decode

    def encode(value: Any) -> Any:
        return None if value is None else inner_encode(value)

    def decode(value: Any) -> Any:
        return None if value is None else inner_decode(value)

    json = None if coder.json is None else coder.json | _NONE.python
    return Coder(f"{coder.label} | None", encode, decode, coder.python | _NONE.python, json)


def _by_json(members: Sequence[Coder]) -> dict[type[Any], Coder] | None:
    """Map each JSON type to the one member that uses it; None if two share one."""
    found: dict[type[Any], Coder] = {}
    for member in members:
        json = member.json or frozenset()
        if member is SCALARS[float] and SCALARS[int] in members:
            json = frozenset({float})  # a float always travels with its point: 5.0
        if found.keys() & json:
            return None
        found.update(dict.fromkeys(json, member))
    return found


def _plain(members: Sequence[Coder], by_json: dict[type[Any], Coder]) -> Coder:
    """Make the coder of members that a reader can tell apart."""
    choose = _chooser(members)
    rule = _rule(members)

    def encode(value: Any) -> Any:
        return choose(value)[1]

    def decode(value: object) -> Any:
        member = by_json.get(type(value))
        if member is None:
            raise expected(rule, value)
        return member.decode(value)

    return _united(members, encode, decode, frozenset(by_json))


def _tagged(members: Sequence[Coder]) -> Coder:
    """Make the coder of members that need a tag."""
    by_label = {member.label: member for member in members}
    if len(by_label) != len(members):
        raise Unsupported("two members of the union have the same name")
    choose = _chooser(members)
    rule = f"an object with the keys type (one of {', '.join(by_label)}) and value"

    def encode(value: Any) -> dict[str, Any]:
        label, form = choose(value)
        return {"type": label, "value": form}

    def decode(value: Any) -> Any:
        tagged: dict[str, Any] = value
        if type(tagged) is not dict or tagged.keys() != {"type", "value"}:
            raise expected(rule, value)
        label = tagged["type"]
        member = by_label.get(label) if type(label) is str else None
        if member is None:
            raise expected(rule, value)
        try:
            return member.decode(tagged["value"])
        except Mismatch as mismatch:
            mismatch.under(".value")
            raise

    return _united(members, encode, decode, frozenset({dict}))


def _united(
    members: Sequence[Coder],
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    json: frozenset[type[Any]],
) -> Coder:
    label = " | ".join(member.label for member in members)
    python = frozenset(each for member in members for each in member.python)
    return Coder(label, encode, decode, python, json)


def _rule(members: Sequence[Coder]) -> str:
    return f"one of {', '.join(member.label for member in members)}"


def _chooser(members: Sequence[Coder]) -> Callable[[Any], tuple[str, Any]]:
    """Make the function that picks a value's member and encodes it.

    A member for exactly the value's type decides alone, and its complaint stands. Otherwise the
    first that takes the value, in the order of their names.
    """
    rule = _rule(members)

    def choose(value: Any) -> tuple[str, Any]:
        exact = [member for member in members if type(value) in member.python]
        if len(exact) == 1:
            return exact[0].label, exact[0].encode(value)
        for member in exact or members:
            try:
                return member.label, member.encode(value)
            except Mismatch:
                continue
        raise expected(rule, value)

    return choose
