r"""How a partition's state is written down: a header, then lines of changes, each with a checksum.

::

    roger_trio state 1
    5d1c02f3 [["KeyTaken","k","j1"],["JobStarted","j1"]]
    9ab14c07 [["KeyFreed","k"]]

A line holds what was saved together, so all of it is found again or nothing. Its checksum goes on
from that of the line before: a line that is missing, repeated or misplaced is noticed too. Pure:
nothing here waits, and nothing that is read raises.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, Literal, Protocol

import attrs
import orjson

from .changes import Change, dump, load

VERSION: Final = 1
_HEADER: Final = b"roger_trio state %d\n"
_HEADER_LINE: Final = re.compile(rb"roger_trio state ([0-9]{1,9})")
_SUM_LENGTH: Final = 8


class Replays(Protocol):
    """What changes are applied to: an empty `Ledger`."""

    def apply(self, change: Change, /) -> None:
        """Make a change again."""
        ...


@attrs.frozen
class Problem:
    """What is wrong with written state."""

    kind: Literal["torn", "damaged", "foreign"]
    """``torn``: the last line was not finished, as a crash in the middle of a save leaves it.
    ``damaged``: something in it is not as it was written. ``foreign``: it is not ours to read."""
    where: str
    """Where, and what is wrong, in words."""


class JournalWriter:
    """Writes state down, from the header on."""

    def __init__(self) -> None:
        self._sum = 0

    def header(self) -> bytes:
        """Return what written state begins with; lines follow."""
        header = _HEADER % VERSION
        self._sum = zlib.crc32(header)
        return header

    def line(self, changes: Iterable[Change]) -> bytes:
        """Write down changes that belong together."""
        body = orjson.dumps([dump(each) for each in changes])
        self._sum = zlib.crc32(body, self._sum)
        return b"%08x %s\n" % (self._sum, body)


class Replay:
    """Reads state, one line in each step, and applies it; see `problem` once all is read.

    Args:
        data: What was written.
        onto: What the changes are applied to.
    """

    def __init__(self, data: bytes, onto: Replays) -> None:
        self.problem: Problem | None = None
        self._data = data
        self._onto = onto
        self._position = 0
        self._line = 1
        self._sum = 0

    def __iter__(self) -> Iterator[None]:
        if not self._read_header():
            return
        while self._position < len(self._data):
            if not self._read_line():
                return
            yield

    def _read_header(self) -> bool:
        data, header = self._data, _HEADER % VERSION
        if len(data) < len(header) and header.startswith(data):
            return self._fail("torn", "the header is not complete")
        found = _HEADER_LINE.fullmatch(data[: max(data.find(b"\n", 0, 64), 0)])
        if found is None:
            return self._fail("foreign", "it does not begin like state of roger_trio")
        version = int(found[1])
        if version != VERSION:
            return self._fail("foreign", f"it has version {version}, and {VERSION} can be read")
        self._sum = zlib.crc32(header)
        self._advance(len(header))
        return True

    def _read_line(self) -> bool:
        end = self._data.find(b"\n", self._position)
        if end < 0:
            return self._fail("torn", "the last line is not complete")
        line = self._data[self._position : end]
        body = line[_SUM_LENGTH + 1 :]
        total = zlib.crc32(body, self._sum)
        if line[: _SUM_LENGTH + 1] != b"%08x " % total:
            return self._fail("damaged", "the checksum does not fit")
        # What has the right checksum was written by roger_trio, but perhaps by another version,
        # with another idea of what a change is; and nothing that is read may stop the node.
        try:
            for change in [load(each) for each in orjson.loads(body)]:
                self._onto.apply(change)
        except Exception as error:  # noqa: BLE001
            return self._fail("damaged", f"it makes no sense ({type(error).__name__}: {error})")
        self._sum = total
        self._advance(end + 1)
        return True

    def _advance(self, position: int) -> None:
        self._position = position
        self._line += 1

    def _fail(self, kind: Literal["torn", "damaged", "foreign"], reason: str) -> bool:
        where = f"line {self._line}, byte {self._position} of {len(self._data)}: {reason}"
        self.problem = Problem(kind, where)
        return False


def replay(data: bytes, onto: Replays) -> Problem | None:
    """Read all state at once, and apply it; return what is wrong with it."""
    steps = Replay(data, onto)
    for _ in steps:
        pass
    return steps.problem
