"""The base class of jobs, and the options a job is declared with."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard, dataclass_transform

import attrs

from .._errors import ConfigError
from .context import ambient_client
from .registry import module_name, registry

if TYPE_CHECKING:  # Envelope stands on this module
    from .envelope import Envelope

QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
MAX_NAME_BYTES: Final = 200


class Inherit(Enum):
    """The value of an option that was not given: the parent class decides."""

    OPTION = "inherit"


INHERIT: Final = Inherit.OPTION


def _refuse(options: JobOptions, option: str, rule: str, value: object) -> ConfigError:
    """Build the error for an option that breaks its rule."""
    return ConfigError(f"job {options.name}: {option}: expected {rule}, got {value!r}")


def _is_number(value: object) -> TypeGuard[float]:
    """Tell whether ``value`` is a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of a float
        return False


def _is_name(value: object) -> bool:
    """Tell whether ``value`` can name a job: printable text of 1 to 200 bytes."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value.encode(errors="replace")) <= MAX_NAME_BYTES
    )


@attrs.frozen(kw_only=True)
class JobOptions:
    """What a job is declared with: the class keywords, or the options of ``@roger.job``.

    Raises:
        ConfigError: An option breaks its rule; the message names job, option, rule and value.
    """

    name: str
    """The name on the wire, printable text of 1 to 200 bytes. Default: ``module:qualname``."""
    queue: str = "default"
    """The queue, 1 to 64 letters, digits or ``_``."""
    retryable: bool = False
    """Whether a failure is retried through the retry levels before the job is buried."""
    max_execution_time: float | None = None
    """Seconds one attempt may take; None for no limit."""
    retry_levels: tuple[float, ...] | None = None
    """Seconds to wait before each retry; None for the node's levels."""
    aliases: tuple[str, ...] = ()
    """Old names that are still accepted from the wire."""
    process: bool = False
    """Whether ``perform``, a plain function, runs in a worker process, which can be killed."""

    def __attrs_post_init__(self) -> None:
        if not _is_name(self.name):
            raise _refuse(self, "name", "printable text of 1 to 200 bytes", self.name)
        if not isinstance(self.queue, str) or not QUEUE_NAME.fullmatch(self.queue):
            raise _refuse(self, "queue", "1 to 64 letters, digits or '_'", self.queue)
        if not isinstance(self.retryable, bool):
            raise _refuse(self, "retryable", "True or False", self.retryable)
        if not isinstance(self.process, bool):
            raise _refuse(self, "process", "True or False", self.process)
        limit = self.max_execution_time
        if limit is not None and not (_is_number(limit) and limit > 0):
            raise _refuse(self, "max_execution_time", "seconds above 0, or None", limit)
        self._freeze("retry_levels", "numbers of seconds, each at least 0, or None")
        self._freeze("aliases", "printable texts of 1 to 200 bytes")

    def _freeze(self, option: str, rule: str) -> None:
        """Check a sequence option and keep it as a tuple."""
        value: Sequence[Any] | None = getattr(self, option)
        if value is None and option == "retry_levels":
            return
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise _refuse(self, option, f"a sequence of {rule}", value)
        for item in value:
            fits = _is_name(item) if option == "aliases" else _is_number(item) and item >= 0
            if not fits:
                raise _refuse(self, option, rule, value)
        object.__setattr__(self, option, tuple(value))


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
class Job:
    """A unit of work: its annotated fields are its arguments, `perform` is what it does.

    Every subclass becomes a frozen attrs class; no decorator is needed::

        class ResizeImage(roger.Job, queue="images", retryable=True, max_execution_time=60):
            path: str
            width: int = 640

            async def perform(self) -> None: ...

    The class keywords are the fields of `JobOptions`. ``queue``, ``retryable``,
    ``max_execution_time``, ``retry_levels`` and ``process`` are inherited from the parent class
    where they are not given, like everything else a class has; ``name`` and ``aliases`` belong to
    one class.
    A class without a ``perform`` of its own or of a parent is an abstract base: it can carry
    fields, methods and options, and cannot be enqueued.

    Raises:
        ConfigError: At class creation: an option breaks its rule, the name is taken, a field has
            the name of something every job has, or a worker process could not run or find it.

    Delivery: a job is performed at least once. Write ``perform`` so that a second run after a
    crash does no harm.
    """

    options: ClassVar[JobOptions] = JobOptions(name="roger_trio:Job")
    """What the class was declared with."""
    runs_in_thread: ClassVar[bool] = False
    """Whether `perform` is a plain function, which a worker runs in a Trio thread.

    Not where the ``process`` option is set: then it runs in a worker process.
    """

    def __init_subclass__(
        cls,
        *,
        queue: str | Inherit = INHERIT,
        retryable: bool | Inherit = INHERIT,
        max_execution_time: float | Inherit | None = INHERIT,
        retry_levels: Sequence[float] | Inherit | None = INHERIT,
        process: bool | Inherit = INHERIT,
        name: str | None = None,
        aliases: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Make the subclass a frozen attrs class and register it."""
        default_name = f"{module_name(cls.__module__)}:{cls.__qualname__}"
        _call_next_init_subclass(cls, default_name, kwargs)
        given: dict[str, Any] = {
            "name": default_name if name is None else name,
            "aliases": aliases,
            "queue": queue,
            "retryable": retryable,
            "max_execution_time": max_execution_time,
            "retry_levels": retry_levels,
            "process": process,
        }
        cls.options = attrs.evolve(
            cls.options,
            **{option: value for option, value in given.items() if value is not INHERIT},
        )
        _make_attrs_class(cls)
        if cls.perform is not Job.perform:
            refuse_generator(cls.options.name, cls.perform)
            is_async = inspect.iscoroutinefunction(cls.perform)
            if cls.options.process:
                _check_process(cls, is_async=is_async)
            cls.runs_in_thread = not is_async and not cls.options.process
            registry.add(cls)

    def perform(self) -> Any:
        """Do the work; the only thing a job must have.

        Write it ``async def``, or as a plain ``def``, which runs in a Trio worker thread, or with
        the option ``process`` in a worker process.

        Returns:
            Anything; it is handed to `Callbacks.after_run` and then dropped. From a worker process
            it comes by pickle.

        Raises:
            Retry, Snooze, Bury, Discard: To end the attempt that way.
            Exception: Anything else is a failure: retried if the job is ``retryable``.

        Cancellation: the job's scope is cancelled by ``cancel``, by ``max_execution_time``, and at
        shutdown after ``shutdown_timeout``; ``finally`` blocks run. When the connection that
        brought it is lost it goes on, and is cancelled only where another node runs it by then, or
        may have its execution key. A plain function in a thread cannot be interrupted. One in a
        worker process is killed with its process, and its ``finally`` blocks do not run.
        """
        raise NotImplementedError(f"{type(self).__name__} has no perform")

    def queue_key(self) -> str | None:
        """Return a key that at most one queued or running job may hold, or None (the default)."""
        return None

    def execution_key(self) -> str | None:
        """Return a key that at most one running job may hold, or None (the default)."""
        return None

    def queue_type(self) -> str:
        """Return the queue this job goes to. Default: the ``queue`` option."""
        return self.options.queue

    async def enqueue(
        self,
        partition: str,
        *,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        id: str | None = None,
    ) -> Envelope:
        """Enqueue this job through the ambient client; see `Client.enqueue`.

        Args:
            partition: The partition's name.
            queue: The queue. Default: what `queue_type` returns.
            delay: Seconds to wait before the job may run.
            at: The aware time before which it does not run. Not together with ``delay``.
            id: The job's id. Default: a new one.

        Returns:
            The job with its bookkeeping, once the broker has confirmed it.

        Raises:
            RogerError: There is no ambient client here: call it inside a job or inside
                ``async with roger.connect(...)``.
            InvalidJob, DuplicateJob, PartitionNotRunning, BrokerUnavailable: As `Client.enqueue`.
        """
        client = ambient_client()
        return await client.enqueue(self, partition, queue=queue, delay=delay, at=at, id=id)


RESERVED: Final = frozenset(name for name in vars(Job) if not name.startswith("__")) | {"self"}
"""Names a field cannot have."""


def _call_next_init_subclass(cls: type[Job], name: str, kwargs: dict[str, Any]) -> None:
    """Pass keywords that are not options on to the other bases."""
    try:
        super(Job, cls).__init_subclass__(**kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        known = ", ".join(field.name for field in attrs.fields(JobOptions))
        raise ConfigError(
            f"job {name}: expected the options {known}, got {', '.join(kwargs)}"
        ) from error


def _make_attrs_class(cls: type[Job]) -> None:
    """Turn the class into a frozen attrs class in place."""
    name = cls.options.name
    taken = RESERVED.intersection(vars(cls).get("__annotations__", ()))
    if taken:
        reserved = ", ".join(sorted(RESERVED))
        raise ConfigError(f"job {name}: expected no argument called {reserved}, got {min(taken)!r}")
    attrs.frozen(slots=False)(cls)


def _check_process(cls: type[Job], *, is_async: bool) -> None:
    """Raise `ConfigError` for a job that a worker process could not run, or not find."""
    rule = f"job {cls.options.name}: process: expected "
    if is_async:
        raise ConfigError(f"{rule}a plain function, as no Trio runs in there, got an async one")
    if "<locals>" in cls.__qualname__:
        raise ConfigError(
            f"{rule}a job at the top level of its module, which worker processes import, "
            f"got {cls.__qualname__}"
        )


def refuse_generator(name: str, function: Callable[..., Any]) -> None:
    """Raise `ConfigError` for a function that yields: its body would never run."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"job {name}: expected a function that returns, got a generator function")
