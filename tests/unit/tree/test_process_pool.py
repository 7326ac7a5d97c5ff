"""Worker processes: what crosses, what does not, and who may have any."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import traceback
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import roger_trio as roger
from roger_trio._jobs.envelope import Envelope
from roger_trio._messages import make_envelope
from roger_trio._tree.process_pool import CannotStart, ProcessPool, check_node, usable_cpus
from roger_trio.testing import perform_job, running_node
from tests.apps import crunching as app

ROOT = Path(__file__).parents[3]


async def perform(pool: ProcessPool, job: roger.Job) -> Any:
    """Perform a job in a worker process, without a node."""
    envelope = make_envelope(job, "test", None, None)
    return await pool.perform(job, envelope, lambda: None)


def run(command: list[str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program that imports this checkout, to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=cwd, env=environment
    )


async def error_of(job: roger.Job) -> BaseException:
    """Perform a job that must fail; return its error."""
    done = await perform_job(job)
    assert done.error is not None
    return done.error


# What crosses...


async def test_functions_and_classes_run_in_another_process() -> None:
    """Their arguments and results cross, and one process does one after the other."""
    async with aclosing(ProcessPool(1)) as pool:
        total, first = await perform(pool, app.add.job(1, b=2))
        assert total == 3
        assert first != os.getpid()
        assert await perform(pool, app.add.job(3)) == (3, first)
        assert await perform(pool, app.Count([1, 2, 3])) == 6


async def test_the_job_is_known_and_its_context_is_its_own() -> None:
    """current_job() works; a module's variables last from job to job, context variables do not."""
    token = app.seen.set("the node's")
    async with aclosing(ProcessPool(1)) as pool:
        first = await perform(pool, app.look_around.job())
        second = await perform(pool, app.look_around.job())
    app.seen.reset(token)
    assert len(first["id"]) == len(second["id"]) == 32
    assert first["id"] != second["id"]
    assert (first["seen"], second["seen"]) == ("nothing", "nothing")
    assert (first["calls"], second["calls"]) == (1, 2)


async def test_an_exception_crosses_with_its_traceback_and_its_cause() -> None:
    """The traceback begins in the user's code; a class that asks for more arguments crosses too."""
    error = await error_of(app.fail.job("demanding"))
    assert isinstance(error, app.Demanding)
    assert (str(error), error.code) == ("7 at home", 7)
    assert isinstance(error.__cause__, KeyError)
    text = "".join(traceback.format_exception(error))
    assert "raise errors[kind] from cause" in text
    assert "roger_trio" not in text


@pytest.mark.parametrize(
    ("kind", "how", "delay"),
    [("retry", "retried", 5), ("snooze", "snoozed", 6), ("bury", "buried", None)],
)
async def test_signals_cross(kind: str, how: str, delay: float | None) -> None:
    """Retry, Snooze and Bury mean the same from a worker process."""
    done = await perform_job(app.fail.job(kind))
    assert (done.kind, done.delay) == (how, delay)


@pytest.mark.parametrize("kind", ["exit", "group", "roger"])
async def test_other_exceptions_cross(kind: str) -> None:
    """What would end a program, a group, and an error of ours with arguments of its own."""
    kinds = {"exit": SystemExit, "group": ExceptionGroup, "roger": roger.DuplicateJob}
    assert isinstance(await error_of(app.fail.job(kind)), kinds[kind])


@pytest.mark.parametrize(
    ("kind", "raised", "why"),
    [
        ("locked", "Locked", "cannot pickle '_thread.lock' object"),
        ("local", "Local", "attribute lookup Local"),
        ("unwelcome", "Unwelcome", "invalid literal for int()"),
        ("interrupt", "KeyboardInterrupt", "it would interrupt the node"),
        ("interrupts", "BaseExceptionGroup", "it would interrupt the node"),
    ],
)
async def test_what_cannot_cross_is_told(kind: str, raised: str, why: str) -> None:
    """The failure names the job and what it raised, and has the traceback in words."""
    error = await error_of(app.fail.job(kind))
    assert type(error) is roger.RogerError
    assert str(error).startswith(
        f"job crunching:fail: raised {raised}, which cannot leave its worker process ("
    )
    assert why in str(error)
    assert "raise errors[kind] from cause" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "lock",
            "expected a result that can be pickled, got cannot pickle '_thread.lock' object",
        ),
        (
            "shy",
            "what its worker process gave back cannot be unpickled: invalid literal for int() ",
        ),
    ],
)
async def test_a_result_that_cannot_cross_is_a_failure(kind: str, text: str) -> None:
    """The failure names the job."""
    error = await error_of(app.give.job(kind))
    assert type(error) is roger.RogerError
    assert str(error).startswith(f"job crunching:give: {text}")


