"""JSON forms of classes with fields: jobs themselves, attrs classes, dataclasses, TypedDicts."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, NotRequired, Required, cast, get_origin

import attrs
from cattrs import Converter
from cattrs.gen import (
    make_dict_structure_fn_from_attrs,  # pyright: ignore[reportUnknownVariableType]  # of cattrs
    make_dict_unstructure_fn_from_attrs,  # pyright: ignore[reportUnknownVariableType]
    override,
)

from .mismatch import Mismatch, Unsupported, expected, short_repr
from .scalars import Coder

_CONVERTER: Final = Converter(detailed_validation=False)
"""Private, and only asked for compiled functions: every field brings its own strict hooks."""


@attrs.frozen(kw_only=True)
class Field:
    """One field of a class."""

    attribute: str
    """Its name on instances."""
    name: str
    """Its name in the constructor, and in JSON."""
    required: bool
    annotation: Any


class Record:
    """The fields of one class, compiled to a function per direction by cattrs.

    The functions are compiled after the record exists, as a field may lead back to the class.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self._is_dict = typing.is_typeddict(cls)
        self._names: frozenset[str] = frozenset()
        self._required: frozenset[str] = frozenset()
        self._dump: Callable[[Any], dict[str, Any]]
        self._load: Callable[[Any], Any]

    def coder(self) -> Coder:
        """Return the coder; it works once `compile` was called."""
        python = frozenset({dict if self._is_dict else self.cls})
        return Coder(self.cls.__name__, self.encode, self.decode, python, frozenset({dict}))

    def compile(self, coder_for: Callable[[Any], Coder]) -> None:
        """Find the fields and compile the two functions.

        Args:
            coder_for: Gives the coder of a field's annotation.

        Raises:
            Unsupported: A field has none.
        """
        fields = _fields(self.cls)
        self._names = frozenset(field.name for field in fields)
        self._required = frozenset(field.name for field in fields if field.required)
        hooked: list[tuple[Field, Coder]] = []
        for field in fields:
            try:
                hooked.append((field, coder_for(field.annotation)))
            except Unsupported as unsupported:
                unsupported.under(f".{field.name}")
                raise
        if self._is_dict:
            self._dump, self._load = _compile_dict(hooked)
        else:
            self._dump, self._load = _compile_class(self.cls, hooked)

    def encode(self, value: Any) -> dict[str, Any]:
        """Turn an instance into a JSON object. A subclass is refused: its own fields would go."""
        if type(value) is not self.cls:
            mapping: dict[Any, Any] = value
            if not self._is_dict or not isinstance(mapping, dict):
                raise expected(f"a {self.cls.__name__}", value)
            self._check_keys(mapping)
        return self._dump(value)

    def decode(self, value: Any) -> Any:
        """Turn a JSON object into an instance."""
        fields: dict[Any, Any] = value
        if type(fields) is not dict:
            raise expected("an object", value)
        if fields.keys() != self._names:
            self._check_keys(fields)
        try:
            return self._load(fields)
        except Mismatch:
            raise
        except Exception as error:  # a validator or converter of the class
            raise Mismatch(f"was refused by {self.cls.__name__}: {error}") from error

    def _check_keys(self, value: dict[Any, Any]) -> None:
        """Complain about missing and unknown fields; fields with a default may be missing."""
        for name in sorted(self._required - value.keys()):
            raise Mismatch(f"the field {name!r} is missing")
        for name in value.keys() - self._names:
            fields = ", ".join(sorted(self._names)) or "none"
            raise Mismatch(f"the field {short_repr(name)} is unknown; the fields are: {fields}")


Hooked = Sequence[tuple[Field, Coder]]
Functions = tuple[Callable[[Any], dict[str, Any]], Callable[[Any], Any]]


def _compile_class(cls: type[Any], hooked: Hooked) -> Functions:
    """Let cattrs write the functions of an attrs class or a dataclass."""
    shadow = attrs.make_class(
        cls.__name__,
        {
            field.attribute: attrs.field(
                type=_hooked_type(field, coder),
                # cattrs asks only whether there is a default: the class itself fills it in.
                default=attrs.NOTHING if field.required else None,
                alias=field.name,
                kw_only=True,
            )
            for field, coder in hooked
        },
    )
    fields = list(attrs.fields(shadow))
    dump = make_dict_unstructure_fn_from_attrs(fields, cls, _CONVERTER)
    load = make_dict_structure_fn_from_attrs(fields, cls, _CONVERTER)
    return dump, cast("Callable[[Any], Any]", load)


