"""``roger serve``: run a node."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import trio
import typer

from .._config import Config
from .._errors import RogerError
from .._info import VERSION
from .._tree.serve import serve_as
from .errors import Refused
from .examples import with_examples
from .loading import load_config
from .logs import LogFormat, LogLevel, set_up_logs
from .options import App, Imports

logger = logging.getLogger(__name__)


@with_examples(
    "roger serve app:config",
    "roger serve roger.toml --import app.jobs --log-format json",
)
def serve(
    app: App,
    *,
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
    every line that is written in a job names the job.
    """
    set_up_logs(log_level, log_format)
    try:
        config = load_config(app, imports or ())
        name = config.make_node_name()
        _announce(config, name)
        trio.run(serve_as, config, name)
    except RogerError as exc:
        # Into the log, where it keeps the format, and is found later.
        if isinstance(exc, Refused) and exc.details:
            print(exc.details, file=sys.stderr)
        logger.critical("%s", exc)
        raise typer.Exit(1) from exc


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