@pytest.mark.parametrize(
    ("how", "exitcode"), [("exit", 3), ("kill", -signal.SIGKILL), ("segfault", -signal.SIGSEGV)]
)
async def test_a_crash_is_told_with_its_exit_code(how: str, exitcode: int) -> None:
    """However the process ends, and without frames of roger_trio, which tell nothing."""
    error = await error_of(app.crash.job(how))
    assert isinstance(error, roger.JobCrashed)
    assert error.exitcode == exitcode
    assert error.__traceback__ is None


async def test_a_job_in_a_process_has_no_client() -> None:
    """Enqueueing there says what is the matter."""
    error = await error_of(app.enqueue.job())
    assert isinstance(error, roger.RogerError)
    assert "not one in a worker process" in str(error)


async def test_a_job_that_importing_does_not_define_is_told() -> None:
    """One that the program made later, or under its guard."""
    job = app.add.job(1)
    async with aclosing(ProcessPool(1)) as pool:
        lost = attrs.evolve(make_envelope(job, "test", None, None), name="crunching:late")
        with pytest.raises(roger.RogerError, match=r"'tests\.apps\.crunching' defines, got none"):
            await pool.perform(job, lost, lambda: None)


async def test_the_kits_node_performs_them() -> None:
    """The kit's node has worker processes, too, and `run_until_idle` waits for them."""
    results: list[Any] = []

    class Kept(roger.Callbacks):
        async def after_run(
            self, partition: str, job: roger.Envelope, result: Any, state: Any
        ) -> None:
            results.append(result[0])

    with trio.fail_after(30):
        async with running_node(callbacks=Kept()) as node:
            for number in range(5):
                await node.enqueue(app.add.job(number), "test")
            await node.run_until_idle()
    assert sorted(results) == [0, 1, 2, 3, 4]


# Their life...


async def kill(pid: int) -> None:
    """Kill a process that is nobody's business here, and wait until it has ended."""
    ended = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(ended)
    finally:
        os.close(ended)


async def test_one_that_was_killed_while_idle_is_replaced() -> None:
    """The next job does not notice, and closing the pool is no error."""
    async with aclosing(ProcessPool(1)) as pool:
        _, first = await perform(pool, app.add.job(1))
        await kill(first)
        total, second = await perform(pool, app.add.job(1))
        assert total == 1
        assert second != first
        await kill(second)


async def test_closing_ends_them() -> None:
    """Also one that is idle, and does not hear."""
    async with aclosing(ProcessPool(1)) as pool:
        _, pid = await perform(pool, app.add.job(1))
        os.kill(pid, signal.SIGSTOP)
        began = trio.current_time()
    assert trio.current_time() < began + 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_whose_trio_crashes_ends_all_the_same() -> None:
    """Python would send SIGTERM, which they take no notice of, and wait for long."""
    script = """
        import trio
        from roger_trio._tree.process_pool import ProcessPool
        from tests.apps import crunching as app
        from tests.unit.tree.test_process_pool import perform

        pool = ProcessPool(1)

        async def crash():
            print((await perform(pool, app.add.job(1)))[1])
            trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
            await trio.sleep_forever()

        try:
            trio.run(crash)
        except trio.TrioInternalError:
            print("crashed")
    """
    pid, crashed = run([sys.executable, "-c", textwrap.dedent(script)]).stdout.split()
    assert crashed == "crashed"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_no_process_to_be_had_is_not_the_jobs_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is retried, retryable or not: the job has not begun."""

    def refuse(*args: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", refuse)
    done = await perform_job(app.add.job(1))
    assert done.kind == "retried"
    assert isinstance(done.error, CannotStart)
    assert "Resource temporarily unavailable" in str(done.error)


@pytest.mark.parametrize("way", ["_die_by_signal", "_die_by_thread"])
def test_a_worker_process_ends_with_the_pipe_to_its_node(way: str) -> None:
    """Both ways, whichever this system takes; also where the pipe closed before."""
    for closed_before in (False, True):
        read, write = os.pipe()
        if closed_before:
            os.close(write)
        script = f"from roger_trio._jobs import in_process as p; p.{way}({read}); print(1, flush=1)"
        script += "; import time; [time.monotonic() for _ in iter(int, 1)]"
        with subprocess.Popen(
            [sys.executable, "-c", script], pass_fds=[read], stdout=subprocess.PIPE
        ) as process:
            os.close(read)
            if not closed_before:
                assert process.stdout is not None
                assert process.stdout.read(1) == b"1"
                os.close(write)
            assert process.wait(20) == -signal.SIGKILL


async def test_what_the_program_wants_set_up_is_set_up(tmp_path: Path) -> None:
    """In each process, before its first job."""
    path = tmp_path / "set up"
    async with aclosing(ProcessPool(1, partial(Path.touch, path))) as pool:
        await perform(pool, app.add.job(1))
    assert path.exists()


def test_the_limit_is_the_cpus_unless_told() -> None:
    """As many as this process may use; a configuration may say another number."""
    assert 1 <= usable_cpus() <= (os.cpu_count() or math.inf)
    assert ProcessPool(None)._limiter.total_tokens == usable_cpus()
    assert ProcessPool(7)._limiter.total_tokens == 7
    assert roger.Config(max_job_processes=7).max_job_processes == 7
    with pytest.raises(roger.ConfigError, match="max_job_processes: expected None, or a whole"):
        roger.Config(max_job_processes=0)


# Without the extra, and in the wrong place...


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trio-parallel not installed."""
    monkeypatch.setitem(sys.modules, "trio_parallel", None)


