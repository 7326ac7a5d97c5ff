"""Job classes and their options."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import pytest

import roger_trio as roger
from roger_trio._errors import ConfigError
from roger_trio._jobs.job import Job, JobOptions
from roger_trio._jobs.registry import registry
from tests.apps import crunching


class Resize(
    Job,
    queue="images",
    retryable=True,
    max_execution_time=60,
    retry_levels=[1, 2.5],
    name="resize",
    aliases=["old:Resize"],
):
    limit: ClassVar[int] = 5
    path: str
    width: int = 640
    tags: list[str] = attrs.field(factory=list)

    async def perform(self) -> str:
        return self.path


def make(**options: Any) -> type[Job]:
    """Make a job class with these options, in another scope each time."""
    body = {"perform": Resize.perform, "__module__": __name__, "__qualname__": "make.Made"}
    return type("Made", (Job,), body, **options)


def test_a_subclass_is_a_frozen_attrs_class() -> None:
    """Fields become constructor arguments; jobs are equal by value and cannot be changed."""
    job = Resize("cat.png", width=100)

    assert job == Resize("cat.png", 100, [])
    assert job != Resize("dog.png", 100)
    assert repr(job) == "Resize(path='cat.png', width=100, tags=[])"
    assert [field.name for field in attrs.fields(Resize)] == ["path", "width", "tags"]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        job.width = 5  # type: ignore[misc]


def test_options_come_from_the_class_keywords() -> None:
    """What was declared is kept, frozen."""
    assert Resize.options == JobOptions(
        name="resize",
        queue="images",
        retryable=True,
        max_execution_time=60,
        retry_levels=(1, 2.5),
        aliases=("old:Resize",),
    )
    assert registry.get("resize") is registry.get("old:Resize") is Resize


def test_the_defaults_are_the_contracts() -> None:
    """Without keywords: queue default, no retries, no limit, named after module and class."""

    class Plain(Job):
        async def perform(self) -> None: ...

    name = f"{__name__}:test_the_defaults_are_the_contracts.<locals>.Plain"
    assert Plain.options == JobOptions(
        name=name,
        queue="default",
        retryable=False,
        max_execution_time=None,
        retry_levels=None,
        aliases=(),
    )
    assert registry.get(name) is Plain


def test_keys_and_queue_have_defaults() -> None:
    """Without methods of its own a job has no keys and goes to the queue of its options."""
    job = Resize("cat.png")

    assert job.queue_key() is None
    assert job.execution_key() is None
    assert job.queue_type() == "images"


def test_options_are_inherited_but_names_are_not() -> None:
    """A base class sets what its jobs have in common, and a job may set it back."""

    class Base(Job, queue="mail", retryable=True, max_execution_time=5, aliases=["base"]):
        to: str

    class Welcome(Base, max_execution_time=None):
        text: str = "hi"

        async def perform(self) -> None: ...

    assert Welcome("ada").to == "ada"
    options = Welcome.options
    assert (options.queue, options.retryable, options.max_execution_time) == ("mail", True, None)
    assert options.name.endswith("Welcome")
    assert options.aliases == ()


def test_a_class_without_perform_is_not_registered() -> None:
    """An abstract base has no name on the wire."""

    class Base(Job):
        async def helper(self) -> None: ...

    class Inherits(Resize):
        pass

    assert Base.options.name not in registry
    assert registry.get(Inherits.options.name) is Inherits
    with pytest.raises(NotImplementedError, match="Base has no perform"):
        Base().perform()


def test_a_plain_perform_runs_in_a_thread() -> None:
    """The class tells the worker whether perform is a coroutine function."""

    class Sync(Job):
        def perform(self) -> int:
            return 1

    class Changed(Sync):
        async def perform(self) -> int:  # type: ignore[override]
            return 2

    assert Sync.runs_in_thread
    assert not Changed.runs_in_thread
    assert not Resize.runs_in_thread


def test_process_is_inherited_and_asks_for_a_plain_perform() -> None:
    """A base class may set it for its jobs, one of which may set it back; no thread is meant."""

    class Base(Job, process=True):
        """Without perform: it is nothing that a process could run."""

    assert not Base.runs_in_thread
    with pytest.raises(ConfigError, match=r"process: expected a plain function.*got an async one"):

        class Async(Base):
            async def perform(self) -> None: ...

    class Back(Base, process=False):
        async def perform(self) -> None: ...

    assert Base.options.process
    assert not Back.options.process
    assert crunching.Count.options.process
    assert not crunching.Count.runs_in_thread


def test_a_job_in_a_process_must_be_found_there() -> None:
    """One that is local to a function is not defined by importing its module."""
    rule = r"process: expected a job at the top level of its module.*got test_a_job.*<locals>\."
    with pytest.raises(ConfigError, match=rule):

        class Local(Job, process=True):
            def perform(self) -> None: ...

    with pytest.raises(ConfigError, match=rule):

        @roger.job(process=True)
        def local() -> None: ...


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("queue", "", "1 to 64 letters, digits or '_', got ''"),
        ("queue", "a-b", "1 to 64 letters, digits or '_', got 'a-b'"),
        ("queue", "é", "1 to 64 letters, digits or '_', got 'é'"),
        ("queue", "a" * 65, "1 to 64 letters, digits or '_', got 'aaa"),
        ("queue", "a\n", "1 to 64 letters, digits or '_', got 'a\\n'"),
        ("queue", None, "1 to 64 letters, digits or '_', got None"),
        ("retryable", 1, "True or False, got 1"),
        ("process", 1, "True or False, got 1"),
        ("process", True, "a plain function, as no Trio runs in there, got an async one"),
        ("max_execution_time", 0, "seconds above 0, or None, got 0"),
        ("max_execution_time", math.inf, "seconds above 0, or None, got inf"),
        ("max_execution_time", 10**400, "seconds above 0, or None, got 1000"),
        ("max_execution_time", True, "seconds above 0, or None, got True"),
        ("max_execution_time", "5", "seconds above 0, or None, got '5'"),
        ("retry_levels", 5, "a sequence of numbers of seconds, each at least 0, or None, got 5"),
        ("retry_levels", [1, -1], "numbers of seconds, each at least 0, or None, got [1, -1]"),
        ("retry_levels", [math.nan], "numbers of seconds, each at least 0, or None, got [nan]"),
        ("aliases", "old", "a sequence of printable texts of 1 to 200 bytes, got 'old'"),
        ("aliases", None, "a sequence of printable texts of 1 to 200 bytes, got None"),
        ("aliases", [""], "printable texts of 1 to 200 bytes, got ['']"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: Any, complaint: str) -> None:
    """The error names job, option, rule and value, and nothing is registered."""
    with pytest.raises(ConfigError) as caught:
        make(**{option: value})

    assert str(caught.value).startswith(f"job {__name__}:make.Made: {option}: expected {complaint}")
    assert f"{__name__}:make.Made" not in registry


@pytest.mark.parametrize("name", ["", "a\nb", "é" * 101, "\ud800", 5])
def test_a_wrong_name_is_refused(name: Any) -> None:
    """A name is printable text of 1 to 200 bytes."""
    with pytest.raises(ConfigError, match="name: expected printable text of 1 to 200 bytes, got"):
        make(name=name)


def test_no_retry_levels_are_a_choice() -> None:
    """An empty sequence is not None: the first failure buries."""
    assert make(name="no-levels", retry_levels=[]).options.retry_levels == ()


def test_an_unknown_option_is_refused_by_name() -> None:
    """A misspelt class keyword is named beside the known ones."""
    with pytest.raises(ConfigError, match=r"expected the options name, queue, .*, got retrayble"):
        make(retrayble=True)


def test_keywords_reach_other_bases() -> None:
    """A mixin may take class keywords of its own."""
    seen = []

    class Mixin:
        def __init_subclass__(cls, *, colour: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            seen.append(colour)

    class Painted(Job, Mixin, colour="red", queue="paint"):
        async def perform(self) -> None: ...

    assert seen == ["red"]
    assert Painted.options.queue == "paint"

    with pytest.raises(TypeError, match="colour"):

        class Unpainted(Job, Mixin):
            pass


@pytest.mark.parametrize("name", ["queue_key", "perform", "options", "enqueue", "self"])
def test_a_field_cannot_hide_what_every_job_has(name: str) -> None:
    """A field with such a name would break the worker, so it is refused."""
    body = {"__annotations__": {name: "str"}, "__module__": __name__}

    with pytest.raises(ConfigError, match=f"expected no argument called .*, got {name!r}"):
        type("Hiding", (Job,), body)


def test_a_generator_is_no_perform() -> None:
    """Its body would never run."""
    with pytest.raises(ConfigError, match="Yields: expected a function that returns, got a gen"):

        class Yields(Job):
            async def perform(self) -> Any:
                yield 1
