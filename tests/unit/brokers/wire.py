"""A transport without a connection, and frames made by pamqp, the oracle."""

from __future__ import annotations

from typing import Any

import pamqp.frame
import trio.testing
from pamqp import body, commands, header, heartbeat

from roger_trio._brokers.base import ConnectionLost
from roger_trio._brokers.rabbitmq.transport import Limits, Transport

FRAME_MAX = 4096


class NoLoop:
    """As much of an event loop as a stream reader asks for when nobody reads."""

    def get_debug(self) -> bool:
        return False


class Recorder:
    """A data channel that takes all frames but heartbeats, and remembers them."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.lost: ConnectionLost | None = None

    def handle(self, kind: int, payload: bytes) -> bool:
        self.frames.append((kind, payload))
        return True

    def write_late(self) -> None:
        pass

    def connection_lost(self, error: ConnectionLost) -> None:
        self.lost = error


def make_transport(limits: Limits | None = None) -> Transport:
    """Make a transport that is not running: what is written stays in its buffer."""
    stream, _ = trio.testing.memory_stream_pair()
    loop: Any = NoLoop()
    return Transport(stream, loop, limits=limits or Limits(), silence_limit=None)


def written(transport: Transport) -> bytes:
    """Return what was written so far, and forget it."""
    data = bytes(transport._out)
    transport._out.clear()
    return data


def left_to_aiormq(transport: Transport) -> bytes:
    """Return all bytes that aiormq was given."""
    return bytes(vars(transport.reader)["_buffer"])


def frame(command: Any, channel: int) -> bytes:
    """Marshal anything by pamqp."""
    return pamqp.frame.marshal(command, channel)


def unmarshal_all(data: bytes) -> list[tuple[int, Any]]:
    """Decode a row of frames by pamqp: channel number and frame."""
    found: list[tuple[int, Any]] = []
    while data:
        size, channel, got = pamqp.frame.unmarshal(data)
        assert size > 0, "a frame is cut short"
        found.append((channel, got))
        data = data[size:]
    return found


def content(
    channel: int, data: bytes, properties: commands.Basic.Properties, frame_max: int = FRAME_MAX
) -> bytes:
    """Marshal a content header and body frames by pamqp."""
    room = frame_max - 8
    parts = [data[start : start + room] for start in range(0, len(data), room)]
    head = header.ContentHeader(0, len(data), properties)
    return frame(head, channel) + b"".join(frame(body.ContentBody(each), channel) for each in parts)


HEARTBEAT = frame(heartbeat.Heartbeat(), 0)
