"""What waits and what is buried in this run's broker in memory, and assertions about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

import attrs
import trio

from .._brokers.embedded.looking import Waiting
from .._brokers.embedded.open import find_memory
from .._client import Client
from .._errors import RogerError, UnknownJob
from .._jobs import buried as burial, wire
from .._jobs.codec import decode_args, encode_args
from .._jobs.context import current_client
from .._jobs.envelope import Envelope
from .._jobs.function import JobFunction
from .._jobs.job import Job
from .._jobs.registry import registry
from .._topology import QueueNames
from ._node import nodes_of_this_run

JobType: TypeAlias = type[Job] | JobFunction[..., Any]

_MAX_LISTED: Final = 20
_ABSENT: Final = object()


def enqueued(
    job_type: JobType | None = None, *, partition: str | None = None, queue: str | None = None
) -> list[Envelope]:
    """Return the jobs that wait in this run's broker in memory, oldest first.

    Those that are delayed, or wait for a retry or for their execution key, are among them; running
    and buried ones are not. A node takes a job as soon as another task gets its turn: to see what a
    program enqueues, run none that consumes the queue, with ``running_node(partitions={})`` for
    instance. A job with a queue key needs a node of its partition: pause the queue there, see
    `roger_trio.Client.pause`.

    Args:
        job_type: Only jobs of this class, its subclasses, or this function. Default: all.
        partition: Only jobs of this partition.
        queue: Only jobs of queues of this name.

    Raises:
        RogerError: Nothing in this run uses the broker in memory.
        RuntimeError: It was called outside of `trio.run`.
    """
    jobs = [each.envelope for each in _found(burials=False)]
    return _select(jobs, job_type, partition, queue)


def buried(
    job_type: JobType | None = None, *, partition: str | None = None, queue: str | None = None
) -> list[Envelope]:
    """Return the buried jobs of this run's broker in memory, oldest first; each has its ``error``.

    Args:
        job_type: Only jobs of this class, its subclasses, or this function. Default: all.
        partition: Only jobs of this partition.
        queue: Only jobs of queues of this name.

    Raises:
        RogerError: Nothing in this run uses the broker in memory.
        RuntimeError: It was called outside of `trio.run`.
    """
    jobs = [each.envelope for each in _found(burials=True)]
    return _select(jobs, job_type, partition, queue)


def assert_enqueued(
    wanted: Job | JobType,
    *,
    partition: str | None = None,
    queue: str | None = None,
    **args: Any,
) -> Envelope:
    """Assert that a job waits in this run's broker in memory; see `enqueued`.

    ::

        assert_enqueued(send_mail, to="ada@example.com")
        assert_enqueued(send_mail.job("ada@example.com", subject="hi"), partition="myapp")

    Args:
        wanted: The job, all of whose arguments have to be the same; or the class or function of
            it, then those of ``args``.
        partition: The partition it has to be in. Default: any.
        queue: The queue it has to be in. Default: any.
        **args: Arguments and their values. A job that has an argument called ``wanted``,
            ``partition`` or ``queue`` is to be given as a job.

    Returns:
        The oldest job that fits.

    Raises:
        AssertionError: There is none; the message lists what is enqueued, and what differs.
        TypeError: The job has no such argument.
        RogerError: Nothing in this run uses the broker in memory.
        RuntimeError: It was called outside of `trio.run`.
    """
    expectation = _Expectation.of(wanted, partition, queue, args)
    found = _found(burials=False)
    for each in found:
        if not any(expectation.differences(each.envelope)):
            return each.envelope
    raise AssertionError("\n".join(_explanation(expectation, found)))


def refute_enqueued(
    wanted: Job | JobType,
    *,
    partition: str | None = None,
    queue: str | None = None,
    **args: Any,
) -> None:
    """Assert that no such job waits in this run's broker in memory.

    Args:
        wanted: As for `assert_enqueued`.
        partition: As for `assert_enqueued`.
        queue: As for `assert_enqueued`.
        **args: As for `assert_enqueued`.

    Raises:
        AssertionError: There is one; the message lists all of them.
        TypeError: The job has no such argument.
        RogerError: Nothing in this run uses the broker in memory.
        RuntimeError: It was called outside of `trio.run`.
    """
    expectation = _Expectation.of(wanted, partition, queue, args)
    found = _found(burials=False)
    fitting = [each for each in found if not any(expectation.differences(each.envelope))]
    if fitting:
        head = f"expected that {expectation} is not enqueued, but {_number(len(fitting))}:"
        raise AssertionError("\n".join([head, *_lines([str(each) for each in fitting])]))


# What is there...


@attrs.frozen
class _Found:
    envelope: Envelope
    due: float | None
    """When it is ready, on Trio's clock; None: it is."""

    def __str__(self) -> str:
        job = self.envelope
        try:
            text = repr(job.load())
        except RogerError:
            text = f"{job.name or 'not a job'} {dict(job.args)!r}"
        wait = ""
        if self.due is not None:
            wait = f", due in {max(0.0, self.due - trio.current_time()):g} s"
        return f"{text} in {job.partition}/{job.queue}{wait}"


def _found(*, burials: bool) -> list[_Found]:
    """Read all that waits, or all that is buried, oldest first."""
    memory = find_memory()
    if memory is None:
        raise RogerError(
            "nothing in this run uses the broker in memory: put the test into "
            "`async with running_node()`, or let its clients connect to 'memory:'"
        )
    prefix = _prefix()
    found = [
        _Found(_read(each, *place), each.due)
        for each in memory.engine.waiting()
        for place in _places(each.message.onward or each.queue, prefix, burials=burials)
    ]
    if not burials:  # What came back, or waits for a retry, was not enqueued just now.
        found.sort(key=lambda each: each.envelope.queued_at)
    return found


