"""State as it is written down."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from roger_trio._state.changes import Change, Joined, KeyConfirmed, KeyTaken, Paused, Started
from roger_trio._state.journal import JournalWriter, Problem, replay


class Recorder:
    """Takes changes in place of a ledger."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def apply(self, change: Change) -> None:
        self.changes.append(change)


class Picky(Recorder):
    """Does not take every change."""

    def apply(self, change: Change) -> None:
        if change == Paused("no"):
            raise KeyError("no")
        super().apply(change)


BATCHES: list[list[Change]] = [
    [KeyTaken("käse\n\0 🧀/", "j1", "default", 1.5, "n1", "inbox")],
    [],
    [KeyConfirmed("k"), Started("j1", "node", "inbox", "a1", 1.0)],
    [Paused("default"), Joined("inbox", "node", "host")],
    [KeyConfirmed("last")],
]


def write(batches: list[list[Change]]) -> list[bytes]:
    """Write batches; return header and lines."""
    writer = JournalWriter()
    return [writer.header(), *map(writer.line, batches)]


def read(data: bytes) -> tuple[list[Change], Problem | None]:
    """Read written state."""
    recorder = Recorder()
    problem = replay(data, recorder)
    return recorder.changes, problem


def flat(batches: list[list[Change]]) -> list[Change]:
    """Return all changes of some batches."""
    return [change for batch in batches for change in batch]


def test_what_is_written_is_read() -> None:
    """All changes, in order, whatever text is in them."""
    assert read(b"".join(write(BATCHES))) == (flat(BATCHES), None)


def test_a_line_is_readable() -> None:
    """By the eye, and by any tool: text, one line for each save."""
    header, line = write([[KeyConfirmed("k")]])
    assert header == b"roger_trio state 1\n"
    assert line.endswith(b' [["KeyConfirmed","k"]]\n')
    assert b"\n" not in line[:-1]


def test_torn_at_every_byte() -> None:
    """Wherever writing stopped, every line that was finished is read, and nothing raises."""
    lines = write(BATCHES)
    data = b"".join(lines)
    ends = [len(b"".join(lines[: n + 1])) for n in range(len(lines))]
    for length in range(len(data)):
        changes, problem = read(data[:length])
        finished = sum(end <= length for end in ends)
        assert changes == flat(BATCHES[: max(finished - 1, 0)])
        if length in ends:
            assert problem is None
        else:
            assert problem is not None
            assert problem.kind == "torn"


def test_one_wrong_byte_anywhere() -> None:
    """Damage is noticed wherever it is; what stands before it is read."""
    lines = write(BATCHES)
    data = b"".join(lines)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x20
        changes, problem = read(bytes(damaged))
        whole = len(data[:position].split(b"\n")) - 1
        assert changes == flat(BATCHES[: max(whole - 1, 0)])
        assert problem is not None
        assert problem.kind == ("foreign" if position < len(lines[0]) else "damaged") or (
            position == len(data) - 1 and problem.kind == "torn"
        )


@pytest.mark.parametrize("order", [[1, 3, 4, 5], [1, 2, 2, 3], [1, 3, 2, 4], [2, 1, 3, 4]])
def test_lines_that_are_missing_repeated_or_misplaced(order: list[int]) -> None:
    """Every line is right by itself, and still all of that is noticed."""
    lines = write(BATCHES)
    right = 0
    while order[right] == right + 1:
        right += 1
    changes, problem = read(lines[0] + b"".join(lines[number] for number in order))
    assert changes == flat(BATCHES[:right])
    assert problem is not None
    assert problem.kind == "damaged"
    assert problem.where.startswith(f"line {right + 2}, byte ")


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "torn", "the header is not complete"),
        (b"roger_trio st", "torn", "the header is not complete"),
        (b"roger_trio state 2\n00000000 []\n", "foreign", "version 2, and 1 can be read"),
        (b"\x80\x05]q\x00.", "foreign", "does not begin like"),
        (b"PK\x03\x04" * 100, "foreign", "does not begin like"),
        (b"\n" * 100, "foreign", "does not begin like"),
        (b"roger_trio state 1 \n", "foreign", "does not begin like"),
    ],
)
def test_what_is_not_ours(data: bytes, kind: str, reason: str) -> None:
    """Another program's file, or a later version's, is told from a torn one."""
    changes, problem = read(data)
    assert changes == []
    assert problem is not None
    assert (problem.kind, reason in problem.where) == (kind, True)


@pytest.mark.parametrize(
    "body",
    [b"{}", b"7", b'[["Unknown","x"]]', b'[["Paused"]]', b"[[]]", b"[7]", b"[", b'[["Paused",7]]'],
)
def test_a_right_checksum_and_no_sense(body: bytes) -> None:
    """What another version may have written stops the reading and nothing else."""
    import zlib

    header, line = write([[Paused("a")]])
    total = zlib.crc32(body, int(line[:8], 16))
    changes, problem = read(header + line + b"%08x %s\n" % (total, body))
    if body != b"{}":  # no changes at all
        assert problem is not None
        assert problem.kind == "damaged"
    assert changes == [Paused("a")]


def test_a_change_that_cannot_be_made() -> None:
    """An error in applying a change stops the reading and nothing else."""
    picky = Picky()
    problem = replay(b"".join(write([[Paused("a")], [Paused("no")], [Paused("b")]])), picky)
    assert picky.changes == [Paused("a")]
    assert problem is not None
    assert "KeyError" in problem.where


@given(st.binary(max_size=400) | st.binary(max_size=200).map(lambda end: write([])[0] + end))
def test_nothing_that_is_read_raises(data: bytes) -> None:
    """Whatever the bytes are."""
    read(data)
