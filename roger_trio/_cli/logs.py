"""The log: one line for each record, for people or as JSON; it always names the job.

A record that is written inside a job, in its task, in a child task or in a thread, by whatever
logger, is marked with the job, without the code that writes it having to know.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

import attrs
import orjson

from .._jobs.context import current_envelope
from .._logs import JOB_FIELDS, JOB_PREFIX, job_fields, names_job
from .output import has_colours, printable
from .shared import SharedStreamHandler


class LogLevel(StrEnum):
    """What ``--log-level`` takes."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def number(self) -> int:
        """The level as `logging` has it."""
        return logging.getLevelNamesMapping()[self.name]


class LogFormat(StrEnum):
    """What ``--log-format`` takes."""

    TEXT = "text"
    JSON = "json"


_COLOURS: Final = {
    logging.DEBUG: "2",  # dim
    logging.INFO: "32",  # green
    logging.WARNING: "33",  # yellow
    logging.ERROR: "31",  # red
    logging.CRITICAL: "1;31",
}
_INDENT: Final = "\n    "
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record may have; all others came by ``extra=``."""


SUPERVISOR: Final = 0
"""The number in the lines of the supervisor itself."""


@attrs.frozen
class Writer:
    """Who writes a log that several processes write."""

    process: int
    """Its number, or `SUPERVISOR`."""
    node: str | None = None
    """Its node's name, where there is one and it is known."""


def set_up_logs(
    level: LogLevel,
    style: LogFormat,
    stream: TextIO | None = None,
    *,
    writer: Writer | None = None,
) -> None:
    """Send all records to a stream.

    Args:
        level: The least level shown.
        style: For people, or for programs.
        stream: Where to; default: stderr.
        writer: Named in each line; None: nobody else writes there.
    """
    target: TextIO = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target) if writer is None else SharedStreamHandler(target)
    handler.setFormatter(
        JsonFormatter(writer)
        if style is LogFormat.JSON
        else TextFormatter(has_colours(target), writer)
    )
    _install(handler, level.number)


def set_up_quiet_logs() -> None:
    """Show what a command that waits should tell: each kind of trouble once, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("roger: %(message)s"))
    handler.addFilter(_OncePerTrouble())
    _install(handler, logging.WARNING)


def _install(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # It reports each lost connection several times over; our own links do it once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class _OncePerTrouble(logging.Filter):
    """Lets each of our warnings through once; our errors end the command and are told then."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("roger_trio."):
            return True
        is_news = record.levelno == logging.WARNING and record.msg not in self._seen
        self._seen.add(record.msg)
        return is_news


def _job_fields(record: logging.LogRecord) -> dict[str, object]:
    """Tell which job a record is about: the one it names, or the one it was written in."""
    if names_job(record):
        return {name: getattr(record, name) for name in JOB_FIELDS}
    envelope = current_envelope.get()
    return {} if envelope is None else job_fields(envelope)


class TextFormatter(logging.Formatter):
    """Time, level and message; what takes more lines is indented.

    Args:
        colours: Whether to colour the level.
        writer: Whose number comes before the message.
    """

    def __init__(self, colours: bool, writer: Writer | None = None) -> None:
        super().__init__()
        self._colours = colours
        self._writer = "" if writer is None else f"[{writer.process}] "

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        time = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}"
        level = f"{record.levelname:<8}"
        if self._colours:
            time = f"\x1b[2m{time}\x1b[0m"
            level = f"\x1b[{_COLOURS.get(record.levelno, '0')}m{level}\x1b[0m"
        # Later lines are indented, so that no text in them can pass for a record of its own.
        text = printable(self._text(record), keep="\n\t").rstrip("\n").replace("\n", _INDENT)
        return f"{time} {level} {self._writer}{text}"

    def _text(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if not names_job(record) and (fields := _job_fields(record)):
            text = JOB_PREFIX % tuple(fields.values()) + text
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            text += f"\n{self.formatStack(record.stack_info)}"
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object: timestamp, level, logger, message; the job; the exception; ``extra=``.

    Args:
        writer: Who is named as process and node.
    """

    def __init__(self, writer: Writer | None = None) -> None:
        super().__init__()
        fields = {} if writer is None else attrs.asdict(writer)
        self._writer = {name: value for name, value in fields.items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        moment = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, object] = {
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._writer,
            **_job_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _OWN and (value is None or isinstance(value, str | int | float)):
                document.setdefault(name, value)
        return _dump(document)


def _dump(document: dict[str, object]) -> str:
    try:
        return orjson.dumps(document).decode()
    except TypeError:  # text that is no UTF-8, a number of many digits
        return json.dumps(document)