@pytest.mark.usefixtures("without_extra")
async def test_a_node_without_the_extra_does_not_start() -> None:
    """Nothing is started; the error names the job and what to install."""
    text = r"job crunching:\w+: process: .*pip install roger_trio\[process\]"
    with trio.fail_after(10), pytest.raises(roger.ConfigError, match=text):
        await roger.serve(roger.Config(broker="memory:"))
    with pytest.raises(roger.ConfigError, match=text):
        await perform_job(app.add.job(1))


@pytest.mark.usefixtures("without_extra")
async def test_a_job_that_was_declared_later_is_for_another_node() -> None:
    """It has not begun; a client needs no extra."""
    pool = ProcessPool(1)
    with pytest.raises(CannotStart, match=r"pip install roger_trio\[process\]"):
        await perform(pool, app.add.job(1))
    check_node([job for job in (app.add.job_type,) if not job.options.process])
    async with roger.connect(roger.Config(broker="memory:")) as client:
        assert isinstance(await client.enqueue(app.add.job(1), "test"), Envelope)


def test_a_program_without_a_guard_starts_no_second_node(tmp_path: Path) -> None:
    """Worker processes import the program: there it says what to do, and the job has crashed."""
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent("""
            import trio
            import roger_trio as roger

            @roger.job(process=True)
            def crunch() -> None: ...

            class Told(roger.Callbacks):
                async def on_error(self, partition, job, error, state):
                    print(repr(error), flush=True)
                    nursery.cancel_scope.cancel()

            async def main():
                global nursery
                async with trio.open_nursery() as nursery:
                    config = roger.Config(
                        broker="memory:", partitions={"p": {"default": 1}}, callbacks=Told()
                    )
                    node = await nursery.start(roger.serve, config)
                    await node.enqueue(crunch.job(), "p")

            trio.run(main)
        """)
    )
    done = run([sys.executable, str(script)])
    assert done.stdout == "JobCrashed('its worker process ended with exit status 1')\n"
    assert "start it under `if __name__ == '__main__':`" in done.stderr


@pytest.mark.parametrize(
    ("command", "file", "name"),
    [
        (["app.py"], "app.py", "app"),
        (["-m", "app"], "app.py", "app"),
        (["-m", "package"], "package/__main__.py", "package.__main__"),
    ],
)
def test_a_jobs_program_may_be_the_main_one(
    tmp_path: Path, command: list[str], file: str, name: str
) -> None:
    """However it is started, its jobs are found in the worker process, under their names."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        textwrap.dedent("""
            import trio
            import roger_trio as roger
            from roger_trio.testing import perform_job

            class Odd(Exception): ...

            @roger.job(process=True)
            def crunch(number: int) -> str:
                if number % 2:
                    raise Odd(number)
                return f"{roger.current_job().name} {number}"

            async def main():
                print((await perform_job(crunch.job(4))).result)
                print(repr((await perform_job(crunch.job(5))).error))

            if __name__ == "__main__":
                trio.run(main)
        """)
    )
    assert run([sys.executable, *command], cwd=tmp_path).stdout == f"{name}:crunch 4\nOdd(5)\n"


def test_what_runs_there_is_imported_late() -> None:
    """A node without such jobs does not load trio-parallel."""
    script = "import sys, roger_trio.testing; print('trio_parallel' in sys.modules)"
    assert run([sys.executable, "-c", script]).stdout == "False\n"
