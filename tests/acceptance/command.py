"""The command ``roger`` as an operator has it: a process of its own, in a folder with an app."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from signal import Signals
from subprocess import PIPE

import attrs
import trio

from tests.leaks import look

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds that anything here may take."""

APP = """
import logging
import attrs, trio
import roger_trio as roger

logger = logging.getLogger("app")

@roger.job
async def greet(name: str = "you") -> None:
    logger.info("hello %s", name, extra={{"size": len(name)}})

@roger.job(retryable=True, retry_levels=())
def fail(reason: str) -> None:
    raise ValueError(reason)

@roger.job
async def hang() -> None:
    logger.info("hanging")
    await trio.sleep_forever()

config = roger.Config(
    broker=attrs.evolve(roger.AmqpConfig.from_url({url!r}), queue_settle_time=0),
    prefix={prefix!r},
    partitions={{{partition!r}: {{"default": 2}}}},
    shutdown_timeout=60,
)
"""


@attrs.frozen
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class Process:
    """A command that runs; its stderr is read line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._news = trio.Event()
        self._closed = trio.Event()
        self.log: list[str] = []
        self.out = ""

    async def read_log(self) -> None:
        """Read stderr to its end."""
        assert self._process.stderr is not None
        rest = b""
        async for chunk in self._process.stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            self.log += [look(line) for line in lines]
            self._tell()
        self.log += [look(rest)] if rest else []
        self._closed.set()
        self._tell()

    async def read_out(self) -> None:
        """Read stdout to its end."""
        assert self._process.stdout is not None
        data = b"".join([chunk async for chunk in self._process.stdout])
        self.out = look(data)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait_log(self, text: str, *, count: int = 1) -> str:
        """Wait for so many lines of the log that have a text, and return the last."""
        with trio.move_on_after(PATIENCE):
            while True:
                found = [line for line in self.log if text in line]
                if len(found) >= count:
                    return found[count - 1]
                await self._news.wait()
        raise AssertionError("\n".join((f"no line has {text!r}:", *self.log)))

    def signal(self, number: Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Send a signal to its process group, as a terminal does; it must have one of its own."""
        os.killpg(self._process.pid, number)

    async def wait_closed(self) -> None:
        """Wait until it and all that it has started have closed the log."""
        with trio.fail_after(PATIENCE):
            await self._closed.wait()

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        with trio.fail_after(PATIENCE):
            return await self._process.wait()


class Roger:
    """The command ``roger``.

    Args:
        folder: Where it is called; the app is ``app.py`` there.
        url: The broker.
        prefix: The run's prefix.
        partition: The test's partition.
    """

    def __init__(self, folder: Path, url: str, prefix: str, partition: str) -> None:
        self.folder = folder
        self.partition = partition
        folder.joinpath("app.py").write_text(
            APP.format(url=url, prefix=prefix, partition=partition)
        )
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "ROGER_BROKER"}},
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "XDG_STATE_HOME": str(folder),
        }

    def command(self, *words: str) -> list[str]:
        """Return the command line of ``roger`` with these words."""
        return [sys.executable, "-m", "roger_trio", *words]

    async def __call__(self, *words: str, stdin: bytes = b"") -> Done:
        """Run a command to its end."""
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                self.command(*words), stdin=stdin, capture_stdout=True, capture_stderr=True,
                check=False, cwd=self.folder, env=self.environment,
            )  # fmt: skip
        return Done(done.returncode, look(done.stdout), look(done.stderr))

    async def ask(self, command: str, *words: str) -> str:
        """Run a command on the app and the partition that has to succeed; return what it said."""
        done = await self(command, "app:config", self.partition, *words)
        assert done.status == 0, done
        return done.out

    @asynccontextmanager
    async def running(self, *words: str, own_group: bool = False) -> AsyncGenerator[Process]:
        """Have a command run; it is killed at the end of the block, if it still does.

        Args:
            words: Those of the command.
            own_group: Whether it has a process group of its own, to be signalled as a whole.
        """
        opened = await trio.lowlevel.open_process(
            self.command(*words), stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE,
            cwd=self.folder, env=self.environment, start_new_session=own_group,
        )  # fmt: skip
        process = Process(opened)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.read_log)
            nursery.start_soon(process.read_out)
            try:
                yield process
            finally:
                opened.kill()
                with trio.CancelScope(shield=True):
                    await opened.wait()

    @asynccontextmanager
    async def serving(self, *words: str) -> AsyncGenerator[Process]:
        """Have a node run."""
        async with self.running("serve", "app:config", *words) as node:
            await node.wait_log("is ready")
            yield node

    def on_terminal(self, words: Sequence[str], answer: bytes = b"") -> Done:
        """Run a command on a terminal, type an answer; both its outputs are returned as one."""
        with _terminal() as (ours, theirs):
            process = subprocess.Popen(
                self.command(*words), stdin=theirs, stdout=theirs, stderr=theirs,
                cwd=self.folder, env=self.environment,
            )  # fmt: skip
            os.close(theirs)
            os.write(ours, answer)
            shown = _read_terminal(ours)
            return Done(process.wait(PATIENCE), shown, "")


@contextmanager
def _terminal() -> Generator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def _read_terminal(terminal: int) -> str:
    data = b""
    try:
        while chunk := os.read(terminal, 65_536):
            data += chunk
    except OSError:  # how Linux says that nobody has the other end any more
        pass
    return look(data)
