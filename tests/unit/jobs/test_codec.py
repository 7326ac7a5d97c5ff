"""Arguments to JSON values and back."""

from __future__ import annotations

import collections.abc
import math
import sys
import typing
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Optional, Union
from uuid import UUID

import attrs
import orjson
import pytest

from roger_trio._errors import ConfigError, InvalidJob
from roger_trio._jobs.codec import decode_args, encode_args
from roger_trio._jobs.job import Job

from .sample_types import (
    Address,
    Color,
    Level,
    Loose,
    Movie,
    Percent,
    Point,
    Point3,
    Rights,
    Shop,
    Tree,
    UserId,
    Word,
)

UNIQUE = UUID("12345678-1234-5678-1234-567812345678")
NOW = datetime(2024, 12, 31, 23, 59, 59, 500000, UTC)


def job_of(annotation: Any) -> type[Job]:
    """Make a job class with one argument, ``value``."""
    body = {"__annotations__": {"value": annotation}, "perform": perform, "__module__": __name__}
    return type("Sample", (Job,), body)


async def perform(self: Job) -> None:
    """Do nothing."""


def encode(annotation: Any, value: Any) -> Any:
    """Encode the argument of a job whose only field has this annotation."""
    return encode_args(job_of(annotation)(value))["value"]  # type: ignore[call-arg]


def decode(annotation: Any, value: Any) -> Any:
    """Decode the argument of a job whose only field has this annotation."""
    return decode_args(job_of(annotation), {"value": value}).value  # type: ignore[attr-defined]


