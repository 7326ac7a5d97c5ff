"""Jobs made from functions."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import attrs
import pytest

from roger_trio._errors import ConfigError, InvalidJob
from roger_trio._jobs.codec import decode_args, encode_args
from roger_trio._jobs.function import JobFunction, job
from roger_trio._jobs.job import Job
from roger_trio._jobs.registry import registry

from .sample_types import Address


@job
async def send_mail(to: str, subject: str = "hi", *, copies: int = 1) -> str:
    """Send a mail."""
    return f"{copies} x {subject} to {to}"


@job(
    queue="math",
    retryable=True,
    max_execution_time=5,
    retry_levels=(1,),
    name="add",
    aliases=["plus"],
)
def add(a: int, b: int = 2) -> int:
    """Add, in a thread."""
    return a + b


@job
async def anything(value, _hidden=None):  # type: ignore[no-untyped-def]
    """Return the arguments."""
    return value, _hidden


@job
async def deliver(address: Address, names: list[str]) -> None:
    """Take arguments with a structure."""


async def test_a_decorated_function_stays_a_function() -> None:
    """Calling it runs it here, async or not."""
    assert await send_mail("ada", copies=2) == "2 x hi to ada"
    assert add(1) == 3


def test_a_decorated_function_looks_like_itself() -> None:
    """Name, docstring and signature are the function's."""
    assert isinstance(send_mail, JobFunction)
    assert send_mail.__name__ == "send_mail"  # type: ignore[attr-defined]
    assert send_mail.__doc__ == "Send a mail."
    assert list(inspect.signature(send_mail).parameters) == ["to", "subject", "copies"]
    assert repr(send_mail) == f"<roger.job {__name__}:send_mail>"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect cannot be told before Python 3.12")
def test_inspect_sees_coroutine_functions() -> None:
    """From Python 3.12 on, inspect agrees about what has to be awaited."""
    assert inspect.iscoroutinefunction(send_mail)
    assert not inspect.iscoroutinefunction(add)


async def test_a_job_performs_the_call() -> None:
    """The arguments given to ``job`` are those the function gets."""
    made = send_mail.job("ada", copies=3)

    assert isinstance(made, Job)
    assert made == send_mail.job(to="ada", subject="hi", copies=3)
    assert repr(made) == "send_mail(to='ada', subject='hi', copies=3)"
    assert await made.perform() == "3 x hi to ada"
    assert add.job(1, 5).perform() == 6


def test_options_are_the_class_keywords() -> None:
    """Decorator options and class keywords are one set."""
    assert send_mail.options.name == f"{__name__}:send_mail"
    assert send_mail.options is send_mail.job_type.options
    assert (add.options.queue, add.options.retryable, add.options.aliases) == (
        "math",
        True,
        ("plus",),
    )
    assert registry.get("plus") is add.job_type
    assert add.job(1).queue_type() == "math"


def test_plain_functions_run_in_threads() -> None:
    """The job class tells the worker."""
    assert add.job_type.runs_in_thread
    assert not send_mail.job_type.runs_in_thread


def test_arguments_are_typed_by_the_annotations() -> None:
    """They travel and are checked like the fields of a class."""
    made = deliver.job(Address("1"), ["ada"])
    args = encode_args(made)

    assert args == {"address": {"zip": "1", "city": "Paris"}, "names": ["ada"]}
    assert decode_args(deliver.job_type, args) == made
    with pytest.raises(InvalidJob, match=rf"^job {__name__}:deliver: names\[0\]: expected text"):
        encode_args(deliver.job(Address("1"), [5]))  # type: ignore[list-item]


async def test_a_parameter_without_annotation_takes_any_json_value() -> None:
    """It travels as it is; a leading underscore is part of the name."""
    made = anything.job([1, {"a": None}], _hidden=2)

    assert encode_args(made) == {"value": [1, {"a": None}], "_hidden": 2}
    assert await decode_args(anything.job_type, encode_args(made)).perform() == (
        [1, {"a": None}],
        2,
    )


def test_wrong_calls_are_refused_at_once() -> None:
    """``job`` takes what the function takes."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'to'"):
        send_mail.job()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="cc"):
        send_mail.job("ada", cc="bob")  # type: ignore[call-arg]


def args(*values: int) -> None:
    """Refused."""


def kwargs(**values: int) -> None:
    """Refused."""


def positional(value: int, /) -> None:
    """Refused."""


def options(options: int) -> None:
    """Refused."""


def method(self: Any, a: int) -> None:
    """Refused."""


async def stream(a: int) -> Any:
    """Refused."""
    yield a


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (args, "args: values: expected parameters that can be passed by name, got a variadic pos"),
        (kwargs, "kwargs: values: expected parameters that can be passed by name, got a variadic"),
        (positional, "positional: value: expected parameters that can be passed by name, got a "),
        (options, "options: expected no parameter called .*, got 'options'"),
        (method, "method: expected no parameter called .*, got 'self'"),
        (stream, "stream: expected a function that returns, got a generator"),
    ],
)
def test_functions_that_cannot_be_jobs_are_refused(function: Any, complaint: str) -> None:
    """The error names function and parameter, when it is decorated."""
    with pytest.raises(ConfigError, match=rf"^job {__name__}:{complaint}"):
        job(function)


@pytest.mark.parametrize("function", [lambda: None, len, attrs])
def test_what_is_no_named_function_is_refused(function: Any) -> None:
    """A lambda has no name to be found by."""
    with pytest.raises(ConfigError, match=r"^job: expected a function with a name, got "):
        job(function)


def test_a_wrong_option_is_refused() -> None:
    """Options are checked like class keywords."""
    with pytest.raises(ConfigError, match=r"wrong: queue: expected 1 to 64 letters, .*, got 'a b'"):

        @job(queue="a b")
        async def wrong() -> None: ...
