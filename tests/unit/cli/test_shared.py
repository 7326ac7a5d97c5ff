"""Several processes that write one log."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

from roger_trio._cli.shared import SharedStreamHandler

WRITER = """
import logging, sys
from roger_trio._cli.shared import SharedStreamHandler
logger = logging.getLogger()
logger.addHandler(SharedStreamHandler(sys.stderr))
for number in range(20):
    logger.error(sys.argv[1] * 100_000)
"""


def lines(reader: int) -> Iterator[bytes]:
    """Read so slowly that the pipe is always full."""
    rest = b""
    while part := os.read(reader, 4096):
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
    assert rest == b""


def test_long_lines_of_several_processes_are_not_mixed() -> None:
    """Whole lines only, also where a pipe takes them bit by bit."""
    reader, writer = os.pipe()
    try:
        processes = [
            subprocess.Popen([sys.executable, "-c", WRITER, letter], stderr=writer)
            for letter in "abc"
        ]
        os.close(writer)
        found = list(lines(reader))
        assert [each.wait(30) for each in processes] == [0, 0, 0]
    finally:
        os.close(reader)
    assert sorted(found) == sorted(letter * 100_000 for letter in (b"a", b"b", b"c") * 20)


def test_streams_that_cannot_be_locked_are_written_all_the_same() -> None:
    """One in memory, for example."""
    stream = io.StringIO()
    logger = logging.Logger("theirs")
    logger.addHandler(SharedStreamHandler(stream))
    logger.error("hello")
    assert stream.getvalue() == "hello\n"