CASES = [
    (str, "héllo", "héllo"),
    (str, Word.YES, "yes"),
    (int, 2**64 - 1, 2**64 - 1),
    (int, Level.HIGH, 2),
    (float, 1.5, 1.5),
    (float, 2, 2.0),
    (bool, True, True),
    (None, None, None),
    (Any, {"a": [1, None, {"b": 2.5}], "c": "d"}, {"a": [1, None, {"b": 2.5}], "c": "d"}),
    (object, [True], [True]),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1, 2], [1, 2]),
    (list[None], [None], [None]),
    (collections.abc.MutableSequence[int], [1], [1]),
    (Sequence[int], (1, 2), [1, 2]),
    (tuple, (1, "a"), [1, "a"]),
    (tuple[int, ...], (1, 2, 3), [1, 2, 3]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (tuple[()], (), []),
    (set[int], {3}, [3]),
    (collections.abc.MutableSet[int], {3}, [3]),
    (frozenset[str], frozenset({"a"}), ["a"]),
    (AbstractSet[str], frozenset({"a"}), ["a"]),
    (dict, {"a": 1}, {"a": 1}),
    (dict[str, int], OrderedDict(a=1), {"a": 1}),
    (dict[int, str], {-5: "a", 0: "b"}, {"-5": "a", "0": "b"}),
    (dict[UUID, int], {UNIQUE: 1}, {str(UNIQUE): 1}),
    (dict[Color, int], {Color.RED: 1}, {"red": 1}),
    (dict[date, int], {date(2024, 1, 2): 1}, {"2024-01-02": 1}),
    (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
    (datetime, NOW, "2024-12-31T23:59:59.500000+00:00"),
    (date, date(2024, 12, 31), "2024-12-31"),
    (time, time(23, 59, 59), "23:59:59"),
    (timedelta, timedelta(minutes=1, microseconds=1), 60.000001),
    (Decimal, Decimal("1.10"), "1.10"),
    (UUID, UNIQUE, "12345678-1234-5678-1234-567812345678"),
    (bytes, b"\x00\xff", "AP8="),
    (Color, Color.BLUE, "blue"),
    (Level, Level.LOW, 1),
    (Word, Word.NO, "no"),
    (Rights, Rights.READ | Rights.WRITE, 3),
    (Literal["a", 1, Color.RED] | None, Color.RED, "red"),
    (Literal["a", 1, Color.RED] | None, None, None),
    (Literal["a", None], None, None),  # noqa: PYI061  # None as a literal is allowed
    (dict[str, Literal["a", None]] | int, {"a": None}, {"a": None}),  # noqa: PYI061
    (Literal[1, True], True, True),
    (Address, Address("1", "Rome"), {"zip": "1", "city": "Rome"}),
    (
        Shop,
        Shop("x", [Address("1")], 5),
        {"name": "x", "addresses": [{"zip": "1", "city": "Paris"}], "secret": 5},
    ),
    (Point, Point(1, 2), {"x": 1, "y": 2.0}),
    (
        Tree,
        Tree(1, (Tree(2),)),
        {"value": 1, "children": [{"value": 2, "children": []}]},
    ),
    (Movie, {"title": "Alien"}, {"title": "Alien"}),
    (Movie, {"title": "Alien", "year": 1979}, {"title": "Alien", "year": 1979}),
    (UserId, 7, 7),
    (Annotated[int, "positive"], 7, 7),
    (Final[int], 7, 7),
    (int | None, None, None),
    (Optional[Address], Address("1"), {"zip": "1", "city": "Paris"}),  # noqa: UP045
    (Any | None, [1], [1]),
    (int | str, 5, 5),
    (Union[int, str, None], "5", "5"),  # noqa: UP007
    (int | float, 5, 5),
    (int | float, 5.0, 5.0),
    (float | str, 5, 5.0),
    (bool | int, True, True),
    (str | list[int] | Address, [1], [1]),
    (str | Address, Address("1"), {"zip": "1", "city": "Paris"}),
    (str | datetime, NOW, {"type": "datetime", "value": "2024-12-31T23:59:59.500000+00:00"}),
    (str | datetime | None, "a", {"type": "str", "value": "a"}),
    (str | datetime | None, None, None),
    (Address | Point, Point(1), {"type": "Point", "value": {"x": 1, "y": 0.5}}),
    (list[int] | list[str], ["a"], {"type": "list[str]", "value": ["a"]}),
    (int | timedelta, timedelta(seconds=5), {"type": "timedelta", "value": 5.0}),
    (str | Color, Color.RED, {"type": "Color", "value": "red"}),
    (Literal["auto"] | int, "auto", "auto"),
    (dict[str, int | None] | None, {"a": None}, {"a": None}),
]


@pytest.mark.parametrize(("annotation", "value", "json"), CASES)
def test_a_value_has_its_json_form_and_comes_back_equal(
    annotation: Any, value: Any, json: Any
) -> None:
    """Each supported annotation has one JSON form, which is read back to an equal value."""
    encoded = encode(annotation, value)

    assert orjson.loads(orjson.dumps(encoded)) == json
    assert type(encoded) is type(json)
    assert decode(annotation, encoded) == value


WRONG_VALUES = [
    (str, 5, "value: expected text, got 5"),
    (str, None, "value: expected text, got None"),
    (str, "\ud800", "value: expected text without lone surrogates, got '\\ud800'"),
    (int, "5", "value: expected an integer, got '5'"),
    (int, True, "value: expected an integer, got True"),
    (int, 3.0, "value: expected an integer, got 3.0"),
    (int, 2**64, "value: expected an integer of 64 bits (-2**63 to 2**64 - 1), got 1844674407"),
    (int, -(2**63) - 1, "value: expected an integer of 64 bits"),
    (float, math.nan, "value: expected a finite number, got nan"),
    (float, -math.inf, "value: expected a finite number, got -inf"),
    (float, 10**400, "value: expected a number in the range of a float, got 1000"),
    (float, True, "value: expected a number, got True"),
    (bool, 1, "value: expected True or False, got 1"),
    (None, 0, "value: expected None, got 0"),
    (Any, {"a": [1, {2}]}, "value['a'][1]: expected a JSON value (None, bool, int, float, str, "),
    (Any, {1: 2}, "value[1]: expected text, got 1"),
    (Any, (1,), "value: expected a JSON value"),
    (list[int], (1,), "value: expected a list, got (1,)"),
    (list[int], "12", "value: expected a list, got '12'"),
    (list[int], [1, "2"], "value[1]: expected an integer, got '2'"),
    (Sequence[int], "12", "value: expected a list or a tuple, got '12'"),
    (tuple[int, str], (1,), "value: expected 2 items, got (1,)"),
    (tuple[int, str], (1, 2), "value[1]: expected text, got 2"),
    (tuple[int, str], [1, "2"], "value: expected a tuple, got [1, '2']"),
    (set[int], [1], "value: expected a set, got [1]"),
    (dict[str, int], [("a", 1)], "value: expected a dict, got [('a', 1)]"),
    (dict[str, int], {"a": "b"}, "value['a']: expected an integer, got 'b'"),
    (dict[int, int], {"a": 1}, "value['a']: expected an integer, got 'a'"),
    (datetime, datetime(2024, 1, 1), "value: expected a datetime with a time zone"),  # noqa: DTZ001
    (datetime, "2024-01-01", "value: expected a datetime with a time zone, got '2024-01-01'"),
    (date, NOW, "value: expected a date (not a datetime), got datetime.datetime(2024"),
    (time, time(1, tzinfo=UTC), "value: expected a time without a time zone"),
    (timedelta, 5, "value: expected a timedelta, got 5"),
    (timedelta, timedelta.max, "value: expected a timedelta within 8589934592 s or without"),
    (Decimal, Decimal("NaN"), "value: expected a finite Decimal, got Decimal('NaN')"),
    (Decimal, 1.5, "value: expected a finite Decimal, got 1.5"),
    (UUID, str(UNIQUE), "value: expected a UUID, got '1234"),
    (bytes, "abc", "value: expected bytes, got 'abc'"),
    (Color, "red", "value: expected a Color, got 'red'"),
    (Literal["a", 1], True, "value: expected one of 'a', 1, got True"),
    (Literal["a", 1], [], "value: expected one of 'a', 1, got []"),
    (Address, {"zip": "1"}, "value: expected a Address, got {'zip': '1'}"),
    (Shop, Shop("x", [Address("1"), Address(2)]), "value.addresses[1].zip: expected text, got 2"),  # type: ignore[arg-type]
    (Movie, {"year": 1}, "value: the field 'title' is missing"),
    (Movie, {"title": "a", "by": 1}, "value: the field 'by' is unknown; the fields are: title, y"),
    (Movie, [], "value: expected a Movie, got []"),
    (int | str, 1.5, "value: expected one of int, str, got 1.5"),
    (list[int] | None, [None], "value[0]: expected an integer, got None"),
    (list[int] | str, ["a"], "value[0]: expected an integer, got 'a'"),
    (list[int] | list[str], [1.5], "value: expected one of list[int], list[str], got [1.5]"),
]


@pytest.mark.parametrize(("annotation", "value", "complaint"), WRONG_VALUES)
def test_a_value_that_does_not_fit_is_refused_by_name(
    annotation: Any, value: Any, complaint: str
) -> None:
    """A wrong value raises InvalidJob that names job, field, rule and value."""
    with pytest.raises(InvalidJob) as caught:
        encode(annotation, value)

    assert str(caught.value).startswith(f"job {__name__}:Sample: {complaint}")


WRONG_JSON = [
    (int, 3.0, "value: expected an integer, got 3.0"),
    (int, 1e30, "value: expected an integer, got 1e+30"),
    (str, 5, "value: expected text, got 5"),
    (list[int], {"0": 1}, "value: expected an array, got {'0': 1}"),
    (tuple[int, int], [1], "value: expected 2 items, got [1]"),
    (set, [[1]], "value: expected an array of hashable items, got [[1]]"),
    (dict[str, int], [], "value: expected an object, got []"),
    (dict[int, int], {"01": 1}, "value['01']: expected an integer as text, got '01'"),
    (dict[int, int], {"9" * 20: 1}, "value['99999999999999999999']: expected an integer of 64"),
    (dict[int, int], {"1" * 21: 1}, "value['111111111111111111111']: expected an integer as text"),
    (datetime, "2024-01-01T00:00:00", "value: expected a date and time with an offset (RFC 3339)"),
    (datetime, "2024-W01-1", "value: expected a date and time with an offset (RFC 3339)"),
    (datetime, "2024-13-01T00:00:00Z", "value: expected a date and time with an offset"),
    (date, "20240101", "value: expected a date (YYYY-MM-DD), got '20240101'"),
    (date, "2024-02-30", "value: expected a date (YYYY-MM-DD), got '2024-02-30'"),
    (time, "12:00", "value: expected a time (HH:MM:SS), got '12:00'"),
    (timedelta, "5", "value: expected a number, got '5'"),
    (timedelta, 29999999999999.5, "value: expected a timedelta within 8589934592 s or without"),
    (timedelta, 1e300, "value: expected seconds in the range of a timedelta, got 1e+300"),
    (Decimal, "1_0", "value: expected a decimal number as text, got '1_0'"),
    (Decimal, 1.5, "value: expected a decimal number as text, got 1.5"),
    (Decimal, "1e9999999999999999999999", "value: expected a decimal number as text"),
    (UUID, "{12345678-1234-5678-1234-567812345678}", "value: expected a UUID"),
    (bytes, "AP8", "value: expected bytes as base64, got 'AP8'"),
    (bytes, "é", "value: expected bytes as base64, got 'é'"),
    (Color, "green", "value: expected a value of the enum Color, got 'green'"),
    (Color, ["red"], "value: expected a value of the enum Color, got ['red']"),
    (Level, True, "value: expected a value of the enum Level, got True"),
    (Rights, 8, "value: expected a value of the enum Rights, got 8"),
    (Loose, 5, "value: expected a value of the enum Loose, got 5"),
    (Rights, "1", "value: expected a value of the enum Rights, got '1'"),
    (Address, [], "value: expected an object, got []"),
    (Shop, {"name": "x", "addresses": [{}]}, "value.addresses[0]: the field 'zip' is missing"),
    (Shop, {"name": "x", "addresses": [], "_secret": 1}, "value: the field '_secret' is unknown"),
    (Percent, {"value": 101}, "value: was refused by Percent: 'value' must be <= 100: 101"),
    (int | str, 1.5, "value: expected one of int, str, got 1.5"),
    (str | datetime, "a", "value: expected an object with the keys type (one of datetime, str) an"),
    (str | datetime, {"type": "int", "value": 1}, "value: expected an object with the keys type"),
    (str | datetime, {"type": [], "value": 1}, "value: expected an object with the keys type"),
    (str | datetime, {"type": "str", "value": 1}, "value.value: expected text, got 1"),
    (str | datetime, {"type": "str"}, "value: expected an object with the keys type"),
]


@pytest.mark.parametrize(("annotation", "json", "complaint"), WRONG_JSON)
def test_json_that_does_not_fit_is_refused_by_name(
    annotation: Any, json: Any, complaint: str
) -> None:
    """Wrong JSON from the wire raises InvalidJob that names job, field, rule and value."""
    with pytest.raises(InvalidJob) as caught:
        decode(annotation, json)

    assert str(caught.value).startswith(f"job {__name__}:Sample: {complaint}")


UNSUPPORTED = [
    (complex, "value: the annotation complex has no JSON form"),
    (list[Path], "value: the annotation Path has no JSON form"),
    (Point3, "value: the enum Point3 has the value (0, 0, 0)"),
    (Literal[b"a"], "value: the literal b'a' is not a JSON value"),
    (Literal[Word.YES, "yes"], "value: two values of Literal["),
    (dict[float, int], "value: dict keys of type float have no form as a JSON key"),
    (str | Any | int, "value: Any beside other types of a union makes them indistinguishable"),
    (collections.abc.Callable[[], int], "value: the annotation collections.abc.Callable[[], int]"),
    ("list[Missing]", "value: the annotation 'list[Missing]' cannot be resolved: name 'Missing'"),
]


@pytest.mark.parametrize(("annotation", "complaint"), UNSUPPORTED)
def test_an_annotation_without_json_form_is_refused_by_name(
    annotation: Any, complaint: str
) -> None:
    """An unsupported annotation raises ConfigError at first use that names job and field."""
    job_type = job_of(annotation)

    for _ in range(2):  # the first refusal leaves nothing half-made behind
        with pytest.raises(ConfigError) as caught:
            decode_args(job_type, {"value": None})

        assert str(caught.value).startswith(f"job {__name__}:Sample: {complaint}")


@attrs.frozen
class Outer:
    inner: Inner | None


@attrs.frozen
class Inner:
    outer: Outer | None
    bad: complex = 0j


def test_an_unsupported_annotation_far_down_is_found_through_a_cycle() -> None:
    """The path leads to the annotation, and no half-made class survives the error."""
    for annotation, path in ((Outer, "value.inner.bad"), (Inner, "value.bad")):
        with pytest.raises(ConfigError, match=f"{path}: the annotation complex has no JSON form"):
            encode(annotation, None)


def test_two_classes_of_one_name_cannot_share_a_union() -> None:
    """Tags must differ, so a union of two classes with the same name is refused."""
    first, second = (attrs.make_class("Twin", {"a": attrs.field(type=int)}) for _ in range(2))

    with pytest.raises(ConfigError, match="two members of the union have the same name"):
        encode(first | second, None)


def test_the_order_of_a_union_does_not_change_its_json() -> None:
    """``A | B`` and ``B | A`` are one type, so they have one JSON form."""
    assert encode(list[int] | list[str], []) == encode(list[str] | list[int], [])


def test_a_long_value_is_cut_in_the_message() -> None:
    """Only the first hundred characters of a value's repr are shown."""
    with pytest.raises(InvalidJob) as caught:
        encode(int, "x" * 1_000_000)

    assert str(caught.value).endswith(", got '" + "x" * 99 + "…")


def test_a_value_with_a_broken_repr_is_refused_all_the_same() -> None:
    """A repr that raises does not hide the complaint."""

    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(InvalidJob, match="expected an integer, got <Broken without a repr>"):
        encode(int, Broken())


def test_an_offset_with_seconds_travels_as_utc() -> None:
    """RFC 3339 has no seconds in offsets: the instant is kept, the offset is not."""
    odd = timezone(timedelta(hours=1, seconds=7))

    assert encode(datetime, NOW.astimezone(odd)) == "2024-12-31T23:59:59.500000+00:00"
    with pytest.raises(InvalidJob, match="expected a datetime that exists in UTC"):
        encode(datetime, datetime.min.replace(tzinfo=odd))


def test_a_subclass_of_a_nested_class_is_refused() -> None:
    """A value of a subclass would lose its own fields, so it does not fit."""

    @attrs.frozen
    class Longer(Address):
        country: str = "FR"

    with pytest.raises(InvalidJob, match="value: expected a Address, got"):
        encode(Address, Longer("1"))


def test_any_value_is_copied() -> None:
    """A job that changes an argument changes neither the sender's value nor the envelope's."""
    sent = {"a": [1]}
    encoded = encode(Any, sent)
    decoded = decode(Any, encoded)
    decoded["a"].append(2)

    assert sent == encoded == {"a": [1]}


def test_values_that_nest_too_deeply_are_refused() -> None:
    """A value that contains itself, or a very deep one, is InvalidJob and not a crash."""
    endless: list[Any] = []
    endless.append(endless)
    tree = Tree(0)
    for _ in range(5000):
        tree = Tree(0, (tree,))

    with pytest.raises(InvalidJob, match="expected at most 200 levels of lists and dicts"):
        encode(Any, endless)
    with pytest.raises(InvalidJob, match="its arguments nest too deeply"):
        encode(Tree, tree)


class Mail(Job):
    to: str
    copies: int = 1
    tags: list[str] = attrs.field(factory=list)
    _hidden: int = 0
    sent: bool = attrs.field(default=False, init=False)

    async def perform(self) -> None: ...


def test_arguments_travel_under_their_constructor_names() -> None:
    """Private fields lose their underscore, and fields set by the class do not travel."""
    assert encode_args(Mail("ada", hidden=2)) == {
        "to": "ada",
        "copies": 1,
        "tags": [],
        "hidden": 2,
    }


def test_arguments_with_a_default_may_be_missing() -> None:
    """A sender that does not know an argument yet leaves it to its default."""
    assert decode_args(Mail, {"to": "ada"}) == Mail("ada")


def test_arguments_may_come_in_any_mapping() -> None:
    """decode_args takes any Mapping."""
    assert decode_args(Mail, attrs.evolve(Mail("ada")).__dict__.__class__(to="ada")) == Mail("ada")
    assert decode_args(Mail, OrderedDict(to="ada")) == Mail("ada")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({}, "the field 'to' is missing"),
        (
            {"to": "ada", "cc": 1},
            "the field 'cc' is unknown; the fields are: copies, hidden, tags, to",
        ),
        ({"to": "ada", "tags": ["a", 1]}, "tags[1]: expected text, got 1"),
    ],
)
def test_missing_and_unknown_arguments_are_refused(args: dict[str, Any], complaint: str) -> None:
    """The message names the job and the argument."""
    with pytest.raises(InvalidJob) as caught:
        decode_args(Mail, args)

    assert str(caught.value) == f"job {__name__}:Mail: {complaint}"


