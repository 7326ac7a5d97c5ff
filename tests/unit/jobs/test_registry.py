"""Names of jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roger_trio._errors import ConfigError, UnknownJob
from roger_trio._jobs.job import Job, JobOptions
from roger_trio._jobs.registry import Registry, module_name, registry


def make(module: str, qualname: str, *, name: str = "", aliases: tuple[str, ...] = ()) -> type[Job]:
    """Make a class that looks as if it came from somewhere, outside the process's registry."""
    options = JobOptions(name=name or f"{module}:{qualname}", aliases=aliases)
    body = {"__module__": module, "__qualname__": qualname, "options": options}
    bare: Any = type(qualname.rpartition(".")[2], (), body)
    return bare  # type: ignore[no-any-return]


def test_a_job_is_found_by_name_and_alias() -> None:
    """Both lead to the class, and iteration shows it once."""
    names, mail = Registry(), make("app", "Mail", aliases=("old:Mail",))
    names.add(mail)

    assert names.get("app:Mail") is names.get("old:Mail") is mail
    assert list(names) == [mail]
    assert "old:Mail" in names
    assert "Mail" not in names


def test_an_unknown_name_imports_nothing() -> None:
    """A name from the wire is looked up and nothing else, even if a module has that name."""
    sys.modules.pop("antigravity", None)

    with pytest.raises(UnknownJob) as caught:
        registry.get("antigravity:Job")

    assert caught.value.name == "antigravity:Job"
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("aliases", [(), ("app:Mail",)])
def test_a_name_belongs_to_one_class(aliases: tuple[str, ...]) -> None:
    """A second class with a taken name or alias is refused, and neither is changed."""
    names, mail = Registry(), make("app", "Mail")
    names.add(mail)
    rival = make("other", "Mail", name="" if aliases else "app:Mail", aliases=aliases)

    with pytest.raises(ConfigError, match=r"got 'app:Mail' for other:Mail, .* taken by app:Mail"):
        names.add(rival)

    assert list(names) == [mail]


def test_the_same_class_again_replaces_the_former() -> None:
    """A reloaded module's class takes over, and aliases it dropped are gone."""
    names, before = Registry(), make("app", "Mail", aliases=("old",))
    names.add(before)
    after = make("app", "Mail")
    names.add(after)

    assert list(names) == [after]
    assert "old" not in names


def test_classes_of_one_origin_with_different_names_live_together() -> None:
    """A function that makes job classes may give each its own name."""
    names, one, two = Registry(), make("app", "f.J", name="one"), make("app", "f.J", name="two")
    names.add(one)
    names.add(two)

    assert list(names) == [one, two]


def test_find_takes_what_a_person_types() -> None:
    """Full names, aliases, and class names that only one job has."""
    names, mail = Registry(), make("app", "Outer.Mail", aliases=("old",))
    names.add(mail)

    for text in ("app:Outer.Mail", "old", "Outer.Mail", "Mail"):
        assert names.find(text) is mail
    with pytest.raises(UnknownJob):
        names.find("Outer")


def test_find_refuses_to_guess() -> None:
    """Two classes of one name are listed by their full names."""
    names = Registry()
    names.add(make("b", "Mail"))
    names.add(make("a", "Mail"))

    with pytest.raises(ConfigError, match="got 'Mail': a:Mail, b:Mail"):
        names.find("Mail")


def test_other_modules_keep_their_names() -> None:
    """Only __main__ is renamed."""
    assert module_name("app.jobs") == "app.jobs"


APP = """
import roger_trio._jobs.job as jobs
class Ping(jobs.Job):
    async def perform(self): ...
print(Ping.options.name)
"""


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["app.py"], "app:Ping"),
        (["-m", "app"], "app:Ping"),
        (["-m", "package"], "package.__main__:Ping"),
        (["-c", APP], "__main__:Ping"),
    ],
)
def test_jobs_of_the_main_program_are_named_like_its_module(
    tmp_path: Path, arguments: list[str], printed: str
) -> None:
    """A job has the same name in ``python app.py`` and in a node that imports ``app``."""
    root = Path(__file__).parents[3]
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(APP)
    output = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert output.strip() == printed
