"""``roger serve``: run a node, or several in processes of their own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import trio
import typer

from .._config import Config
from .._errors import RogerError
from .._info import VERSION
from .._processes.child import Place, config_of, serve_in_place, take_place
from .._processes.process import launching, own_command
from .._processes.run import check_sharable, supervise
from .._tree.serve import serve_as, stop_on_signals
from .errors import Refused
from .examples import with_examples
from .loading import load_config
from .logs import SUPERVISOR, LogFormat, LogLevel, Writer, set_up_logs
from .options import App, Imports
from .output import counted

logger = logging.getLogger(__name__)


@with_examples(
    "roger serve app:config",
    "roger serve roger.toml --import app.jobs --log-format json",
    "roger serve app:config --processes 4",
)
def serve(
    app: App,
    *,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-p",
            metavar="N",
            min=1,
            help="Run N nodes, each in a process of its own, and start those again that die. "
            "max_workers is per node. Default: one node, in this process.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(help="The least level logged.", case_sensitive=False)
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat, typer.Option(help="Lines for people, or JSON lines.", case_sensitive=False)
    ] = LogFormat.TEXT,
    imports: Imports = None,
) -> None:
    """Run a node until SIGTERM or SIGINT.

    It consumes the partitions of the configuration. At the signal, running jobs get the
    configuration's shutdown_timeout; a second signal stops at once. The log goes to stderr, and
    every line that is written in a job names the job; with --processes, every line names the
    process.
    """
    log = partial(set_up_logs, log_level, log_format)
    load = partial(load_config, app, imports or ())
    status = 0
    log()
    try:
        place = take_place()
        if place is not None:
            _serve_in_place(place, load, log)
        elif processes is not None:
            log(writer=Writer(SUPERVISOR))
            status = _supervise(load(), processes)
        else:
            _serve(load(), log)
    except RogerError as exc:
        # Into the log, where it keeps the format, and is found later.
        if isinstance(exc, Refused) and exc.details:
            print(exc.details, file=sys.stderr)
        logger.critical("%s", exc)
        raise typer.Exit(1) from exc
    raise typer.Exit(status)


def _serve(config: Config, log: Callable[[], None]) -> None:
    name = config.make_node_name()
    _announce(config, name)
    serve = partial(serve_as, config, name, stop_when=stop_on_signals, set_up_process=log)
    trio.run(serve)


def _serve_in_place(place: Place, load: Callable[[], Config], log: Callable[..., None]) -> None:
    log(writer=Writer(place.number))
    config = config_of(load(), place.number)
    name = config.make_node_name()
    log = partial(log, writer=Writer(place.number, name))
    log()
    _announce(config, name)
    trio.run(serve_in_place, config, name, place, log)


def _supervise(config: Config, count: int) -> int:
    check_sharable(config, count)
    what = f"{counted(count, 'node')}, each in a process"
    logger.info("roger_trio %s, supervisor of %s, pid %d", VERSION, what, os.getpid())
    return trio.run(supervise, config, count, launching(own_command()))


def _announce(config: Config, name: str) -> None:
    partitions = [
        f"{each!r} ({', '.join(f'{queue}: {workers}' for queue, workers in queues.items())})"
        for each, queues in config.partitions.items()
    ]
    logger.info(
        "roger_trio %s, node %r, broker %s, partitions: %s",
        VERSION,
        name,
        config.broker_config().display,
        ", ".join(partitions) or "none",
    )
    if not partitions:
        logger.warning("no partitions are configured, so this node will run no jobs")
