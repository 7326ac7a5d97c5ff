"""The benchmarks run, and their README shows the figures that are in the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command, report
from benchmarks.harness import summarise, summary

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_quick_run_measures_both_sides(amqp_url: str, tmp_path: Path) -> None:
    """The quickest run fills queues, publishes and consumes on both sides, and writes figures."""
    file = tmp_path / "figures.json"
    arguments = ["enqueue-many", "perform-10", "--quick", "--repeats=1", f"--json={file}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, f"--amqp={amqp_url}"],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert [each["name"] for each in results["benchmarks"]] == ["enqueue-many", "perform-10"]
    for benchmark in results["benchmarks"]:
        for metric in ("cpu_us", "per_second"):
            for side in ("roger", "aiormq", "ratio"):
                assert benchmark["metrics"][metric][side]["median"] > 0
    assert "| enqueue_many, pipelined | CPU µs each |" in done.stdout


def test_what_a_job_costs_by_where_it_runs() -> None:
    """In a task, a thread, a process: the shortest run of it ends, and prints a row for each."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.with_processes", "--rounds=1", "--jobs=3"],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == ["us", "task", "thread", "process", "the", "cancel:"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells others' processor time")
def test_quick_run_of_several_nodes(amqp_url: str, tmp_path: Path) -> None:
    """The command runs with two processes beside one; both nodes begin before anything counts."""
    file = tmp_path / "figures.json"
    arguments = ["nodes-noop", "--quick", "--repeats=1", f"--json={file}", f"--amqp={amqp_url}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [benchmark] = json.loads(file.read_text())["benchmarks"]
    assert list(benchmark["runs"]) == ["roger", "one"]
    for run in (run for side in benchmark["runs"].values() for run in side):
        assert run["cpu_us"] > 0
        assert run["per_second"] > 0


def test_quick_run_of_embedded_brokers_needs_no_server(tmp_path: Path) -> None:
    """What has no other program beside it is measured without a RabbitMQ: memory, and a backlog."""
    names = ("memory-broker-perform", "sqlite-backlog-perform")
    results = run_embedded(tmp_path / "figures.json", *names)
    sides = [list(each["runs"]) for each in results["benchmarks"]]
    assert sides == [["roger"], ["roger", "fewer"]]


def test_quick_run_of_keys(tmp_path: Path) -> None:
    """Keys are claimed, held, handed on and cancelled, and a killed coordinator is replaced."""
    names = ("keys-many", "keys-each", "cancel", "held", "fail-over", "hand-over")
    results = measure_embedded(tmp_path / "figures.json", *(f"{each}-sqlite" for each in names))
    sides = {each["name"]: list(each["runs"]) for each in results["benchmarks"]}
    assert sides["keys-many-sqlite"] == ["roger", "plain"]
    assert sides["held-sqlite"] == ["roger", "none"]
    assert sides["cancel-sqlite"] == ["roger"]
    assert len(sides) == len(names)


def test_quick_run_measures_huey_too(tmp_path: Path) -> None:
    """SQLite is measured beside Huey, where the dependency group of the benchmarks is installed."""
    pytest.importorskip("huey", reason="it comes with the dependency group `bench`")
    results = run_embedded(tmp_path / "figures.json", "sqlite-enqueue-many", "sqlite-perform")
    assert [list(each["runs"]) for each in results["benchmarks"]] == [["roger", "huey"]] * 2


def run_embedded(file: Path, *names: str) -> dict[str, Any]:
    """Measure quickly; check that every figure is above zero."""
    results = measure_embedded(file, *names)
    for benchmark in results["benchmarks"]:
        for summaries in benchmark["metrics"].values():
            assert all(each["median"] > 0 for each in summaries.values())
    return results


def measure_embedded(file: Path, *names: str) -> dict[str, Any]:
    """Measure quickly, with a RabbitMQ that is not there; return the figures."""
    arguments = [*names, "--quick", f"--json={file}", "--amqp=amqp://localhost:1/"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(file.read_text())
    assert all(f"| {each['title']} |" in done.stdout for each in results["benchmarks"])
    return results


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that does not exist is wrong usage, and the message names it."""
    with pytest.raises(SystemExit) as exit_:
        command.main(["enqueue", "nonsense"])
    assert exit_.value.code == 2
    assert "no such benchmark: nonsense" in capsys.readouterr().err


def test_broker_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a RabbitMQ the command says so in a line and fails."""
    assert command.main(["enqueue", "--amqp=amqp://guest:guest@localhost:1/"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.strip()


def test_summary_tells_median_and_spread() -> None:
    """Repeats are summed up as median, extremes and the distance of the quartiles."""
    assert summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3, "min": 1, "max": 5, "iqr": 2}
    assert summary([7.0]) == {"median": 7, "min": 7, "max": 7, "iqr": 0}


def test_ratio_is_of_runs_side_by_side() -> None:
    """The ratio compares what ran in the same repeat, not medians of different moments."""
    runs = {
        "roger": [{"cpu_us": each} for each in (10.0, 40.0, 30.0)],
        "aiormq": [{"cpu_us": each} for each in (20.0, 80.0, 30.0)],
    }
    assert summarise(runs)["cpu_us"]["ratio"] == {"median": 0.5, "min": 0.5, "max": 1, "iqr": 0.25}


def test_one_side_alone_has_no_ratio() -> None:
    """What is measured alone is summed up without a ratio."""
    assert list(summarise({"roger": [{"cpu_us": 10.0}]})["cpu_us"]) == ["roger"]


@pytest.mark.parametrize("part", ["rabbitmq", "embedded", "keys"])
def test_readme_shows_the_figures_of_its_file(part: str) -> None:
    """The tables in a part of the README are what the command makes of the file it names."""
    parts = {found[1]: found for found in report.FIGURES.finditer(report.README.read_text())}
    results = json.loads((FOLDER / parts[part][2]).read_text())
    assert parts[part][3].strip() == report.render(report.of_part(results, part))
    assert not results["quick"]


def test_publishing_leaves_other_parts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of the embedded brokers replace their own part of the README and no other."""
    readme = tmp_path / "README.md"
    old = report.README.read_text()
    readme.write_text(old)
    monkeypatch.setattr(report, "README", readme)
    parts = {found[1]: found for found in report.FIGURES.finditer(old)}
    file = tmp_path / "newer.json"
    file.write_bytes((FOLDER / parts["embedded"][2]).read_bytes())
    report.publish(file)
    assert readme.read_text() == old.replace(parts["embedded"][2], "results/newer.json")
