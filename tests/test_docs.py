"""The README and the documentation say what is true: their code runs, their tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import roger_trio as roger
from tests.examples.names import hurried, note_names
from tests.rabbitmq import LOCAL_URL

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = ROOT / "docs" / "configuration.md"

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PATIENCE = 30.0


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The name its first line says it is to be saved under."""
        match = re.match(r"# (\w+\.py)\n", self.text)
        return match[1] if match else None


def blocks(*pages: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of pages, in order."""
    found: list[Block] = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            body = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
            found.append(Block(page, line, match[2], body))
    return [each for each in found if language in (None, each.language)]


def where(value: object) -> str:
    """Name a block in the test's name."""
    return f"{value.page.name}:{value.line}" if isinstance(value, Block) else str(value)


# Blocks that stand alone


@pytest.mark.parametrize("block", blocks(*PAGES, language="python"), ids=where)
def test_python_block_runs(block: Block, tmp_path: Path) -> None:
    """A block of Python runs in a process of its own; programs that need a broker are compiled."""
    path = tmp_path / "block.py"
    path.write_text(block.text, encoding="utf-8")
    compile(block.text, path, "exec", dont_inherit=True)
    if block.file_name is None:
        run(["python", path], tmp_path)


@pytest.mark.parametrize("block", blocks(*PAGES, language="toml"), ids=where)
def test_toml_block_is_a_configuration(block: Block, tmp_path: Path) -> None:
    """A block of TOML is a configuration that loads."""
    path = tmp_path / "roger.toml"
    path.write_text(block.text, encoding="utf-8")
    roger.Config.load(path, environ={})


@pytest.mark.parametrize(
    "url", re.findall(r"^amqps?://\S+$", CONFIGURATION.read_text(), re.MULTILINE)
)
def test_url_is_understood(url: str) -> None:
    """A URL on a line of its own is one of a broker."""
    roger.AmqpConfig.from_url(url)


def test_three_ways_to_name_a_broker_are_the_same(tmp_path: Path) -> None:
    """What the page calls the same is the same."""
    section = CONFIGURATION.read_text().partition("These three are the same")[2]
    url = re.search(r"^amqp://\S+$", section, re.MULTILINE)
    table = re.search(r"^```toml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    code = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert url is not None
    assert table is not None
    assert code is not None
    (tmp_path / "roger.toml").write_text(table[1])
    names: dict[str, Any] = {}
    exec(code[1], names)

    by_url = roger.AmqpConfig.from_url(url[0])

    assert by_url == names["broker"]
    assert by_url == roger.Config.load(tmp_path / "roger.toml", environ={}).broker_config()


def test_links_of_the_readme_lead_somewhere() -> None:
    """A relative link in the README names something in the repository."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)

    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_begins_with_two_commands() -> None:
    """On a machine with Python and git: first the demo, then the tests, as the noxfile has them."""
    readme = ROOT / "README.md"
    commands = "".join(block.text for block in blocks(readme, language="sh"))
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")

    sessions = re.findall(r"^nox -s (\w+)$", commands, re.MULTILINE)

    assert sessions == ["demo", "tests"]
    assert all(f"\ndef {name}(session" in noxfile for name in sessions)
    assert "The test command is `nox -s tests`" in readme.read_text(encoding="utf-8")
    assert len(readme.read_text(encoding="utf-8").splitlines()) < 150


# Tables


def table_rows(heading: str) -> Iterator[list[str]]:
    """Yield the rows of the table of options under a heading."""
    section = CONFIGURATION.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize(
    ("heading", "options"),
    [("`Config`", roger.Config), ("`AmqpConfig`", roger.AmqpConfig), ("TLS", roger.SslOptions)],
)
def test_table_has_every_option_and_its_default(heading: str, options: type[Any]) -> None:
    """The table of options has all fields of the class, in their order, with their defaults."""
    rows = list(table_rows(heading))
    fields = attrs.fields(options)

    assert [row[0] for row in rows] == [f"`{field.name}`" for field in fields]
    for row, field in zip(rows, fields, strict=True):
        if row[2] != "none":
            shown = eval(row[2].strip("`"), dict(vars(roger)))
            default = field.default
            made = default.factory() if isinstance(default, attrs.Factory) else default
            assert shown == made, row


# Sessions at a terminal


class Program:
    """A program started at a terminal; its output is read as it comes."""

    def __init__(self, command: str, cwd: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            shlex.split(command), cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )  # fmt: skip
        self._output = ""
        self._read_to = 0
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._news:
                    self._output += line
                    self._news.notify_all()

    def expect(self, line: str) -> None:
        """Wait for a line like this one, behind those expected before; … stands for anything."""
        pattern = re.compile(as_pattern(line), re.MULTILINE)
        deadline = time.monotonic() + _PATIENCE
        with self._news:
            while (found := pattern.search(self._output, self._read_to)) is None:
                left = deadline - time.monotonic()
                assert left > 0, f"no {line!r} in:\n{self._output}"
                self._news.wait(left)
            self._read_to = found.end()

    def wait(self) -> None:
        """Wait until it has ended by itself and all its output is read."""
        self._process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)

    def stop(self) -> None:
        """Press Ctrl-C, and wait until it has stopped well."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(_PATIENCE) == 0, self._output
        self._reader.join(_PATIENCE)


def as_pattern(line: str) -> str:
    """Turn a line of a page into a pattern; the widths of columns do not matter."""
    words = [re.escape(word).replace("…", ".*") for word in line.split()]
    return r"^[ \t]*" + r"[ \t]*".join(words) + r"[ \t]*$"


def run(command: list[object], cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed."""
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, encoding="utf-8", timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)} if environment is None else environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Session:
    """A reader who does in a directory of his own what a page says.

    Args:
        directory: Where.
        environment: Of the commands.
        broker: What the line says that moves to RabbitMQ; without it the page's broker is used.
        prefix: Of the names on that broker.
    """

    def __init__(
        self, directory: Path, environment: dict[str, str], broker: str = "", prefix: str = ""
    ) -> None:
        self._directory = directory
        self._broker = broker
        self._prefix = prefix
        self._environment = environment
        self._node: Program | None = None

    def follow(self, block: Block) -> None:
        """Save a file, or type commands, or see what the node says."""
        if block.language == "python" and block.file_name is not None:
            text = block.text
            if self._broker:  # The one line, and names of its own on a broker that others use.
                assert "broker=" not in text
                line = f'broker="{self._broker}", prefix="{self._prefix}", '
                text = text.replace("roger.Config(", f"roger.Config({line}")
            (self._directory / block.file_name).write_text(text, encoding="utf-8")
        elif block.language == "console":
            program = self._node
            for line in block.text.replace("'myapp-", f"'{self._prefix}myapp-").splitlines():
                if line.startswith("$ "):
                    program = self._type(line.removeprefix("$ "))
                else:
                    assert program is not None
                    program.expect(line)

    def _type(self, command: str) -> Program:
        if command.startswith("roger serve"):
            self.end()
            self._node = Program(command, self._directory, self._environment)
            return self._node
        done = Program(f"sh -c {shlex.quote(command)}", self._directory, self._environment)
        done.wait()
        return done

    def end(self) -> None:
        """Stop the node, if one runs."""
        if self._node is not None:
            self._node.stop()
            self._node.expect("… has stopped")
            self._node = None


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a shell in a virtual environment that has roger_trio."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, rest in (("python", ""), ("roger", "-m roger_trio")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {rest} "$@"\n')
        script.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if name != "ROGER_BROKER"},
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHONIOENCODING": "utf-8",
    }


QUICK_STARTS = pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])


def follow(name: str, session: Session) -> None:
    """Do all that a page says."""
    with ExitStack() as stack:
        stack.callback(session.end)
        for block in blocks(ROOT / name):
            session.follow(block)


@QUICK_STARTS
def test_page_works_as_written(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    """Who saves the files and types the commands of a page sees what the page says."""
    directory = tmp_path / "app"
    directory.mkdir()

    follow(name, Session(directory, environment))

    assert (directory / "roger.db").stat().st_mode & 0o777 == 0o600


@QUICK_STARTS
def test_page_works_on_rabbitmq(
    name: str,
    tmp_path: Path,
    amqp_url: str,
    prefix: str,
    environment: dict[str, str],
    created_queues: set[str],
    created_exchanges: set[str],
) -> None:
    """With the one line that the page says moves to RabbitMQ, it works the same there."""
    line = f'    broker="{LOCAL_URL}",\n'
    assert line in (ROOT / name).read_text(encoding="utf-8")
    note_names(prefix, [("myapp", "default")], created_queues, created_exchanges)
    directory = tmp_path / "app"
    directory.mkdir()

    follow(name, Session(directory, environment, hurried(amqp_url), prefix))

    assert not (directory / "roger.db").exists()


async def test_program_without_roger_trio_enqueues(
    tmp_path: Path,
    amqp_url: str,
    prefix: str,
    partition: str,
    created_queues: set[str],
    created_exchanges: set[str],
) -> None:
    """The plain AMQP program of the page on the wire format enqueues a job that can be read."""
    note_names(prefix, [(partition, "default")], created_queues, created_exchanges)
    (block,) = (b for b in blocks(ROOT / "docs" / "wire-format.md") if b.file_name is not None)
    text = block.text.replace(LOCAL_URL, amqp_url)
    (tmp_path / "plain.py").write_text(text.replace("myapp-", f"{prefix}{partition}-"))

    async with roger.connect(roger.Config(broker=hurried(amqp_url), prefix=prefix)) as client:
        await client.enqueue(Greeting("Bob"), partition)
        await trio.to_thread.run_sync(run, ["python", tmp_path / "plain.py"], tmp_path)
        jobs = await client.queued_jobs(partition, "default")

    assert [(job.name, job.args) for job in jobs] == [
        (Greeting.options.name, {"name": "Bob"}),
        ("app:greet", {"name": "Ada"}),
    ]


class Greeting(roger.Job):
    name: str

    async def perform(self) -> None:
        """Do nothing: it is only looked at."""
