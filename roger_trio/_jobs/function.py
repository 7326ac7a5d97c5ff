"""Jobs made from functions: the ``@roger.job`` decorator."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

import attrs

from .._errors import ConfigError
from .job import RESERVED, Job, JobOptions, refuse_generator
from .registry import module_name

P = ParamSpec("P")
R = TypeVar("R")

_POSITIONAL: Final = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY


class JobFunction(Generic[P, R]):
    """A function that is also a job: call it to run it here, `job` makes a job of a call.

    Made by ``@roger.job``; not to be constructed.
    """

    def __init__(self, function: Callable[P, R], job_type: type[Job]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.job_type: type[Job] = job_type
        """The `Job` subclass behind the function; its fields are the parameters."""
        if inspect.iscoroutinefunction(function) and sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)  # inspect.iscoroutinefunction() then agrees

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now, as if it were not decorated."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<roger.job {self.options.name}>"

    @property
    def options(self) -> JobOptions:
        """What the function was declared with."""
        return self.job_type.options

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job that will call the function with these arguments.

        Args:
            *args: The function's arguments.
            **kwargs: The function's keyword arguments.

        Returns:
            The job, to be enqueued.

        Raises:
            TypeError: The arguments do not match the function's parameters.
        """
        return cast("Callable[..., Job]", self.job_type)(*args, **kwargs)


@overload
def job(function: Callable[P, R], /) -> JobFunction[P, R]: ...


@overload
def job(
    *,
    queue: str = "default",
    retryable: bool = False,
    max_execution_time: float | None = None,
    retry_levels: Sequence[float] | None = None,
    process: bool = False,
    name: str | None = None,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...


def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a job of a function.

    The function stays a function: calling it runs it. ``function.job(...)`` is a `Job` whose
    arguments are the call's. A plain function runs in a Trio worker thread when performed, or
    with ``process=True`` in a worker process, for work that keeps a CPU busy. A parameter without
    annotation takes any JSON value.

    Args:
        function: The function, when used without parentheses.
        **options: The fields of `JobOptions`: ``queue`` ("default"), ``retryable`` (False),
            ``max_execution_time`` (seconds or None), ``retry_levels`` (None: the node's),
            ``process`` (False; needs the extra ``roger_trio[process]`` where it is performed),
            ``name`` (``module:qualname``), ``aliases`` (none).

    Returns:
        A `JobFunction`, or the decorator that makes it.

    Raises:
        ConfigError: An option breaks its rule (``process`` of an async function, or of one that is
            not at the top level of its module, too), or a parameter cannot be an argument of a job
            (``*args``, ``**kwargs``, positional-only); the message names function and parameter.
    """
    if function is None:
        return functools.partial(_decorate, options)
    return _decorate(options, function)


def _decorate(options: dict[str, Any], function: Callable[P, R]) -> JobFunction[P, R]:
    """Put a job class behind the function."""
    qualname = getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or not function.__name__.isidentifier():
        raise ConfigError(f"job: expected a function with a name, got {function!r}")
    where = f"{module_name(function.__module__)}:{qualname}"
    refuse_generator(where, function)
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        _check_parameter(where, parameter)
    namespace = _namespace(function, parameters)
    job_type = types.new_class(
        function.__name__, (Job,), options, lambda body: body.update(namespace)
    )
    return JobFunction(function, job_type)


def _check_parameter(where: str, parameter: inspect.Parameter) -> None:
    """Refuse a parameter that cannot be an argument of a job."""
    if parameter.kind not in (_POSITIONAL, _KEYWORD):
        raise ConfigError(
            f"job {where}: {parameter.name}: expected parameters that can be passed by name, "
            f"got a {parameter.kind.description} one ({parameter})"
        )
    if parameter.name in RESERVED:
        raise ConfigError(
            f"job {where}: expected no parameter called {', '.join(sorted(RESERVED))}, "
            f"got {parameter.name!r}"
        )


def _namespace(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> dict[str, Any]:
    """Write the body of the job class: a field per parameter, and a ``perform`` that calls."""
    annotations: dict[str, Any] = {}
    body: dict[str, Any] = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "__annotations__": annotations,
        "perform": _perform(function, parameters),
    }
    for parameter in parameters:
        annotation, default = parameter.annotation, parameter.default
        annotations[parameter.name] = Any if annotation is parameter.empty else annotation
        body[parameter.name] = attrs.field(
            default=attrs.NOTHING if default is parameter.empty else default,
            kw_only=parameter.kind is _KEYWORD,
            alias=parameter.name,  # attrs would strip a leading underscore
        )
    return body


def _perform(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Callable[[Job], Any]:
    """Make the ``perform`` that calls the function with the job's fields."""
    positional = tuple(each.name for each in parameters if each.kind is _POSITIONAL)
    keyword = tuple(each.name for each in parameters if each.kind is _KEYWORD)

    def call(self: Job) -> Any:
        return function(
            *(getattr(self, name) for name in positional),
            **{name: getattr(self, name) for name in keyword},
        )

    async def call_async(self: Job) -> Any:
        return await call(self)

    return call_async if inspect.iscoroutinefunction(function) else call
