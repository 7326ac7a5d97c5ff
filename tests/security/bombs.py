"""Reads messages that are made to take all memory and time, and tells what each of them took.

A program of its own, as memory is measured: ``python -m tests.security.bombs``.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from roger_trio._control import wire as control
from roger_trio._jobs import wire

SIZE: Final = 16 * 1024 * 1024
"""What RabbitMQ 4 takes; 3.10 takes eight times as much."""
JOB: Final = b'{"roger":1,"id":"1","name":"n","args":'
CONTROL: Final = b'{"roger":1,"kind":"question","inbox":"i","request":1,"question":'
BOMBS: Final[Mapping[str, bytes]] = {
    "lists": b'{"a":[' + b"[]," * (SIZE // 3) + b"[]]}",
    "objects": b'{"a":[' + b"{}," * (SIZE // 3) + b"{}]}",
    "pairs": b'{"a":[' + b'{"a":0},' * (SIZE // 8) + b"{}]}",
    "numbers": b'{"a":[' + b"1.5," * (SIZE // 4) + b"0]}",
    "texts": b'{"a":[' + b'"",' * (SIZE // 3) + b'""]}',
    "not an object": b"[" + b"0," * (SIZE // 2) + b"0]",
    "deep": b"[" * SIZE,
    "deep objects": b'{"a":' * (SIZE // 5),
    "digits": b'{"a":' + b"9" * SIZE + b"}",
    "fraction": b'{"a":0.' + b"1" * SIZE + b"}",
    "exponent": b'{"a":1e' + b"9" * SIZE + b"}",
    "one text": b'{"a":"' + b"x" * SIZE + b'"}',
    "escapes": b'{"a":"' + b"\\u0000" * (SIZE // 6) + b'"}',
    "quotes": b'{"a":"' + b'\\"' * (SIZE // 2) + b'"}',
    "backslashes": b'{"a":"' + b"\\" * SIZE,
    "separators": b'{"a":"' + b"[," * (SIZE // 2) + b'"}',
    "spaces": b" " * SIZE,
    "same key": b"{" + b'"a":{},' * (SIZE // 7) + b'"a":0}',
    "keys": b"{" + b",".join(b'"%d":0' % number for number in range(SIZE // 12)) + b"}",
}


def measure(read: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of CPU and the MB that reading something took at most."""
    gc.collect()
    before, began = _peak(), time.process_time()
    read()
    return time.process_time() - began, _peak() - before


def _peak() -> float:
    """The most memory there has been, in MB; it never falls."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_job(body: bytes) -> None:
    """Read a body as a job."""
    try:
        wire.load(body, partition="p", queue="q")
    except wire.NotAJob as error:
        if len(error.reason) > 500:
            raise


def read_control(body: bytes) -> None:
    """Read a body as a control message."""
    try:
        control.decode(body)
    except control.Foreign as error:
        if len(error.reason) > 500:
            raise


def main() -> None:
    """Read all of them, each as it is and as a part of a message."""
    found: dict[str, tuple[float, float]] = {}
    for name, bomb in BOMBS.items():
        for where, body, read in (
            ("job", bomb, read_job),
            ("args", JOB + bomb + b"}", read_job),
            ("key", JOB + b'{},"queue_key":' + bomb + b"}", read_job),
            ("control", CONTROL + bomb + b"}", read_control),
        ):
            found[f"{name} as {where}"] = measure(lambda body=body, read=read: read(body))  # type: ignore[misc]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
