"""What a supervisor and its processes decide, without any process."""

from __future__ import annotations

import socket
from signal import SIGKILL, SIGTERM

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

import roger_trio as roger
from roger_trio._processes.child import config_of, take_place
from roger_trio._processes.process import PROCESS_VARIABLE
from roger_trio._processes.restarts import FAILED_STARTS, Restarts, has_stopped_well, manner
from roger_trio._processes.run import check_sharable
from roger_trio._processes.tie import READY, Stop, Tie, after_signal


def test_deaths_of_a_process_that_works_double_its_delay() -> None:
    """From half a second to half a minute; five quiet minutes later all is forgotten."""
    restarts = Restarts()
    restarts.note_ready(1)
    delays = [restarts.note_death(1, float(now), was_ready=True) for now in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.note_death(1, 1000.0, was_ready=True) == 0.5


def test_each_process_has_delays_of_its_own() -> None:
    """One that dies again and again does not hold up another."""
    restarts = Restarts()
    restarts.note_ready(1)
    for now in range(5):
        restarts.note_death(1, float(now), was_ready=True)
    assert restarts.note_death(2, 5.0, was_ready=True) == 0.5


def test_given_up_when_none_was_ever_ready() -> None:
    """After five failed starts of one of them, not of all together."""
    restarts = Restarts()
    for _ in range(FAILED_STARTS - 1):
        assert restarts.note_death(1, 0.0, was_ready=False) is not None
        assert restarts.note_death(2, 0.0, was_ready=False) is not None
    assert restarts.note_death(1, 0.0, was_ready=False) is None


@given(st.lists(st.booleans(), max_size=50))
def test_never_given_up_once_one_was_ready(starts: list[bool]) -> None:
    """Then the configuration is right, and what fails may mend; starts in a row are counted."""
    restarts = Restarts()
    restarts.note_ready(2)
    row = 0
    for is_good in starts:
        if is_good:
            restarts.note_ready(1)
        row = 0 if is_good else row + 1
        assert restarts.note_death(1, 0.0, was_ready=is_good) is not None
        assert restarts.failed_starts(1) == row


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-SIGKILL, "was killed by SIGKILL"),
        (-63, "was killed by signal 63"),
    ],
)
def test_manner(status: int, said: str) -> None:
    """Signals have names, as far as Python knows them."""
    assert manner(status) == said


@pytest.mark.parametrize(
    ("status", "was_ready", "is_well"),
    [(0, True, True), (1, True, False), (-SIGTERM, True, False), (-SIGTERM, False, True)],
)
def test_how_a_process_may_end_that_was_told_to(
    status: int, was_ready: bool, is_well: bool
) -> None:
    """One that had jobs has to end in good order; one that was still importing just ends."""
    assert has_stopped_well(status, was_ready=was_ready) is is_well


@pytest.mark.parametrize(
    ("stop", "is_orphan", "then"),
    [
        (Stop.NO, False, Stop.GRACEFULLY),
        (Stop.GRACEFULLY, False, Stop.GRACEFULLY),
        (Stop.AT_ONCE, False, Stop.AT_ONCE),
        (Stop.NO, True, Stop.GRACEFULLY),
        (Stop.GRACEFULLY, True, Stop.AT_ONCE),
    ],
)
def test_what_a_signal_means_to_a_process(stop: Stop, is_orphan: bool, then: Stop) -> None:
    """The second one is the supervisor's to tell from the first, as long as there is one."""
    assert after_signal(stop, is_orphan=is_orphan) is then


# Who a process is...


def test_a_configured_name_gets_the_number() -> None:
    """So that no two have the same; others are unlike each other already."""
    assert config_of(roger.Config(node_name="web"), 2).node_name == "web-2"
    assert config_of(roger.Config(), 2).node_name is None


def test_a_name_that_becomes_too_long_is_refused_before_anything_starts() -> None:
    """The longest one is tried."""
    config = roger.Config(node_name="x" * 118)
    check_sharable(config, 9)
    with pytest.raises(roger.ConfigError, match="node_name"):
        check_sharable(config, 10)


def test_memory_cannot_be_shared() -> None:
    """The error says what can."""
    with pytest.raises(roger.ConfigError, match=r"'memory:'.*use sqlite:PATH or RabbitMQ"):
        check_sharable(roger.Config(broker="memory:"), 2)


@pytest.mark.parametrize("value", ["", "2", "two:3", "2:-1", "2:999999"])
def test_nobody_else_may_set_the_variable(value: str) -> None:
    """It is refused, and gone for what comes later."""
    environ = {PROCESS_VARIABLE: value}
    with pytest.raises(roger.ConfigError, match=PROCESS_VARIABLE):
        take_place(environ)
    assert environ == {}


def test_without_the_variable_it_is_no_process_of_a_supervisor() -> None:
    """As ``roger serve`` is usually called."""
    assert take_place({}) is None


# The tie...


async def test_words_arrive_one_by_one_and_then_the_end() -> None:
    """However many were said before the other side listened; saying to nobody does no harm."""
    one, other = map(Tie, socket.socketpair())
    one.say(READY)
    one.say(Stop.AT_ONCE.word)
    with trio.fail_after(5):
        assert [await other.hear(), await other.hear()] == [READY, b"\x02"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_nothing, other)
            await trio.testing.wait_all_tasks_blocked()
            one.close()
    other.say(READY)
    other.close()


async def hear_nothing(tie: Tie) -> None:
    """Hear that the other side is gone."""
    assert await tie.hear() == b""
