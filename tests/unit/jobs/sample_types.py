"""Types that the tests use as annotations; at module level, so that they can be resolved."""

from __future__ import annotations

import dataclasses
import enum
from typing import NewType, NotRequired, TypedDict

import attrs


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"
    NO = "no"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Loose(enum.Flag, boundary=enum.CONFORM):
    ONE = 1


class Point3(enum.Enum):
    ORIGIN = (0, 0, 0)


@attrs.frozen
class Address:
    zip: str
    city: str = "Paris"


@attrs.frozen
class Shop:
    name: str
    addresses: list[Address]
    _secret: int = 0


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5
    cached: int = dataclasses.field(default=7, init=False, compare=False)


@attrs.frozen
class Tree:
    value: int
    children: tuple[Tree, ...] = ()


@attrs.frozen
class Percent:
    value: int = attrs.field(validator=attrs.validators.le(100))


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


UserId = NewType("UserId", int)
