"""Whatever fits its annotation survives the journey through JSON bytes."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import orjson
from hypothesis import given, strategies as st

from roger_trio._jobs.codec import decode_args, encode_args
from roger_trio._jobs.job import Job

from .sample_types import Address, Color, Level, Movie, Point, Rights, Shop, Tree, Word


class Everything(Job):
    text: str
    integer: int
    number: float
    flag: bool
    nothing: None
    blob: bytes
    moment: datetime
    day: date
    hour: time
    length: timedelta
    decimal: Decimal
    unique: UUID
    color: Color
    level: Level
    rights: Rights
    items: list[int]
    pair: tuple[int, str]
    row: tuple[float, ...]
    bag: set[str]
    frozen: frozenset[date]
    by_text: dict[str, int]
    by_int: dict[int, str]
    by_unique: dict[UUID, bool]
    shop: Shop
    point: Point
    tree: Tree
    movie: Movie
    maybe: Address | None
    plain: int | float | str | bool | None
    tagged: str | datetime | Word | UUID | None
    lists: list[int] | list[str]
    anything: Any

    async def perform(self) -> None: ...


texts = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=offsets)
lengths = st.timedeltas(timedelta(days=-99000), timedelta(days=99000)) | st.timedeltas().map(
    lambda length: timedelta(days=length.days, seconds=length.seconds)
)
addresses = st.builds(Address, texts, texts)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)
trees = st.recursive(
    st.builds(Tree, integers),
    lambda inner: st.builds(Tree, integers, st.lists(inner).map(tuple)),
    max_leaves=5,
)
everything = st.builds(
    Everything,
    text=texts,
    integer=integers,
    number=floats,
    flag=st.booleans(),
    nothing=st.none(),
    blob=st.binary(),
    moment=moments,
    day=st.dates(),
    hour=st.times(),
    length=lengths,
    decimal=st.decimals(allow_nan=False, allow_infinity=False),
    unique=st.uuids(),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    rights=st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]),
    items=st.lists(integers),
    pair=st.tuples(integers, texts),
    row=st.lists(floats).map(tuple),
    bag=st.sets(texts),
    frozen=st.frozensets(st.dates()),
    by_text=st.dictionaries(texts, integers),
    by_int=st.dictionaries(integers, texts),
    by_unique=st.dictionaries(st.uuids(), st.booleans()),
    shop=st.builds(Shop, texts, st.lists(addresses), integers),
    point=st.builds(Point, integers, floats),
    tree=trees,
    movie=st.fixed_dictionaries({"title": texts}, optional={"year": integers}),
    maybe=st.none() | addresses,
    plain=integers | floats | texts | st.booleans() | st.none(),
    tagged=texts | moments | st.sampled_from(Word) | st.uuids() | st.none(),
    lists=st.lists(integers) | st.lists(texts),
    anything=json_values,
)


@given(everything)
def test_a_job_comes_back_equal(job: Everything) -> None:
    """Encoding, JSON bytes and decoding give an equal job with values of the same types."""
    decoded = decode_args(Everything, orjson.loads(orjson.dumps(encode_args(job))))

    assert decoded == job
    for field in attrs.fields(Everything):
        sent, came = getattr(job, field.name), getattr(decoded, field.name)
        assert type(came) is type(sent), field.name
