"""What commands print."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from roger_trio._cli.output import age, counted, print_table, printable

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s ago"), (0, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"),
        (3599, "59 min ago"), (3600, "1 h ago"), (86_399, "23 h ago"), (86_400 * 400, "400 d ago"),
    ],
)  # fmt: skip
def test_age(seconds: float, text: str) -> None:
    """An age is told in its largest unit, rounded down."""
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_counted() -> None:
    """One thing is one thing."""
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_printable() -> None:
    """Nothing that a terminal acts on gets through; letters of any script do."""
    assert printable("żółw 猫") == "żółw 猫"
    assert printable("a\x1b[31mb\nc\td\x7f\u202e") == r"a\x1b[31mb\nc\td\x7f\u202e"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal, columns are aligned, whole, and each row is one line."""
    print_table(("ID", "MESSAGE"), [("1", "x" * 300), ("1234", "two\nlines [red]")])
    assert capsys.readouterr().out.splitlines() == [
        "ID    MESSAGE",
        f"1     {'x' * 300}",
        r"1234  two\nlines [red]",
    ]
