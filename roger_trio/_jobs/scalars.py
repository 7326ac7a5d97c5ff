"""JSON forms of single values. Strict: nothing is coerced, in either direction.

Every function here takes a value and returns its other form, or raises a mismatch.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

import attrs

from .mismatch import expected

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1

EXACT_SECONDS: Final = 2**33
"""Below this, 272 years, a float of seconds is exact to the microsecond."""

_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME: Final = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@attrs.frozen
class Coder:
    """The two directions between the values of one annotation and JSON."""

    label: str
    """The annotation as text: the tag in a tagged union."""
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    python: frozenset[type[Any]]
    """The exact types of its values."""
    json: frozenset[type[Any]] | None
    """The Python types orjson gives for its JSON form; None: any of them."""


def text(value: Any) -> str:
    """Check a text; the same in both directions."""
    if type(value) is not str:
        if not isinstance(value, str):
            raise expected("text", value)
        value = str.__str__(value)  # a member of a str enum, or another subclass
    checked: str = value
    if not checked.isascii():
        try:
            checked.encode()
        except UnicodeEncodeError:
            raise expected("text without lone surrogates", value) from None
    return checked


def integer(value: Any) -> int:
    """Check an integer; the same in both directions. True and 3.0 are not integers."""
    if type(value) is not int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise expected("an integer", value)
        value = int(value)
    checked: int = value
    if not MIN_INT <= checked <= MAX_INT:
        raise expected("an integer of 64 bits (-2**63 to 2**64 - 1)", value)
    return checked


def number(value: Any) -> float:
    """Check a float; the same in both directions. An int is fine and becomes a float."""
    if type(value) is not float:
        if not isinstance(value, (float, int)) or isinstance(value, bool):
            raise expected("a number", value)
        try:
            value = float(value)
        except OverflowError:
            raise expected("a number in the range of a float", value) from None
    checked: float = value
    if not math.isfinite(checked):
        raise expected("a finite number", value)
    return checked


def boolean(value: Any) -> bool:
    """Check a bool; the same in both directions."""
    if value is not True and value is not False:
        raise expected("True or False", value)
    return value


def nothing(value: Any) -> None:
    """Check None; the same in both directions."""
    if value is not None:
        raise expected("None", value)


# Texts with a meaning


def _encode_bytes(value: Any) -> str:
    if not isinstance(value, bytes):
        raise expected("bytes", value)
    return base64.b64encode(value).decode("ascii")


def _decode_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(text(value), validate=True)
    except ValueError:
        raise expected("bytes as base64", value) from None


def _encode_datetime(value: Any) -> str:
    offset = value.utcoffset() if isinstance(value, datetime) else None
    if offset is None:
        raise expected("a datetime with a time zone", value)
    if offset % timedelta(minutes=1):  # RFC 3339 knows no seconds in an offset
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise expected("a datetime that exists in UTC", value) from None
    return str(value.isoformat())


def _parse_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text.upper())  # Python knows no lower-case z


def _encode_date(value: Any) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise expected("a date (not a datetime)", value)
    return value.isoformat()


def _encode_time(value: Any) -> str:
    if not isinstance(value, time) or value.tzinfo is not None:
        raise expected("a time without a time zone", value)
    return value.isoformat()


def _encode_decimal(value: Any) -> str:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise expected("a finite Decimal", value)
    return Decimal.__str__(value)


def _encode_uuid(value: Any) -> str:
    if not isinstance(value, UUID):
        raise expected("a UUID", value)
    return str(value)


def _parser(rule: str, pattern: re.Pattern[str], parse: Callable[[str], Any]) -> Any:
    """Make a decoder for texts that match ``pattern``."""

    def decode(value: Any) -> Any:
        if type(value) is not str or not pattern.fullmatch(value):
            raise expected(rule, value)
        try:
            return parse(value)
        except (ValueError, InvalidOperation):
            raise expected(rule, value) from None

    return decode


# A length of time


def _encode_timedelta(value: Any) -> float:
    if not isinstance(value, timedelta):
        raise expected("a timedelta", value)
    seconds = value.total_seconds()
    # Whole seconds are exact; microseconds are as long as a float of this size has room for them.
    if value.microseconds and abs(seconds) >= EXACT_SECONDS:
        raise expected(f"a timedelta within {EXACT_SECONDS} s or without microseconds", value)
    return seconds


def _decode_timedelta(value: Any) -> timedelta:
    seconds = number(value)
    try:
        span = timedelta(seconds=seconds)
    except OverflowError:
        raise expected("seconds in the range of a timedelta", value) from None
    _encode_timedelta(span)  # Such as could not be written again is not read.
    return span


def _scalar(kind: type, encode: Callable[[Any], Any], decode: Any, *json: type[Any]) -> Coder:
    return Coder(kind.__name__, encode, decode, frozenset({kind}), frozenset(json))


SCALARS: Final[dict[Any, Coder]] = {
    str: _scalar(str, text, text, str),
    int: _scalar(int, integer, integer, int),
    float: _scalar(float, number, number, float, int),
    bool: _scalar(bool, boolean, boolean, bool),
    type(None): _scalar(type(None), nothing, nothing, type(None)),
    bytes: _scalar(bytes, _encode_bytes, _decode_bytes, str),
    datetime: _scalar(
        datetime,
        _encode_datetime,
        _parser("a date and time with an offset (RFC 3339)", _RFC_3339, _parse_datetime),
        str,
    ),
    date: _scalar(
        date, _encode_date, _parser("a date (YYYY-MM-DD)", _DATE, date.fromisoformat), str
    ),
    time: _scalar(time, _encode_time, _parser("a time (HH:MM:SS)", _TIME, time.fromisoformat), str),
    timedelta: _scalar(timedelta, _encode_timedelta, _decode_timedelta, float, int),
    Decimal: _scalar(
        Decimal, _encode_decimal, _parser("a decimal number as text", _DECIMAL, Decimal), str
    ),
    UUID: _scalar(UUID, _encode_uuid, _parser("a UUID", _UUID, UUID), str),
}
"""The coder of each single-value type."""
