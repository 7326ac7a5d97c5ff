"""The fixtures, in a pytest of its own that finds them as it would once installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "testing.md"
FILE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Project:
    """A user's project in a folder, with roger_trio's entry points as pyproject.toml has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
        points = "".join(f"{name} = {value}\n" for name, value in declared["pytest11"].items())
        installed = folder / "installed" / "roger_trio_kit-0.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: roger-trio-kit\nVersion: 0\n"
        )
        (installed / "entry_points.txt").write_text(f"[pytest11]\n{points}")
        self.write("pytest.ini", "[pytest]\ntrio_mode = true\nfilterwarnings = error\n")

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run pytest."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(self.folder / "installed"))),
            "PY_COLORS": "0",
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project."""
    return Project(tmp_path)


JOBS = """
import roger_trio as roger

seen = []

@roger.job
async def note(text: str) -> None:
    seen.append((text, roger.current_job().partition))
"""


def test_the_fixture_is_a_running_node(project: Project) -> None:
    """`roger_node` performs jobs, each test begins empty, and the clock may jump."""
    project.write("jobs.py", JOBS)
    project.write(
        "test_it.py",
        """
import trio
from jobs import note, seen
from roger_trio.testing import RunningNode, buried, enqueued

async def test_one(roger_node):
    assert isinstance(roger_node, RunningNode)
    await note.job("a").enqueue("test")
    await note.job("left").enqueue("elsewhere")
    await roger_node.run_until_idle()
    assert seen == [("a", "test")]

async def test_two(autojump_clock, roger_node):
    assert enqueued() == buried() == []
    await note.job("b").enqueue("test", delay=1000)
    await roger_node.run_until_idle()
    assert trio.current_time() >= 1000

async def test_three(roger_node, autojump_clock):
    await note.job("c").enqueue("test", delay=1000)
    await roger_node.run_until_idle()
    assert [text for text, _ in seen] == ["a", "b", "c"]
""",
    )
    done = project.run("-q")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_configuration_can_be_overridden(project: Project) -> None:
    """A fixture `roger_config` of the project says what the node runs."""
    project.write("jobs.py", JOBS)
    project.write(
        "conftest.py",
        """
import pytest
import roger_trio as roger

@pytest.fixture
def roger_config():
    return roger.Config(broker="amqp://nowhere.invalid/", partitions={"mine": {"default": 1}})
""",
    )
    project.write(
        "test_it.py",
        """
from jobs import note, seen

async def test_one(roger_node):
    await note.job("a").enqueue("mine")
    await roger_node.run_until_idle()
    assert seen == [("a", "mine")]
""",
    )
    done = project.run("-q")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_marked_tests_without_trio_mode(project: Project) -> None:
    """The fixture works for tests marked with trio, too."""
    project.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
    project.write(
        "test_it.py",
        """
import pytest

@pytest.mark.trio
async def test_one(roger_node):
    await roger_node.run_until_idle()
""",
    )
    done = project.run("-q")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_failing_test_fails_alone(project: Project) -> None:
    """What a test raises is reported as it is, and the node stops at once."""
    project.write(
        "test_it.py",
        """
import trio
import roger_trio as roger

@roger.job
async def hang() -> None:
    await trio.sleep_forever()

async def test_one(roger_node):
    await hang.job().enqueue("test")
    await trio.testing.wait_all_tasks_blocked()
    assert 1 == 2

async def test_two(roger_node):
    await roger_node.run_until_idle()
""",
    )
    done = project.run("-q")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout


def test_the_fixtures_are_listed(project: Project) -> None:
    """`pytest --fixtures` shows both, with what they are for."""
    project.write("test_it.py", "")
    done = project.run("--fixtures")
    assert re.search(
        r"^roger_node .*\n +Run a node on the broker in memory", done.stdout, re.MULTILINE
    )
    assert re.search(
        r"^roger_config .*\n +Return what `roger_node` runs", done.stdout, re.MULTILINE
    )


def test_a_project_that_does_not_use_it_is_left_alone(project: Project) -> None:
    """Without a fixture asked for, nothing of the test kit is imported."""
    project.write(
        "test_it.py",
        """
import sys

def test_one():
    assert "roger_trio._pytest_plugin" in sys.modules
    assert "roger_trio.testing" not in sys.modules
    assert "aiormq" not in sys.modules
""",
    )
    done = project.run("-q")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_examples_of_the_page_pass(project: Project) -> None:
    """The tests that the page on testing shows pass, all together and without a warning."""
    page = PAGE.read_text(encoding="utf-8")
    blocks = FILE.findall(page)
    assert len(blocks) == page.count("```python")
    for name, text in blocks:
        project.write(name, text)
    done = project.run("-q")
    assert re.search(r"^14 passed", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_the_message_on_the_page_is_the_real_one(project: Project) -> None:
    """The failure that the page shows is what the assertion says."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    ):
        if name in {"jobs.py", "test_enqueued.py"}:
            wrong = 'assert_enqueued(send_mail, to="alan@example.com")'
            project.write(
                name, text.replace('refute_enqueued(send_mail, to="alan@example.com")', wrong)
            )
    project.write("pytest.ini", "[pytest]\ntrio_mode = true\n")
    done = project.run("-q", "--tb=short")
    [message] = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown = re.sub(r"^[ |E]*", "", done.stdout, flags=re.MULTILINE)
    expected = re.sub(r"^ *", "", message, flags=re.MULTILINE)
    # The clock is a real one here, so that an hour is a little less.
    assert expected in re.sub(r"due in 3599\.\d+ s|due in 3600 s", "due in 3600 s", shown), (
        done.stdout
    )
