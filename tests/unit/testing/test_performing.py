"""One job through a worker, without a node."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import roger_trio as roger
from roger_trio.testing import enqueued, perform_job, running_node

from .jobs import (
    Animal,
    chain,
    colour,
    fail,
    fail_once,
    in_thread,
    note,
    raise_signal,
    slow,
)


class Recorder(roger.Callbacks):
    """Notes which callbacks were called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def before_run(self, partition: str, job: roger.Envelope) -> Any:
        self.calls.append(("before_run", partition))
        return "state"

    async def after_run(self, partition: str, job: roger.Envelope, result: Any, state: Any) -> None:
        self.calls.append(("after_run", result, state))

    async def on_error(
        self, partition: str, job: roger.Envelope, error: BaseException, state: Any
    ) -> None:
        self.calls.append(("on_error", type(error), state))

    async def on_buried(
        self, partition: str, job: roger.Envelope, error: BaseException, state: Any
    ) -> None:
        self.calls.append(("on_buried", type(error), state))


async def test_success(log: list[str]) -> None:
    """A job that returns succeeded, with its result; callbacks saw it."""
    recorder = Recorder()
    done = await perform_job(note.job("a"), callbacks=recorder)
    assert (done.kind, done.result, done.error, done.delay) == ("succeeded", "noted a", None, None)
    assert done.retry_count == 0
    assert log == ["a"]
    assert recorder.calls == [("before_run", "test"), ("after_run", "noted a", "state")]


async def test_the_envelope_is_what_the_job_saw() -> None:
    """Partition, queue, arguments and bookkeeping are those of a job in a node."""
    done = await perform_job(Animal("cat"), partition="farm", retry_count=3)
    job = done.envelope
    assert done.result == "cat"
    assert (job.name, job.partition, job.queue) == ("kit:Animal", "farm", "zoo")
    assert (job.args, job.retry_count, done.retry_count) == ({"name": "cat"}, 3, 3)
    assert job.started_at is not None
    assert not job.redelivered
    assert (await perform_job(Animal("cat"), queue="q")).envelope.queue == "q"


async def test_failure() -> None:
    """A job that is not retryable and raises has failed, and is over."""
    recorder = Recorder()
    done = await perform_job(fail_once.job(), callbacks=recorder)
    assert (done.kind, done.delay, done.retry_count) == ("failed", None, 0)
    assert isinstance(done.error, ValueError)
    assert done.error.__traceback__ is not None
    assert recorder.calls[1:] == [("on_error", ValueError, "state")]


async def test_every_retry_level() -> None:
    """A retryable job comes back after its level's delay, and is buried after the last."""
    levels = roger.Config().retry_levels
    for count, level in enumerate(levels):
        done = await perform_job(fail.job(), retry_count=count)
        assert (done.kind, done.delay, done.retry_count) == ("retried", level, count + 1)
    recorder = Recorder()
    done = await perform_job(fail.job(), retry_count=len(levels), callbacks=recorder)
    assert (done.kind, done.delay, done.retry_count) == ("buried", None, len(levels))
    assert isinstance(done.error, ValueError)
    assert recorder.calls[1:] == [("on_buried", ValueError, "state")]


async def test_retry_levels_can_be_given() -> None:
    """The levels are those a node of the program would have."""
    done = await perform_job(fail.job(), retry_levels=[0.1, 0.2], retry_count=1)
    assert (done.kind, done.delay, done.retry_count) == ("retried", 0.2, 2)
    assert (await perform_job(fail.job(), retry_levels=())).kind == "buried"


@pytest.mark.parametrize(
    ("signal", "kind", "delay", "retry_count", "error"),
    [
        ("retry", "retried", 7, 3, "retry after 7 s"),
        ("snooze", "snoozed", 9, 2, "snooze 9 s"),
        ("bury", "buried", None, 2, "rotten"),
        ("discard", "discarded", None, 2, "stale"),
    ],
)
async def test_signals(
    signal: str, kind: str, delay: float | None, retry_count: int, error: str
) -> None:
    """What a job raises to say how it wants to end is the outcome."""
    done = await perform_job(raise_signal.job(signal), retry_count=2)
    assert (done.kind, done.delay, done.retry_count) == (kind, delay, retry_count)
    assert type(done.error).__name__.lower() == signal
    assert str(done.error) == error


async def test_timeout(autojump_clock: MockClock) -> None:
    """The time limit counts on Trio's clock, and is a failure."""
    done = await perform_job(slow.job())
    assert done.kind == "failed"
    assert isinstance(done.error, roger.JobTimeout)
    assert trio.current_time() == 5


async def test_plain_function(log: list[str]) -> None:
    """A plain function runs in a thread."""
    done = await perform_job(in_thread.job("a"))
    assert log == ["a"]
    assert done.kind == "succeeded"
    assert done.result != threading.current_thread().name


async def test_the_context_of_the_test_is_left_alone() -> None:
    """What a job or the worker sets in its context does not reach the test."""
    await perform_job(raise_signal.job("bury"))
    assert colour.get() == "none"
    with pytest.raises(roger.RogerError, match="outside a job"):
        roger.current_job()


async def test_arguments_are_checked() -> None:
    """A job that could not be enqueued is refused in the caller."""
    with pytest.raises(roger.InvalidJob, match="text: expected text, got 5"):
        await perform_job(note.job(5))  # type: ignore[arg-type]
    with pytest.raises(roger.ConfigError):
        await perform_job(note.job("a"), queue="not a name")


async def test_a_retry_count_out_of_range_is_refused() -> None:
    """A retry count is not negative."""
    with pytest.raises(ValueError, match="retry_count: expected 0 to 2147483647, got -1"):
        await perform_job(note.job("a"), retry_count=-1)


async def test_further_jobs_go_to_the_ambient_client(log: list[str]) -> None:
    """Inside a node what the job enqueues is performed there."""
    async with running_node() as node:
        await perform_job(chain.job(3))
        await node.run_until_idle()
        assert log == ["link 3", "link 2", "link 1"]
        assert enqueued() == []


async def test_an_exception_in_a_callback_changes_nothing(log: list[str]) -> None:
    """As in a node, it is logged."""

    class Broken(roger.Callbacks):
        async def before_run(self, partition: str, job: roger.Envelope) -> Any:
            raise RuntimeError("broken")

    assert (await perform_job(note.job("a"), callbacks=Broken())).kind == "succeeded"


async def test_cancellation(autojump_clock: MockClock) -> None:
    """Cancelling the caller cancels the job."""
    with trio.move_on_after(1) as scope:
        await perform_job(slow.job())
    assert scope.cancelled_caught
    assert trio.current_time() == 1


async def test_nothing_stays_behind() -> None:
    """Neither the job nor its retry is in any broker afterwards."""
    async with running_node(partitions={}):
        await perform_job(fail.job())
        assert enqueued() == []
