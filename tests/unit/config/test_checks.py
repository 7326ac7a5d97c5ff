"""The rules of names and numbers, on their own."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from roger_trio._config import (
    check_max_workers,
    check_partition_name,
    check_queue_name,
    check_queues,
    check_retry_levels,
)
from roger_trio._config.checks import censor, shown
from roger_trio._errors import ConfigError


@pytest.mark.parametrize("name", ["myapp", "a", "Ada & Söhne", "東京", "a-b.c/d", "ü" * 60, " x "])
def test_partition_names_are_printable_text(name: str) -> None:
    """Any printable text of up to 120 bytes names a partition."""
    assert check_partition_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "   ", "a\n", "a\0", "a\u00a0b", "\ud800", "x" * 121, "ü" * 61, 7, None, b"x"]
)
def test_other_partition_names_are_refused(name: object) -> None:
    """The error names the caller's key, the rule and the value."""
    with pytest.raises(ConfigError) as caught:
        check_partition_name(name, key="partition_id")
    assert str(caught.value).startswith(
        "partition_id: expected printable text of 1 to 120 bytes in UTF-8, not only spaces, got "
    )


@pytest.mark.parametrize("name", ["default", "A_9", "_", "x" * 64])
def test_queue_names_are_letters_digits_and_underscores(name: str) -> None:
    """1 to 64 letters, digits and _ name a queue."""
    assert check_queue_name(name) == name


@pytest.mark.parametrize("name", ["", "a-b", "a.b", "a b", "ä", "x" * 65, "a\n", "٣", 1, None])
def test_other_queue_names_are_refused(name: object) -> None:
    """The error names the key, the rule and the value."""
    with pytest.raises(ConfigError) as caught:
        check_queue_name(name)
    assert str(caught.value) == (
        f"queue: expected a queue name of 1 to 64 letters (a-z, A-Z), digits and _, got {name!r}"
    )


@pytest.mark.parametrize("number", [1, 10, 65_535])
def test_max_workers_fit_a_prefetch_count(number: int) -> None:
    """AMQP keeps the prefetch count in 16 bits."""
    assert check_max_workers(number) == number


@pytest.mark.parametrize("number", [0, -1, 65_536, True, False, 1.0, "10", None])
def test_other_numbers_of_workers_are_refused(number: object) -> None:
    """A bool, a float and text are no whole numbers."""
    with pytest.raises(ConfigError) as caught:
        check_max_workers(number, key="partitions.myapp.default")
    assert str(caught.value) == (
        f"partitions.myapp.default: expected a whole number from 1 to 65535, got {number!r}"
    )


def test_queues_are_copied_in_order_and_read_only() -> None:
    """What is changed afterwards in the caller's dict changes nothing here."""
    given_queues = {"b": 1, "a": 2}
    queues = check_queues(given_queues)
    given_queues["c"] = 3
    assert list(queues.items()) == [("b", 1), ("a", 2)]
    frozen: Any = queues
    with pytest.raises(TypeError):
        frozen["c"] = 3


def test_queues_may_be_none_at_all() -> None:
    """A partition without queues consumes nothing."""
    assert check_queues({}) == {}


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        (["default"], "q: expected a mapping of queue names to numbers of workers, got a value of"),
        ({"a b": 1}, "q: expected a queue name"),
        ({"a": 0}, "q.a: expected a whole number from 1 to 65535, got 0"),
    ],
)
def test_wrong_queues_are_refused(queues: object, message: str) -> None:
    """The error names the queue."""
    with pytest.raises(ConfigError) as caught:
        check_queues(queues, key="q")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("levels", [(), (0,), [1, 2.5], (268_435_455,)])
def test_retry_levels_become_a_tuple_of_floats(levels: list[float] | tuple[float, ...]) -> None:
    """A list is taken too; none at all means that the first failure buries."""
    checked = check_retry_levels(levels)
    assert checked == tuple(levels)
    assert all(isinstance(level, float) for level in checked)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("12", "retry_levels: expected a list or tuple of seconds, got '12'"),
        (5, "retry_levels: expected a list or tuple of seconds, got 5"),
        ({1, 2}, "retry_levels: expected a list or tuple of seconds, got {1, 2}"),
        ((1, -1), "retry_levels[1]: expected a finite number of seconds, at least 0 and at most"),
        ((1, True), "retry_levels[1]: expected a finite number of seconds, at least 0 and at most"),
        ((float("nan"),), "retry_levels[0]: expected a finite number of seconds, at least 0 and"),
        (
            (10**400,),
            "retry_levels[0]: expected a finite number of seconds, at least 0 and at most",
        ),
        (("1",), "retry_levels[0]: expected a finite number of seconds, at least 0 and at most"),
        ((268_435_456,), "retry_levels[0]: expected a finite number of seconds, at least 0 and at"),
    ],
)
def test_wrong_retry_levels_are_refused(levels: object, message: str) -> None:
    """The error names the place in the list."""
    with pytest.raises(ConfigError) as caught:
        check_retry_levels(levels)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "censored"),
    [
        ("amqp://guest:secret@localhost:5672/", "amqp://***@localhost:5672/"),
        ("htp://u:a@b/c?d#e@host", "htp://***@host"),
        ("guest:secret@host", "guest:***@host"),
        ("secret@host", "***@host"),
        ("amqp://h/?keyfile_password=x", "amqp://h/?***"),
        ("u:pass\nword@h", "u:***@h"),
        ("sqlite:roger.db", "sqlite:roger.db"),
    ],
)
def test_censoring_hides_what_may_be_a_password(text: str, censored: str) -> None:
    """All between the scheme and the last @ goes, and the query with it."""
    assert censor(text) == censored


def test_a_long_value_is_shortened() -> None:
    """An error stays readable whatever was given."""
    assert shown("x" * 1000) == f"'{'x' * 119}… (1002 characters)"


def test_a_number_too_long_to_be_written_is_named_by_its_type() -> None:
    """Python refuses to write whole numbers of thousands of digits."""
    assert shown(10**10_000) == "a value of type int"


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_a_check_gives_its_value_back_or_raises_config_error(value: object) -> None:
    """No value of any kind makes a check fail in another way."""
    for check in (check_partition_name, check_queue_name, check_max_workers):
        with contextlib.suppress(ConfigError):
            assert check(value) is value