def _hooked_type(field: Field, coder: Coder) -> Any:
    """Write the annotation by which cattrs learns a field's key and its hooks."""
    hooks = override(
        rename=field.name,
        struct_hook=_located(f".{field.name}", coder.decode),
        unstruct_hook=_located(f".{field.name}", coder.encode),
    )
    return Annotated[Any, hooks]


def _compile_dict(hooked: Hooked) -> Functions:
    """Write the functions of a TypedDict, whose keys may be absent."""
    encoders = {field.name: _located(f".{field.name}", coder.encode) for field, coder in hooked}
    decoders = {field.name: _located(f".{field.name}", coder.decode) for field, coder in hooked}

    def dump(value: Any) -> dict[str, Any]:
        return {name: encoders[name](item) for name, item in value.items()}

    def load(value: Any) -> dict[str, Any]:
        return {name: decoders[name](item) for name, item in value.items()}

    return dump, load


def _located(step: str, convert: Callable[[Any], Any]) -> Callable[..., Any]:
    """Tell a mismatch the field it happened in. cattrs passes the type as a second argument."""

    def hook(value: Any, _: Any = None) -> Any:
        try:
            return convert(value)
        except Mismatch as mismatch:
            mismatch.under(step)
            raise

    return hook


# Reading a class


def is_record(annotation: Any) -> bool:
    """Tell whether the annotation is a class whose fields we can read."""
    readers: tuple[Callable[[Any], bool], ...] = (
        attrs.has,
        dataclasses.is_dataclass,
        typing.is_typeddict,
    )
    return isinstance(annotation, type) and any(reads(annotation) for reads in readers)


def _fields(cls: Any) -> list[Field]:
    """List the fields that the constructor takes, with their annotations resolved."""
    hints = _hints(cls)
    if typing.is_typeddict(cls):
        return [_key(cls, name, hint) for name, hint in hints.items()]
    if attrs.has(cls):
        return [
            Field(
                attribute=a.name,
                name=a.alias,
                required=a.default is attrs.NOTHING,
                annotation=hints.get(a.name, Any if a.type is None else a.type),
            )
            for a in attrs.fields(cls)
            if a.init
        ]
    return [
        Field(
            attribute=f.name,
            name=f.name,
            required=f.default is f.default_factory is dataclasses.MISSING,
            annotation=hints[f.name],
        )
        for f in dataclasses.fields(cls)
        if f.init
    ]


def _key(cls: Any, name: str, hint: Any) -> Field:
    """Read a key of a TypedDict; ``__required_keys__`` knows nothing of annotations in quotes."""
    required = name in cls.__required_keys__
    if get_origin(hint) in (Required, NotRequired):
        required = get_origin(hint) is Required
        (hint,) = typing.get_args(hint)
    return Field(attribute=name, name=name, required=required, annotation=hint)


def _hints(cls: type) -> dict[str, Any]:
    """Resolve the annotations of a class, or name the one that cannot be.

    They are resolved late, at first use: under ``from __future__ import annotations`` they are
    texts, and may name things that are defined below the class.
    """
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # evaluating annotations can raise anything
        for base in reversed(cls.__mro__):
            _find_unresolvable(base)
        raise Unsupported(f"its annotations cannot be resolved: {error}") from error


def _find_unresolvable(base: type) -> None:
    """Raise `Unsupported` at the field whose annotation cannot be resolved."""
    scope = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
    for name, annotation in vars(base).get("__annotations__", {}).items():
        alone = type("Alone", (), {"__annotations__": {name: annotation}})
        try:
            typing.get_type_hints(alone, globalns=dict(scope), localns=dict(vars(base)))
        except Exception as error:  # evaluating annotations can raise anything
            unsupported = Unsupported(f"the annotation {annotation!r} cannot be resolved: {error}")
            unsupported.under(f".{name}")
            raise unsupported from error
