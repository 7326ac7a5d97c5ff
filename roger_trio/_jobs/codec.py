"""Arguments to JSON values and back, by the annotations of the job's fields.

==========================================  ==================================================
annotation                                  JSON
==========================================  ==================================================
``str`` ``bool`` ``None``                   the same
``int``                                     number without a point, -2**63 to 2**64 - 1
``float``                                   number; an int is taken for a float
``list[T]`` ``tuple[T, ...]`` ``set[T]``    array (``frozenset``, ``Sequence``, ``Set`` too)
``tuple[A, B]``                             array of that length
``dict[K, V]`` ``Mapping[K, V]``            object; keys that are text in JSON, and ``int``
attrs classes, dataclasses, ``TypedDict``   object
``datetime``                                RFC 3339 text; a time zone is required
``date`` ``time``                           ``2024-12-31``, ``23:59:59.5``; no time zone
``timedelta``                               seconds
``Decimal`` ``UUID``                        text
``bytes``                                   base64 text
``Enum`` ``Literal``                        the member's value; the value
``A | None``, unions                        as `choices.union` says
``Any``, no annotation                      any JSON value, not converted
==========================================  ==================================================

Nothing is coerced: "5" is no int, True is no int, 3.0 is no int, in both directions. What fits its
annotation comes back equal to what was sent.
"""

from __future__ import annotations

import collections.abc
import enum
import threading
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from .._errors import ConfigError, InvalidJob
from . import choices, containers
from .containers import json_value
from .job import Job
from .mismatch import Mismatch, Unsupported
from .records import Record, is_record
from .scalars import SCALARS, Coder

J = TypeVar("J", bound=Job)

_ANY: Final = Coder("Any", json_value, json_value, frozenset(), None)
_UNIONS: Final = (Union, types.UnionType)

_ARRAYS: Final[dict[Any, tuple[tuple[type[Any], ...], Any, str]]] = {
    list: ((list,), list, "a list"),
    collections.abc.MutableSequence: ((list,), list, "a list"),
    collections.abc.Sequence: ((list, tuple), tuple, "a list or a tuple"),
    set: ((set,), set, "a set"),
    collections.abc.MutableSet: ((set,), set, "a set"),
    frozenset: ((frozenset,), frozenset, "a frozenset"),
    collections.abc.Set: ((set, frozenset), frozenset, "a set or a frozenset"),
}
_OBJECTS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

_records: dict[type, Record] = {}
_compiling: Final = threading.RLock()


def encode_args(job: Job) -> dict[str, Any]:
    """Turn a job's arguments into JSON values.

    Args:
        job: The job.

    Returns:
        A new dict, argument name to JSON value.

    Raises:
        InvalidJob: A value does not fit its annotation; the message names job, field, rule and
            value.
        ConfigError: An annotation has no JSON form, or cannot be resolved.
    """
    cls = type(job)
    record = _records.get(cls) or _compile(cls)
    try:
        return record.encode(job)
    except (Mismatch, RecursionError) as error:
        raise _invalid(cls, error) from error.__cause__


def decode_args(job_type: type[J], args: Mapping[str, Any]) -> J:
    """Make a job of JSON values.

    Args:
        job_type: The job's class.
        args: Argument name to JSON value; arguments with a default may be missing.

    Returns:
        The job.

    Raises:
        InvalidJob: An argument is missing, unknown or does not fit its annotation, or the class
            refuses it; the message names job, field, rule and value.
        ConfigError: An annotation has no JSON form, or cannot be resolved.
    """
    record = _records.get(job_type) or _compile(job_type)
    try:
        job: J = record.decode(args if type(args) is dict else dict(args))
    except (Mismatch, RecursionError) as error:
        raise _invalid(job_type, error) from error.__cause__
    return job


def _invalid(job_type: type[Job], error: Exception) -> InvalidJob:
    """Name the job in a complaint."""
    complaint = str(error) if isinstance(error, Mismatch) else "its arguments nest too deeply"
    return InvalidJob(f"job {job_type.options.name}: {complaint}")


def _compile(job_type: type[Job]) -> Record:
    """Compile a job class once, with every class its fields lead to."""
    name = job_type.options.name
    if job_type.perform is Job.perform:
        raise InvalidJob(f"job {name}: expected a job with a perform, got an abstract base")
    with _compiling:
        known = set(_records)
        try:
            _record(job_type)
        except Unsupported as unsupported:
            for cls in _records.keys() - known:  # half-made records must not be met again
                del _records[cls]
            raise ConfigError(f"job {name}: {unsupported}") from unsupported.__cause__
        return _records[job_type]


def _record(cls: Any) -> Record:
    """Return the compiled record of a class, or the one being compiled further up."""
    record = _records.get(cls)
    if record is None:
        record = _records[cls] = Record(cls)
        record.compile(_coder)
    return record


def _coder(annotation: Any) -> Coder:
    """Compile an annotation."""
    annotation = _bare(annotation)
    if annotation is None:
        return SCALARS[type(None)]
    if annotation is Any or annotation is object:
        return _ANY
    scalar = SCALARS.get(annotation) if isinstance(annotation, type) else None
    if scalar is not None:
        return scalar
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return choices.enumeration(annotation)
    if is_record(annotation):
        return _record(annotation).coder()
    return _generic(annotation, get_origin(annotation) or annotation, get_args(annotation))


def _generic(annotation: Any, origin: Any, args: tuple[Any, ...]) -> Coder:
    """Compile an annotation with arguments: a collection, a literal or a union."""
    if origin in _UNIONS:
        return choices.union([_coder(member) for member in _flat(args)])
    if origin is Literal:
        return choices.literal(f"Literal{list(args)!r}", args)
    if origin is tuple:
        return _tuple((Any, ...) if annotation in (tuple, typing.Tuple) else args)  # noqa: UP006
    if origin in _ARRAYS:
        item = _coder(args[0] if args else Any)
        return containers.array(f"{origin.__name__}[{item.label}]", item, *_ARRAYS[origin])
    if origin in _OBJECTS:
        key, value = map(_coder, args or (str, Any))
        return containers.mapping(f"dict[{key.label}, {value.label}]", key, value)
    shown = annotation.__name__ if isinstance(annotation, type) else annotation
    raise Unsupported(f"the annotation {shown} has no JSON form; see the table of supported types")


def _tuple(args: tuple[Any, ...]) -> Coder:
    """Compile a tuple: of any length, or with a type for each position."""
    if args and args[-1] is Ellipsis:
        item = _coder(args[0])
        return containers.array(f"tuple[{item.label}, ...]", item, (tuple,), tuple, "a tuple")
    items = tuple(_coder(arg) for arg in args)
    return containers.fixed_tuple(f"tuple[{', '.join(item.label for item in items)}]", items)


def _flat(members: tuple[Any, ...]) -> list[Any]:
    """Open unions that hide in a union behind a name."""
    found: list[Any] = []
    for member in map(_bare, members):
        nested = get_args(member) if get_origin(member) in _UNIONS else (member,)
        found.extend(_flat(nested) if len(nested) > 1 else nested)
    return found


def _bare(annotation: Any) -> Any:
    """Take off what has no meaning for JSON: NewType, Annotated, Final, names of types."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) in (Annotated, typing.Final):
            annotation = get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":  # `type Name = ...` of Python 3.12
            annotation = annotation.__value__
        else:
            return annotation
