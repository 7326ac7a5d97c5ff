"""The comparison with peers: what it works out, what it shows, and that our own side runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks import report
from benchmarks.peers import command, installs, line, order, peer, plot, processes, programs, run
from benchmarks.peers.report import render

FOLDER = Path(__file__).parent.parent / "benchmarks"
TICKS = """
import os, threading
from benchmarks.peers import order
order.tick()
child = os.fork()
threads = [threading.Thread(target=order.tick) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
if child: os.waitpid(child, 0)
"""


def an_order(folder: Path, **fields: Any) -> order.Order:
    """Make an order that only lacks what the test is about."""
    values: dict[str, Any] = {"task": "worker", "url": "amqp://localhost/", "queue": "q"}
    return order.Order(**values, folder=str(folder), **fields)


def made_up(rates: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Make results: line to peer to jobs in a second."""
    lines = [
        {
            "name": name,
            "title": name,
            "others_busy_before": [0.5],
            "failures": {},
            "runs": {one: [{"per_second": rate}] for one, rate in sides.items()},
        }
        for name, sides in rates.items()
    ]
    for each in lines:
        each["metrics"] = run.summarise(each["runs"])  # type: ignore[arg-type]
    facts = {
        "date": "2026-01-01", "python": "CPython", "cpu": "abacus", "cores": 2, "memory_mib": 2048,
        "system": "Linux", "broker": "RabbitMQ", "broker_runs_on": "the same machine",
    }  # fmt: skip
    return {
        "kind": "peers", "environment": facts, "quick": False, "lines": lines,
        "versions": {"celery": {"kombu": "5"}}, "missing": {},
    }  # fmt: skip


def figures_of(rates: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Make the figures that a target looks at."""
    return {each["name"]: each for each in made_up(rates)["lines"]}


# Orders and jobs...


def test_order_reaches_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process writes into an environment, another one reads from it."""
    written = an_order(tmp_path, concurrency=7, seconds=1.5)
    monkeypatch.setenv(order.VARIABLE, written.environment()[order.VARIABLE])
    assert order.Order.read() == written


def test_every_process_counts_its_jobs(tmp_path: Path) -> None:
    """Jobs are counted in threads, and after a fork, each process by itself."""
    subprocess.run(
        [sys.executable, "-c", TICKS],
        env=an_order(tmp_path).environment(), cwd=FOLDER.parent, timeout=30, check=True,
    )  # fmt: skip
    assert sorted(order.performed(tmp_path)) == [8, 9]


def test_no_process_goes_on_before_each_has_a_job(tmp_path: Path) -> None:
    """The first of two processes waits for the other's first job, else it might do them all."""
    environment = an_order(tmp_path, processes=2).environment()
    program = "from benchmarks.peers import order; order.tick(); print('ran')"

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program], cwd=FOLDER.parent, env=environment,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    with started() as first:
        while not order.performed(tmp_path):
            assert first.poll() is None
            time.sleep(0.01)  # noqa: TID251  # no loop runs in this process
        assert order.performed(tmp_path) == [0]
        with started() as second:
            for each in (first, second):
                assert each.communicate(timeout=20)[0] == b"ran\n"
    assert order.performed(tmp_path) == [1, 1]


def test_latencies_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job tells how long ago it was sent."""
    assert order.stamps(tmp_path) == []
    monkeypatch.setenv(order.VARIABLE, an_order(tmp_path).environment()[order.VARIABLE])
    order.stamp(time.monotonic_ns() - 5)
    assert order.stamps(tmp_path)[0] >= 5


# Looking at processes...


def test_processor_time_of_a_child_counts() -> None:
    """A program is looked at together with what it has started."""
    busy = "import sys, time; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in processes.family([os.getpid()])
        assert processes.cpu_seconds(child.pid) > 0
        assert processes.memory_mib([child.pid]) > 1
        child.communicate()
    assert processes.cpu_seconds(child.pid) == 0


def test_figures_between_two_looks() -> None:
    """Rates, processor time for each job and the machine's share come from the differences."""
    before = processes.Look(at=10.0, cpu=1.0, busy=100, ticks=1000, performed=50)
    after = processes.Look(at=12.0, cpu=1.5, busy=250, ticks=1200, performed=250)
    assert run.figures(before, after, memory=30.0) == {
        "per_second": 100, "cpu_us": 2500, "memory_mib": 30, "busy_percent": 75,
    }  # fmt: skip
    with pytest.raises(run.StepFailed, match="no job was performed"):
        run.figures(before, before, memory=30.0)


def test_program_that_ends_is_a_failure_that_says_why(tmp_path: Path) -> None:
    """A client that fails is shown with the end of what it wrote."""
    asked = an_order(tmp_path)
    with pytest.raises(run.StepFailed, match="No module named"):
        programs.run_client(Path(sys.executable), "benchmarks.peers.with_nobody", asked, 30)


def test_passwords_are_not_shown() -> None:
    """What a program wrote is shown without the broker's password, unless that is `guest`."""
    url = "amqp://ada:lovelace@localhost/"
    assert programs.without_password(f"cannot reach {url}", url) == (
        "cannot reach amqp://ada:***@localhost/"
    )
    assert programs.without_password("a guest", "amqp://guest:guest@localhost/") == "a guest"


# Taking turns...


def test_peers_take_turns_in_beginning() -> None:
    """In every repeat another one begins, and everybody has a turn."""
    several = [run.Installed(peer=each, python=Path()) for each in peer.PEERS]
    assert run.in_turn(several, 0) == several
    assert run.in_turn(several, 2)[0] == several[2]
    assert sorted(each.peer.name for each in run.in_turn(several, 2)) == sorted(peer.TITLES)
    assert run.in_turn([], 2) == []


def test_peer_that_always_fails_costs_no_more_time() -> None:
    """After three failures in any lines a peer is left out."""
    results: list[dict[str, Any]] = [{"failures": {"celery": ["a", "b"], "taskiq": ["c"]}}]
    assert run.hopeless(results) == set()
    results.append({"failures": {"celery": ["d"]}})
    assert run.hopeless(results) == {"celery"}


def test_what_cannot_be_installed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that pip cannot install is named with the reason; it is no reason to stop."""
    monkeypatch.setattr(installs, "FOLDER", tmp_path)
    broken = attrs.evolve(peer.PEERS[1], requirements=(str(tmp_path / "nowhere.whl"),))
    with pytest.raises(installs.NotInstalled, match=r"Celery: .*nowhere"):
        installs.install(broken, lambda _line: None)
    results = {**made_up({}), "missing": {"celery": "Celery: no such file"}}
    assert "- not measured: Celery: no such file" in render(results)


# Targets and tables...


def target(**fields: Any) -> line.Target:
    """Make a target about rates."""
    values: dict[str, Any] = {"title": "t", "metric": "per_second", "lines": ("a",), "limit": 2}
    return line.Target(**{**values, **fields})


def test_target_takes_the_best_peer_of_all_lines() -> None:
    """A ratio is to the best that any peer does anywhere in the lines it is about."""
    figures = figures_of({
        "a": {"roger": 12, "celery": 2, "taskiq": 3}, "b": {"roger": 99, "celery": 4},
    })  # fmt: skip
    assert line.value(target(), figures) == 12
    assert line.value(target(peers=("a", "b")), figures) == 3
    assert line.value(target(lines=("b",), itself=("a",)), figures) == pytest.approx(99 / 12)


def test_target_without_a_figure_is_left_out() -> None:
    """Where a line or every peer is missing, there is nothing to compare."""
    figures = figures_of({"a": {"roger": 12}})
    assert line.value(target(peers=("a",)), figures) is None
    assert line.value(target(lines=("b",)), figures) is None


def test_less_is_better_for_times() -> None:
    """A target about times is met below its limit."""
    assert target(metric="cpu_us", limit=75).is_met(60)
    assert not target(metric="per_second", limit=75).is_met(60)


def test_every_target_is_about_lines_that_exist() -> None:
    """Targets and pictures name lines that are measured, and metrics that have a unit."""
    names = {each.name for each in line.LINES}
    for each in line.TARGETS:
        assert {*each.lines, *each.peers, *each.itself} <= names
        assert each.metric in line.UNITS
    assert {name for name, _ in plot.PANELS} <= names


def test_table_has_a_column_for_each_peer_and_says_what_failed() -> None:
    """A peer without a figure has an empty cell; its failure is told below."""
    results = made_up({"perform-100": {"roger": 9000, "celery": 1000}, "keys": {"roger": 5}})
    results["lines"][1]["failures"] = {"celery": ["too slow\nmore"]}
    text = render(results)
    assert "| what | unit | roger_trio | Celery | others busy |" in text
    assert "| perform-100 | per second | **9,000** | **1,000** | 50% … 50% |" in text
    assert "| keys | per second | **5** |  | 50% … 50% |" in text
    assert "| ≥ 4 | 9.00 | met, but others used up to 50% of the processors |" in text
    assert "- failed 1 times: Celery, keys: too slow" in text
    assert "- Celery: kombu 5" in text


def test_quick_lines_measure_something() -> None:
    """The quick version of a line still has jobs before, in and after what it measures."""
    for each in line.LINES:
        small = each.quick()
        assert 0 < small.warm_up < small.jobs - small.margin
        assert small.seconds > 0


def test_unknown_lines_and_peers_are_found() -> None:
    """A name that is neither is wrong usage."""
    assert command.unknown(["perform-100"], ["celery"]) == set()
    assert command.unknown(["nonsense"], ["rq"]) == {"nonsense", "rq"}


def test_publishing_renews_readme_page_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables go to both pages, the pictures beside the documentation, the rest stays."""
    pytest.importorskip("matplotlib", reason="it comes with the dependency group `bench`")
    empty = "before\n<!-- figures of peers: none -->\n\nnone\n\n<!-- end -->\nafter\n"
    readme, page = tmp_path / "README.md", tmp_path / report.PAGE
    for each in (readme, page):
        each.write_text(empty)
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "DOCS", tmp_path)
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(made_up({"perform-100": {"roger": 9000, "celery": 1000}})))
    report.publish(file)
    assert readme.read_text().startswith("before\n<!-- figures of peers: results/figures.json -->")
    assert "| perform-100 |" in page.read_text()
    assert "](peers.svg)" in page.read_text()
    assert all((tmp_path / name).stat().st_size > 1000 for name in plot.NAMES)


def test_readme_shows_the_figures_of_the_peers() -> None:
    """If figures were published, both pages show what the command makes of their file."""
    for page in (report.README, report.DOCS / report.PAGE):
        parts = {found[1]: found for found in report.FIGURES.finditer(page.read_text())}
        if parts["peers"][2] != "none":
            results = json.loads((FOLDER / parts["peers"][2]).read_text())
            assert page.read_text() == report.renewed(page, results, parts["peers"][2])
            assert not results["quick"]


def test_quick_run_of_our_own_side(amqp_url: str, tmp_path: Path) -> None:
    """Without any peer, which would need a package index, our side enqueues and performs."""
    file = tmp_path / "figures.json"
    lines = ["enqueue", "both-10", "keys", "latency"]
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "peers", *lines, "--peer=roger", "--quick",
            f"--json={file}", f"--amqp={amqp_url}",
        ],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert [each["name"] for each in results["lines"]] == lines
    for each in results["lines"]:
        assert not each["failures"], each
        assert all(summary["roger"]["median"] >= 0 for summary in each["metrics"].values())
