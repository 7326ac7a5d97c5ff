"""The rules of single values: each check names the key, the rule and the value it met.

Every check takes a value of any type, returns it with the type it turned out to have, and raises
`ConfigError` otherwise. Nothing here repeats a secret: a URL inside a shown value is censored.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, cast

import attrs

from .._errors import ConfigError

MAX_WORKERS = 65_535
"""The most workers of one queue on one node: AMQP keeps a prefetch count in 16 bits."""

MAX_COUNT = 2**31 - 1
"""The largest count accepted where no narrower limit applies."""

MAX_DELAY = float(2**28 - 1)
"""The longest delay in seconds (8.5 years): brokers refuse message lifetimes of 10 years."""

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{0,32}")
_NAME_BYTES = 120
_SHOWN = 120


def censor(text: str) -> str:
    """Hide what may be a password in a URL, well-formed or not.

    Everything between the scheme and the last ``@`` goes, and so does the query.

    >>> censor("amqp://guest:secret@localhost:5672/")
    'amqp://***@localhost:5672/'
    """
    text = re.sub(r"\A([A-Za-z][A-Za-z0-9+.-]*:(?://)?)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"\?.*", "?***", text, flags=re.DOTALL)


def shown(value: object) -> str:
    """Give the text of a value for an error message: short, and without a URL's password."""
    try:
        text = repr(censor(value) if isinstance(value, str) and "://" in value else value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def fail(key: str, rule: str, value: object) -> NoReturn:
    """Raise the `ConfigError` for a value that may be shown."""
    raise ConfigError(f"{key}: expected {rule}, got {shown(value)}")


def fail_hidden(key: str, rule: str, value: object) -> NoReturn:
    """Raise the `ConfigError` for a value that may hold a secret: only its type is named."""
    raise ConfigError(f"{key}: expected {rule}, got a value of type {type(value).__name__}")


def unknown(key: str, known: Iterable[str], *, under: str = "") -> NoReturn:
    """Raise the `ConfigError` for a key that does not exist, with the nearest one that does."""
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    name = key if key.isidentifier() else shown(key)
    raise ConfigError(f"{under}{name}: unknown key{hint} (known keys: {', '.join(names)})")


def as_mapping(value: object, *, key: str, rule: str) -> Mapping[Any, object]:
    """Check that the value is a mapping; a wrong one is not shown, only its type."""
    if not isinstance(value, Mapping):
        fail_hidden(key, rule, value)
    return cast("Mapping[Any, object]", value)


def check_whole(value: object, low: int, high: int, *, key: str, also: str = "") -> int:
    """Check a whole number from ``low`` to ``high``; a bool is not one.

    ``also`` puts in front of the rule what the caller accepts besides.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(key, f"{also}a whole number from {low} to {high}", value)
    return value


def check_seconds(
    value: object, *, key: str, above: float | None = None, most: float | None = None
) -> float:
    """Check a finite number of seconds, at least 0.

    Args:
        value: What was given; a bool is not a number.
        key: The name for the error.
        above: The number must be greater than this, when given.
        most: The number must not be greater than this, when given.
    """
    rule = "a finite number of seconds, " + ("at least 0" if above is None else f"above {above:g}")
    rule += "" if most is None else f" and at most {most:.0f}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail(key, rule, value)
    # Written so that nan fails too, and a whole number beyond every float.
    low_enough = value <= (sys.float_info.max if most is None else most)
    if not (value >= 0 and low_enough and (above is None or value > above)):
        fail(key, rule, value)
    return value


def is_text(value: object, most_bytes: int) -> bool:
    """Tell whether the value is text that UTF-8 can carry in this many bytes, without NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return len(value.encode()) <= most_bytes
    except UnicodeEncodeError:  # a lone surrogate
        return False


def check_name(value: object, *, key: str) -> str:
    """Check a name of printable text, 1 to 120 bytes in UTF-8, not only spaces."""
    rule = f"printable text of 1 to {_NAME_BYTES} bytes in UTF-8, not only spaces"
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        fail(key, rule, value)
    if len(value.encode()) > _NAME_BYTES:
        fail(key, rule, value)
    return value


def check_partition_name(name: object, *, key: str = "partition") -> str:
    """Check the name of a partition.

    Args:
        name: What was given.
        key: How the error calls it.

    Returns:
        The name.

    Raises:
        ConfigError: It is not printable text of 1 to 120 bytes in UTF-8, or only spaces.
    """
    return check_name(name, key=key)


def check_queue_name(name: object, *, key: str = "queue") -> str:
    """Check the name of a queue.

    Args:
        name: What was given.
        key: How the error calls it.

    Returns:
        The name.

    Raises:
        ConfigError: It is not 1 to 64 letters (a-z, A-Z), digits and ``_``.
    """
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        fail(key, "a queue name of 1 to 64 letters (a-z, A-Z), digits and _", name)
    return name


def check_max_workers(value: object, *, key: str = "max_workers") -> int:
    """Check how many jobs of a queue may run at once on a node.

    Args:
        value: What was given; a bool is not a number.
        key: How the error calls it.

    Returns:
        The number.

    Raises:
        ConfigError: It is not a whole number from 1 to 65535.
    """
    return check_whole(value, 1, MAX_WORKERS, key=key)


def check_queues(queues: object, *, key: str = "queues") -> Mapping[str, int]:
    """Check the queues of one partition: names, and the jobs of each that may run at once.

    Args:
        queues: A mapping of queue names to ``max_workers``; it may be empty.
        key: How the error calls the mapping.

    Returns:
        A read-only copy in the same order.

    Raises:
        ConfigError: It is not a mapping, or a name or number in it breaks its rule.
    """
    given = as_mapping(queues, key=key, rule="a mapping of queue names to numbers of workers")
    checked = {
        check_queue_name(name, key=key): check_max_workers(number, key=f"{key}.{name}")
        for name, number in given.items()
    }
    return MappingProxyType(checked)


def check_partitions(
    partitions: object, *, key: str = "partitions"
) -> Mapping[str, Mapping[str, int]]:
    """Check a mapping of partition names to their queues; return a read-only copy."""
    given = as_mapping(partitions, key=key, rule="a mapping of partition names to their queues")
    checked = {
        check_partition_name(name, key=key): check_queues(queues, key=f"{key}.{name}")
        for name, queues in given.items()
    }
    return MappingProxyType(checked)


def check_retry_levels(levels: object, *, key: str = "retry_levels") -> tuple[float, ...]:
    """Check the delays between the attempts of a retryable job.

    Args:
        levels: A list or tuple of seconds, each from 0 to `MAX_DELAY`; empty means that the first
            failure buries.
        key: How the error calls it.

    Returns:
        The delays as floats.

    Raises:
        ConfigError: It is not a list or tuple, or a number in it is out of range.
    """
    if not isinstance(levels, Sequence) or isinstance(levels, str | bytes | bytearray):
        fail(key, "a list or tuple of seconds", levels)
    return tuple(
        float(check_seconds(level, key=f"{key}[{index}]", most=MAX_DELAY))
        for index, level in enumerate(cast("Sequence[object]", levels))
    )


def check_prefix(value: object, *, key: str = "prefix") -> str:
    """Check what is put verbatim in front of every name on the broker."""
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        fail(key, "at most 32 letters (a-z, A-Z), digits and _ . : -", value)
    return value


Validator = Callable[[object, "attrs.Attribute[Any]", object], None]


def whole(low: int, high: int, *, under: str = "") -> Validator:
    """Make an attrs validator of `check_whole`; the key is the field's name after ``under``."""

    def validate(_: object, field: attrs.Attribute[Any], value: object) -> None:
        check_whole(value, low, high, key=under + field.name)

    return validate


def seconds(*, above: float | None = None, under: str = "") -> Validator:
    """Make an attrs validator of `check_seconds`; the key is the field's name after ``under``."""

    def validate(_: object, field: attrs.Attribute[Any], value: object) -> None:
        check_seconds(value, key=under + field.name, above=above)

    return validate


def by(check: Callable[..., object]) -> Validator:
    """Make an attrs validator of a check that takes ``(value, *, key)``."""

    def validate(_: object, field: attrs.Attribute[Any], value: object) -> None:
        check(value, key=field.name)

    return validate