def _prefix() -> str:
    """Return what the names of this test's cluster begin with."""
    client = current_client.get()
    if isinstance(client, Client):
        return client._config.prefix  # noqa: SLF001 -- the package's own
    return next((node.prefix for node in nodes_of_this_run()), "")


def _places(name: str, prefix: str, *, burials: bool) -> Iterator[tuple[str, str]]:
    """Yield the partition and the queue that a broker queue stands for."""
    partition, _, rest = name.removeprefix(prefix).rpartition("-")
    queue = rest.partition(".")[0]
    names = QueueNames.of(prefix, partition, queue)
    if name in ((names.buried,) if burials else (names.work, names.redelivered)):
        yield partition, queue


def _read(each: Waiting, partition: str, queue: str) -> Envelope:
    message = each.message
    if message.headers and burial.ERROR_HEADER in message.headers:
        return burial.read(
            message.body, message.message_id, message.headers, partition=partition, queue=queue
        )
    try:
        return wire.load(message.body, partition=partition, queue=queue)
    except wire.NotAJob:
        return burial.foreign(message.message_id, partition=partition, queue=queue)


# What is looked for...


def _class_of(job_type: JobType) -> type[Job]:
    if isinstance(job_type, JobFunction):
        return job_type.job_type
    if isinstance(job_type, type) and issubclass(job_type, Job):
        return job_type
    raise TypeError(f"expected a Job class or a function with @roger.job, got {job_type!r}")


def _names(job_type: type[Job]) -> tuple[str, ...]:
    return (job_type.options.name, *job_type.options.aliases)


def _is_of(job: Envelope, wanted: type[Job]) -> bool:
    if job.name in _names(wanted):
        return True
    try:
        return issubclass(registry.get(job.name), wanted)
    except UnknownJob:
        return False


def _select(
    jobs: list[Envelope], job_type: JobType | None, partition: str | None, queue: str | None
) -> list[Envelope]:
    wanted = None if job_type is None else _class_of(job_type)
    return [
        job
        for job in jobs
        if (wanted is None or _is_of(job, wanted))
        and partition in (None, job.partition)
        and queue in (None, job.queue)
    ]


@attrs.frozen
class _Expectation:
    """The job a test looks for."""

    job_type: type[Job]
    args: Mapping[str, Any]
    is_exact: bool
    partition: str | None
    queue: str | None

    @classmethod
    def of(
        cls,
        wanted: Job | JobType,
        partition: str | None,
        queue: str | None,
        args: Mapping[str, Any],
    ) -> _Expectation:
        """Say what is looked for; refuse arguments that no such job has."""
        if isinstance(wanted, Job):
            if args:
                raise TypeError(
                    f"expected a job, or a class and arguments, got {wanted!r} and both"
                )
            fields = {name: getattr(wanted, name) for name in _fields(type(wanted))}
            encode_args(wanted)  # One that could never be enqueued is a mistake of the test.
            return cls(type(wanted), fields, True, partition, queue)
        job_type = _class_of(wanted)
        for name in args:
            if name not in _fields(job_type):
                known = ", ".join(_fields(job_type)) or "none"
                raise TypeError(
                    f"job {job_type.options.name} has no argument {name!r}; it has: {known}"
                )
        return cls(job_type, args, False, partition, queue)

    def differences(self, job: Envelope) -> Iterator[str]:
        """Yield what differs, in words; nothing if the job fits."""
        same = job.name in _names(self.job_type) if self.is_exact else _is_of(job, self.job_type)
        if not same:
            yield "another job"
            return
        if self.partition not in (None, job.partition):
            yield f"partition: expected {self.partition!r}, got {job.partition!r}"
        if self.queue not in (None, job.queue):
            yield f"queue: expected {self.queue!r}, got {job.queue!r}"
        if self.args:
            yield from self._differing_args(job)

    def _differing_args(self, job: Envelope) -> Iterator[str]:
        try:
            ours = job.name in _names(self.job_type)
            loaded = decode_args(self.job_type, job.args) if ours else job.load()
        except RogerError as exc:
            yield str(exc)
            return
        for name, value in self.args.items():
            got = getattr(loaded, name, _ABSENT)
            if got is _ABSENT:
                yield f"{name}: expected {value!r}, got none"
            elif got != value:
                yield f"{name}: expected {value!r}, got {got!r}"

    def __str__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in self.args.items())
        text = f"{self.job_type.options.name}({args})" if args else self.job_type.options.name
        if self.partition is not None:
            text += f" in partition {self.partition!r}"
        if self.queue is not None:
            text += f" in queue {self.queue!r}"
        return text


def _fields(job_type: type[Job]) -> list[str]:
    return [field.name for field in attrs.fields(cast("Any", job_type))]


# What a failure says...


def _explanation(expectation: _Expectation, found: list[_Found]) -> Iterator[str]:
    if not found:
        yield f"expected that {expectation} is enqueued, but nothing is"
    else:
        yield f"expected that {expectation} is enqueued, but only {_number(len(found))}:"
        yield from _lines(
            [f"{each}: {'; '.join(expectation.differences(each.envelope))}" for each in found]
        )
    consumed = sorted({name for node in nodes_of_this_run() for name in node.consumed_places()})
    if consumed:
        yield (
            f"(a node of this run consumes {', '.join(consumed)} and may have taken it; "
            "running_node(partitions={}) leaves jobs alone)"
        )


def _number(count: int) -> str:
    return "1 job is" if count == 1 else f"{count} jobs are"


def _lines(texts: list[str]) -> Iterator[str]:
    for text in texts[:_MAX_LISTED]:
        yield f"  {text}"
    if len(texts) > _MAX_LISTED:
        yield f"  and {len(texts) - _MAX_LISTED} more"
