"""Journals keep what was written whole, whenever their process is killed."""

from __future__ import annotations

from pathlib import Path

from .journal import Journal, Reader


def test_reads_as_it_grows(tmp_path: Path) -> None:
    """A reader gets each line once, in the order of their times, over all files."""
    one, other, reader = Journal(tmp_path, "a.0"), Journal(tmp_path, "b.0"), Reader(tmp_path)
    one.note("first", "j1", size=3)
    other.note("second")
    found = reader.read()
    assert [(x.who, x.what, x.job, x.data) for x in found] == [
        ("a.0", "first", "j1", {"size": 3}),
        ("b.0", "second", "", {}),
    ]
    assert reader.read() == []
    for number in range(1000):
        one.note("more", f"j{number}")
    assert [each.job for each in reader.read()] == [f"j{number}" for number in range(1000)]
    assert max(each.stat().st_size for each in tmp_path.iterdir()) < 21_000


def test_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    """What is not a whole line yet is read when it is."""
    reader, path = Reader(tmp_path), tmp_path / "a.0.0000.jsonl"
    path.write_bytes(b'[1.0, "a.0", "one", "", {}]\n[2.0, "a.0", "tw')
    assert [each.what for each in reader.read()] == ["one"]
    with path.open("ab") as file:
        file.write(b'o", "", {}]\n')
    assert [each.what for each in reader.read()] == ["two"]
