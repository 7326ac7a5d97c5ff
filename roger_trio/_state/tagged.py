"""Values as lists of JSON values: the name of their class, then their fields.

Made once per class from its annotations, as commands and changes are on the way of every job that
has a key. Reading is strict: exactly the known classes, the number of fields and their types.
"""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import attrs

from .._jobs.mismatch import short_repr

V = TypeVar("V")
Fields = list[Any] | tuple[Any, ...]
Pack = Callable[[Any], list[Any]]
Unpack = Callable[[Fields], Any]
Convert = Callable[[Any], Any]

_SCALARS: Final = {str: (str,), int: (int,), bool: (bool,), float: (float, int)}


class Mismatch(Exception):
    """A value is not the list form of any known class.

    Args:
        reason: Why, in words for a person.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tagged(Generic[V]):
    """Writes values of some attrs classes as lists, and reads them.

    Args:
        classes: The classes; each is tagged with its name. Their fields are ``str``, ``int``,
            ``bool``, ``float``, one of these or None, tuples of any length of ``str``, of pairs of
            ``str``, or of another such class.
    """

    def __init__(self, classes: Iterable[type[V]]) -> None:
        classes = tuple(classes)
        self._packs: dict[type[V], Pack] = {cls: _packer(cls) for cls in classes}
        self._unpacks: dict[str, Unpack] = {cls.__name__: _unpacker(cls) for cls in classes}

    def pack(self, value: V) -> list[Any]:
        """Write a value.

        Args:
            value: An instance of one of the classes.

        Returns:
            Its tag and its fields: JSON values, with tuples for arrays.
        """
        return self._packs[type(value)](value)

    def unpack(self, packed: object) -> V:
        """Read a value.

        Args:
            packed: Any JSON value.

        Returns:
            The value.

        Raises:
            Mismatch: It is not the list form of one of the classes.
        """
        if type(packed) is not list or not packed or type(packed[0]) is not str:
            raise Mismatch(f"not a list that begins with a tag: {short_repr(packed)}")
        tag, *fields = packed
        unpack = self._unpacks.get(tag)
        if unpack is None:
            raise Mismatch(f"unknown tag {short_repr(tag)}")
        value: V = unpack(fields)
        return value


def _packer(cls: type[Any]) -> Pack:
    """How values of a class are written."""
    tag = cls.__name__
    names = [field.name for field in attrs.fields(cls)]
    inner = {
        index: _fields_of(element)
        for index, hint in enumerate(_hints(cls))
        if (element := _element(hint)) is not None
    }
    get = _getter(names)

    def pack(value: Any) -> list[Any]:
        return [tag, *get(value)]

    def pack_nested(value: Any) -> list[Any]:
        fields = [tag, *get(value)]
        for index, get_inner in inner.items():
            fields[index + 1] = [get_inner(element) for element in fields[index + 1]]
        return fields

    return pack_nested if inner else pack


def _unpacker(cls: type[Any]) -> Unpack:
    """How values of a class are read from their fields."""
    hints = _hints(cls)
    kinds: list[tuple[type, ...]] = []
    converts: list[tuple[int, Convert]] = []
    for index, hint in enumerate(hints):
        accepted, convert = _kind(hint)
        kinds.append(accepted)
        if convert is not None:
            converts.append((index, convert))
    signatures = frozenset(itertools.product(*kinds))

    def unpack(fields: Fields) -> Any:
        if tuple(map(type, fields)) not in signatures:
            raise Mismatch(f"{cls.__name__} cannot have the fields {short_repr(list(fields))}")
        if converts:
            fields = list(fields)
            for index, convert in converts:
                fields[index] = convert(fields[index])
        return cls(*fields)

    return unpack


def _kind(hint: Any) -> tuple[tuple[type, ...], Convert | None]:
    """The JSON types a field may have, and what makes its value from one of them."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        accepted, convert = _kind(inner)
        if convert is None:
            return (*accepted, types.NoneType), None
        return (*accepted, types.NoneType), lambda it: None if it is None else convert(it)
    if typing.get_origin(hint) is tuple:
        return (list,), _array(typing.get_args(hint)[0])
    return _SCALARS[hint], float if hint is float else None


def _array(element: Any) -> Convert:
    """What makes a tuple of some elements from a JSON array."""
    if element is str:
        return _texts
    if typing.get_origin(element) is tuple:
        return _pairs
    read = _unpacker(element)
    return lambda values: tuple([read(_list(value)) for value in values])


def _texts(values: Fields) -> tuple[str, ...]:
    if not all(type(value) is str for value in values):
        raise Mismatch(f"not a list of texts: {short_repr(list(values))}")
    return tuple(values)


def _pairs(values: Fields) -> tuple[tuple[str, str], ...]:
    pairs = [_texts(_list(value)) for value in values]
    if not all(len(pair) == 2 for pair in pairs):
        raise Mismatch(f"not a list of pairs: {short_repr(list(values))}")
    return tuple([(first, second) for first, second in pairs])


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise Mismatch(f"not a list: {short_repr(value)}")
    return value


def _hints(cls: type[Any]) -> list[Any]:
    """The annotations of a class's fields, in order."""
    hints = typing.get_type_hints(cls)
    return [hints[field.name] for field in attrs.fields(cls)]


def _element(hint: Any) -> type[Any] | None:
    """The attrs class that a field is a tuple of, if it is."""
    if typing.get_origin(hint) is not tuple:
        return None
    element = typing.get_args(hint)[0]
    return element if attrs.has(element) else None


def _fields_of(cls: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    return _getter([field.name for field in attrs.fields(cls)])


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gets some attributes of a value as a tuple, also if it is none or one."""
    if not names:
        return lambda _value: ()
    if len(names) == 1:
        get = attrgetter(names[0])
        return lambda value: (get(value),)
    return attrgetter(*names)