def test_the_cause_of_a_refusal_is_kept() -> None:
    """An error from a validator of the class is the cause of InvalidJob."""
    with pytest.raises(InvalidJob) as caught:
        decode(Percent, {"value": 101})

    assert isinstance(caught.value.__cause__, ValueError)


def test_an_abstract_base_cannot_be_encoded() -> None:
    """A class without perform is no job."""

    class Base(Job):
        a: int

    with pytest.raises(InvalidJob, match="Base: expected a job with a perform"):
        encode_args(Base(1))


class Pair(NamedTuple):
    a: int


def test_named_tuples_have_no_json_form() -> None:
    """A NamedTuple would come back as a plain tuple, so it is refused."""
    with pytest.raises(ConfigError, match="the annotation Pair has no JSON form"):
        encode(Pair, Pair(1))


def test_an_int_too_long_to_print_is_refused() -> None:
    """Python refuses to print huge ints; the message does without."""
    with pytest.raises(InvalidJob, match=r"expected an integer of 64 bits .*, got <int without a"):
        encode(int, 10**5000)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type aliases are of Python 3.12")
def test_a_type_alias_is_what_it_stands_for() -> None:
    """``type Name = ...`` adds a name and changes nothing, in a union neither."""
    alias = typing.TypeAliasType("alias", int | None)  # type: ignore[attr-defined]

    assert encode(list[alias], [1, None]) == [1, None]
    assert encode(alias | str, "a") == "a"
