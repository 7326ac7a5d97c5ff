"""``roger demo``: a complete run on the embedded broker, nothing to install."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import trio
import typer

from .._demo import story
from .._demo.story import Buried, Enqueued, Event, Failed, Note, Succeeded
from .examples import with_examples
from .output import counted, has_colours, printable, say
from .session import run


@with_examples("roger demo")
def demo() -> None:
    """Watch a complete run: jobs of several kinds, one retried, one buried and replayed.

    It needs nothing: the jobs are kept by the embedded broker, in a temporary file. It ends by
    itself within 15 seconds.
    """
    logging.getLogger("roger_trio").addHandler(logging.NullHandler())
    stage: Stage = DrawnStage() if has_colours(sys.stdout) else PlainStage()
    started = monotonic()
    with tempfile.TemporaryDirectory(prefix="roger-demo-") as folder:
        say("roger demo: the embedded broker, in a temporary file; nothing to install")
        with stage.opened():
            tally = run(partial(_watch, stage, Path(folder)))
    _sum_up(tally, monotonic() - started)


async def _watch(stage: Stage, folder: Path) -> Counter[str]:
    """Run the story and show it; count what happened."""
    tally: Counter[str] = Counter()
    send, receive = trio.open_memory_channel[Event](0)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.tell, send, folder)
            async for event in receive:
                tally[type(event).__name__] += 1
                tally["retried"] += isinstance(event, Failed) and event.is_retried
                stage.show(event)
    except* trio.TooSlowError:
        raise typer.Exit(1) from None
    return tally


def _sum_up(tally: Counter[str], seconds: float) -> None:
    retried, buried = tally["retried"], tally["Buried"]
    say("")
    say(
        f"{counted(tally['Succeeded'], 'job')} succeeded, "
        f"{counted(retried, 'failed attempt')} retried, "
        f"{counted(buried, 'job')} buried and replayed, "
        f"{counted(tally['Failed'] - retried, 'job')} timed out, in {seconds:.1f} s."
    )
    say("Next: write app.py, then `roger serve app:config` and `roger enqueue app:config …`;")
    say("the README's quick start shows how.")


def describe(event: Event) -> str:
    """Put an event into words."""
    match event:
        case Note(text):
            return text
        case Enqueued(counts):
            total = sum(counts.values())
            return f"{total} jobs are enqueued: " + ", ".join(
                f"{count} in {queue}" for queue, count in counts.items()
            )
        case Succeeded(job, result):
            again = f" (after {job.retry_count} retries)" if job.retry_count else ""
            return f"done     {_name(job)}: {result}{again}"
        case Failed(job, error, is_retried):
            what = "retried later" if is_retried else "over"
            return f"failed   {_name(job)}: {error}; {what}"
        case Buried(job, error):
            return f"buried   {_name(job)}: {error}; kept with its error"


def _name(job: Any) -> str:
    return str(job.name).rpartition(":")[2]


class Stage(Protocol):
    """Where the story is shown."""

    def opened(self) -> AbstractContextManager[object]:
        """Show from entering to leaving."""
        ...

    def show(self, event: Event) -> None:
        """Show an event."""
        ...


class PlainStage:
    """Lines."""

    def opened(self) -> AbstractContextManager[object]:
        """Nothing has to be opened to print."""
        return nullcontext()

    def show(self, event: Event) -> None:
        """Print an event."""
        say(describe(event))


class DrawnStage:
    """A progress bar for each queue, and the events above them."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn()
        )
        self._bars = {queue: self._progress.add_task(queue, total=0) for queue in story.QUEUES}

    def opened(self) -> AbstractContextManager[object]:
        """Draw until left."""
        return self._progress

    def show(self, event: Event) -> None:
        """Print an event above the bars, and move them."""
        match event:
            case Enqueued(counts):
                for queue, count in counts.items():
                    self._progress.update(self._bars[queue], total=count)
            case Succeeded(job) | Failed(job, _, False):
                self._progress.advance(self._bars[job.queue])
            case _:
                pass
        self._progress.console.print(_coloured(event), highlight=False)


def _coloured(event: Event) -> Any:
    from rich.text import Text

    styles = {Note: "bold", Enqueued: "bold", Succeeded: "green", Failed: "yellow", Buried: "red"}
    return Text(printable(describe(event)), style=styles[type(event)])
