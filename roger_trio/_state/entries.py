"""What the messages mean that keep a partition's state in the broker. Pure.

A term is one load and the saves that follow it; its token tells it from any other of that number.
What belongs together is told by the headers, never by the order of the messages: that may change,
and any message may be there twice.

====== ============ ==============================================================
kind   part, parts
====== ============ ==============================================================
save   part i of n  the whole state, in pieces
append sequence, 0  what was added to the save of the same term and number
claim  0, 0         somebody has loaded the state: what earlier terms still write is void
mark   0, 0         nothing: who is given it was given all before it
====== ============ ==============================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeVar

import attrs

from .._brokers.base import Delivery, HeaderValue, Message

Kind = Literal["save", "append", "claim", "mark"]
T = TypeVar("T")

_KINDS: Final[Mapping[object, Kind]] = {
    "save": "save",
    "append": "append",
    "claim": "claim",
    "mark": "mark",
}
_KIND: Final = "roger-state"
_MAX_NUMBER: Final = 2**53
"""More than there ever are; what a header holds goes to 2**63."""


@attrs.frozen(order=True)
class Version:
    """One save: versions are ordered as they were written."""

    term: int
    token: str
    number: int = 0


@attrs.frozen
class Entry:
    """One message of the state."""

    kind: Kind
    version: Version
    part: int = 0
    parts: int = 0
    body: bytes = b""

    def message(self) -> Message:
        """Make the message."""
        headers: dict[str, HeaderValue] = {
            _KIND: self.kind,
            "term": self.version.term,
            "token": self.version.token,
            "number": self.version.number,
            "part": self.part,
            "parts": self.parts,
        }
        return Message(self.body, headers=headers)


@attrs.frozen
class Found:
    """What was found in the broker."""

    data: bytes | None
    """The state."""
    version: Version
    """The save it comes from."""
    highest_term: int
    lost: int
    """Entries written to, or part of, a later save that is not there."""


def read_entry(delivery: Delivery) -> Entry | None:
    """Read a message; None: it is not one of the state's."""
    headers = delivery.headers
    kind = _KINDS.get(_of_type(headers.get(_KIND), str, ""))
    if kind is None:
        return None
    numbers = [_of_type(headers.get(name), int, 0) for name in ("term", "number", "part", "parts")]
    if not all(0 <= each <= _MAX_NUMBER for each in numbers):
        return None  # The next term could not be written down.
    term, number, part, parts = numbers
    version = Version(term, _of_type(headers.get("token"), str, ""), number)
    return Entry(kind, version, part, parts, delivery.body)


def assemble(entries: Iterable[Entry]) -> Found:
    """Put together the newest state that is complete."""
    saves: dict[Version, dict[int, Entry]] = defaultdict(dict)
    appends: dict[Version, dict[int, bytes]] = defaultdict(dict)
    highest_term = 0
    for entry in entries:
        highest_term = max(highest_term, entry.version.term)
        if entry.kind == "save":
            saves[entry.version][entry.part] = entry
        elif entry.kind == "append":
            appends[entry.version][entry.part] = entry.body
    complete = [version for version, parts in saves.items() if _is_complete(parts)]
    if not complete:
        lost = sum(map(len, appends.values()))
        return Found(None, Version(0, ""), highest_term, lost)
    newest = max(complete)
    pieces = [saves[newest][part].body for part in sorted(saves[newest])]
    pieces += [appends[newest][number] for number in sorted(appends[newest])]
    lost = sum(len(parts) for version, parts in appends.items() if version > newest)
    return Found(b"".join(pieces), newest, highest_term, lost)


def is_obsolete(entry: Entry, kept: Version) -> bool:
    """Tell whether an entry means nothing any more once the save `kept` is complete."""
    return entry.kind == "mark" or entry.version < kept


def _is_complete(parts: Mapping[int, Entry]) -> bool:
    wanted = next(iter(parts.values())).parts
    return len(parts) == wanted and all(part < wanted for part in parts)


def _of_type(value: object, expected: type[T], default: T) -> T:
    return value if isinstance(value, expected) else default
