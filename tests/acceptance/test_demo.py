"""``roger demo`` as a newcomer meets it: a subprocess, with and without a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "roger_trio", "demo"]
WITHIN = 15
ROOT = Path(__file__).parents[2]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment, without what would colour or plain the output."""
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "TERM"}}
    return kept | {"PYTHONPATH": str(ROOT)} | changes


def test_demo_ends_by_itself_and_tells_the_whole_story(tmp_path: Path) -> None:
    """Without a terminal it prints plain lines: done, retried, timed out, buried, replayed."""
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    for line in (
        "19 jobs are enqueued: 9 in images, 6 in mail, 4 in default",
        "done     ResizeImage: holiday-8.jpg is 320 wide",
        "failed   fetch_feed: https://example.com/feed does not answer; retried later",
        "done     fetch_feed: https://example.com/feed had 12 entries (after 2 retries)",
        "failed   export_everything: exceeded its max_execution_time of 1.5 s; over",
        "buried   charge_card: the payment service is down; kept with its error",
        "done     charge_card: order 1042 is paid",
        "18 jobs succeeded, 4 failed attempts retried, 1 job buried and replayed, 1 job timed out",
    ):
        assert line in done.stdout
    assert not list(tmp_path.iterdir())


def test_demo_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it without a traceback, with the exit status of an interrupted command."""
    with subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert any(line.startswith("One node;") for line in child.stdout)  # It is on Trio now.
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=WITHIN)
        finally:
            child.kill()
    assert (child.returncode, err) == (130, "")


def on_a_terminal(folder: Path, **changes: str) -> str:
    """Run the demo on a terminal and return all that it showed."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        COMMAND, cwd=folder, env=environment(**changes), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # The terminal is closed once the program has ended.
    os.close(ours)
    assert child.wait(timeout=WITHIN) == 0
    return shown.decode()


def test_demo_draws_progress_bars_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal it is coloured and draws a bar for each queue, to the end."""
    shown = on_a_terminal(tmp_path, TERM="xterm-256color")
    assert "\x1b[" in shown
    assert "━" in shown
    assert "9/9" in shown


def test_demo_heeds_no_color(tmp_path: Path) -> None:
    """NO_COLOR makes it plain on a terminal too."""
    assert "\x1b[" not in on_a_terminal(tmp_path, TERM="xterm", NO_COLOR="1")
