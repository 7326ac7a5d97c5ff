"""The Trio stream under an aiormq connection, and the fork in the road of its frames.

aiormq is given a reader and a writer that look like asyncio's. Behind them one Trio task reads
large chunks and splits them into frames: those of a data channel (deliveries, confirms) are
handled on the spot, all others reach aiormq untouched. Everybody writes through one buffer that
one Trio task flushes whole, so what becomes ready in the same tick leaves in one system call.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, Final, Protocol

import aiormq
import attrs
import trio
from yarl import URL

from ..base import ConnectionLost
from . import frames

_KINDS: Final = frozenset((frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT[0]))
_READ_SIZE: Final = 32 * 1024
"""Bytes of one read. Python makes room for so many each time, however few come: at 256 KiB that
took 36 µs of a read, at 32 KiB 4 µs, and more than this are seldom on their way."""
_HIGH_WATER: Final = 1024 * 1024
"""Bytes waiting to be sent above which publishers wait."""
_MAX_FRAME: Final = 128 * 1024
"""Bytes of the largest frame a broker sends before a larger one has been agreed upon."""
_SIGN_OF_LIFE: Final = 1.0
"""Seconds of pure data traffic after which aiormq is shown a heartbeat, or it gives up on us."""


class NotAmqp(ConnectionLost):
    """What the peer sent is no AMQP frame: the address is another service's."""


class DataChannel(Protocol):
    """What handles the data frames of one channel."""

    def handle(self, kind: int, payload: bytes) -> bool:
        """Handle one frame; return False to leave it to aiormq. Must not block.

        Raises:
            struct.error, LookupError, ValueError: It is malformed, which ends the connection.
        """
        ...

    def write_late(self) -> None:
        """Write what was left until now, so that more of it might come together."""
        ...

    def connection_lost(self, error: ConnectionLost) -> None:
        """The connection is gone; nothing more will come."""
        ...


@attrs.frozen(kw_only=True)
class Limits:
    """What we ask for in the tuning handshake; 0 is no limit of ours."""

    channel_max: int = 0
    frame_max: int = 0


class Transport:
    """One byte stream to the broker, shared by aiormq (control) and data channels.

    Start `run` in a nursery before giving the transport to aiormq.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: Limits,
        silence_limit: float | None,
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._silence_limit = silence_limit
        self._channels: dict[int, DataChannel] = {}
        self._max_frame = _MAX_FRAME
        self._wanted = 0  # Bytes that it takes to have the next whole frame, once they are known.
        self._out = bytearray()
        self._late: dict[DataChannel, None] = {}
        self._out_ready = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()
        self._sending = 0
        self._sent = 0
        self._closing = False
        self._ended = trio.Event()
        # Shielded, so that it outlives the cancellation of its owner, who closes the connection
        # in good order first, and then calls `abort` for sure.
        self._scope = trio.CancelScope(shield=True)
        self._last_heard = trio.current_time()
        self._last_shown = trio.current_time()
        self.reader = asyncio.StreamReader(limit=_READ_SIZE, loop=loop)
        self.writer = _Writer(self)
        self.lost: ConnectionLost | None = None
        """Why the connection ended, once it has."""
        self.close_reason: frames.CloseReason | None = None
        """What the broker gave as its reason to close the connection, if it did."""
        self.established = False
        """Whether the handshake is over. From then on aiormq does not hear of the end from its
        reader, where it would log tracebacks, but is closed by the connection's owner."""
        self.blocked: str | None = None
        """Why the broker takes no publishes at the moment, if it does not."""
        self.calls: set[trio.CancelScope] = set()
        """Of calls that await an answer; aiormq forgets to end those that had just begun."""

    # Running...

    async def run(self) -> None:
        """Move bytes both ways until the connection ends or `abort` is called; `lost` says why."""
        try:
            with self._scope:
                await self._move_bytes()
        except* ConnectionLost as group:
            self._end(_first(group))
        finally:
            self._end(ConnectionLost("closed by us"))
            await trio.aclose_forcefully(self._stream)

    async def _move_bytes(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._write)
            if self._silence_limit:
                nursery.start_soon(self._watch_silence, self._silence_limit)

    def abort(self, reason: str) -> None:
        """End the connection at once; what was not sent is lost."""
        self._end(ConnectionLost(reason))
        self._scope.cancel()

    async def wait_ended(self) -> ConnectionLost:
        """Wait for the end; return why it came."""
        await self._ended.wait()
        return self.lost or ConnectionLost("closed by us")

    def _end(self, error: ConnectionLost) -> None:
        if self.lost is not None:
            return
        if self.close_reason is not None:
            error = ConnectionLost(f"the broker closed the connection: {self.close_reason}")
        self.lost = error
        if not self.established:
            self.reader.feed_eof()
        for channel in list(self._channels.values()):
            channel.connection_lost(error)
        self._channels.clear()
        for call in self.calls:
            call.cancel()
        self._room.unpark_all()
        self._progress.unpark_all()
        self._ended.set()

    # Reading...

    async def _read(self) -> None:
        waiting: list[bytes | bytearray] = []
        size = 0
        while True:
            try:
                chunk = await self._stream.receive_some(_READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
                raise ConnectionLost(f"reading failed: {_reason(exc)}") from exc
            if not chunk:
                raise ConnectionLost("the broker ended the connection")
            if self.lost is not None:
                return
            self._last_heard = trio.current_time()
            waiting.append(chunk)
            size += len(chunk)
            if size >= self._wanted:  # Else a large frame would be copied with each chunk of it.
                rest = self._split(b"".join(waiting))
                waiting = [rest]
                size = len(rest)
            self._show_life()

    def _split(self, data: bytes) -> bytes:
        """Deal out all whole frames in `data`; return what is left over.

        Raises:
            NotAmqp: The bytes are no frames.
        """
        try:
            return self._deal_out(data)
        except (struct.error, LookupError, ValueError) as exc:
            raise NotAmqp(f"what the peer sent is no AMQP 0-9-1 frame: {exc}") from exc

    def _deal_out(self, data: bytes) -> bytes:
        position, end = 0, len(data)
        self._wanted = 0
        unpack, channels = frames.frame_head.unpack_from, self._channels
        while end - position >= frames.FRAME_OVERHEAD:
            kind, number, size = unpack(data, position)
            if kind not in _KINDS:
                raise NotAmqp("the peer does not speak AMQP 0-9-1")
            stop = position + frames.FRAME_OVERHEAD + size
            if stop > end:
                if size > self._max_frame:
                    raise NotAmqp(f"the peer announced a frame of {size} bytes")
                self._wanted = stop - position
                break
            if data[stop - 1] != frames.FRAME_END:
                raise NotAmqp("what the peer sent is no AMQP 0-9-1 frame")
            channel = channels.get(number)
            if channel is None or not channel.handle(kind, data[position + 7 : stop - 1]):
                self._leave_to_aiormq(kind, number, data[position:stop])
            position = stop
        return data[position:]

    def _leave_to_aiormq(self, kind: int, number: int, frame: bytes) -> None:
        if number == 0 and kind == frames.METHOD:
            frame = self._notice(frame)
        self._last_shown = self._last_heard
        self.reader.feed_data(frame)

    def _notice(self, frame: bytes) -> bytes:
        """Learn what the connection's own methods tell; return the frame aiormq shall see."""
        (method,) = frames.method_id.unpack_from(frame, frames.frame_head.size)
        payload = frame[frames.frame_head.size : -1]
        if method == frames.CONNECTION_TUNE:
            return self._agree(frame)
        if method == frames.CONNECTION_OPEN_OK:
            self.established = True
        if method == frames.CONNECTION_CLOSE:
            self.close_reason = frames.close_reason(payload)
            if self.established:
                self.write(frames.CLOSE_OK)
                self.close()
                return frames.HEARTBEAT
        elif method == frames.CONNECTION_BLOCKED:
            self.blocked = frames.read_short_string(payload, 4)
        elif method == frames.CONNECTION_UNBLOCKED:
            self.blocked = None
            self._room.unpark_all()
        return frame

    def _agree(self, tune: bytes) -> bytes:
        """Lower the limits the broker offers to ours."""
        agreed = frames.limit_tune(
            tune, channel_max=self._limits.channel_max, frame_max=self._limits.frame_max
        )
        most = frames.NO_FRAME_MAX
        self._max_frame = min(frames.tuned_frame_max(agreed) or most, most)
        return agreed

    def _show_life(self) -> None:
        """Let aiormq see that the connection lives while only data flows."""
        if self._last_heard - self._last_shown >= _SIGN_OF_LIFE:
            self._last_shown = self._last_heard
            self.reader.feed_data(frames.HEARTBEAT)

    async def _watch_silence(self, limit: float) -> None:
        while True:
            silent_since = self._last_heard
            await trio.sleep_until(silent_since + limit)
            # A program that blocked the loop finds the bytes only now: let them be read first.
            await trio.sleep(min(1.0, limit / 2))
            if self._last_heard == silent_since:
                raise ConnectionLost(f"the broker was silent for {limit:g} s")

    # Writing...

    def write(self, data: bytes) -> None:
        """Queue bytes; they leave in order, with all else that is ready in this tick.

        Raises:
            ConnectionLost: The connection is gone.
        """
        if self.lost is not None:
            raise self.lost
        self._out += data
        self._out_ready.set()

    def write_late(self, channel: DataChannel) -> None:
        """Have a channel write more at the moment when all that is ready leaves."""
        self._late[channel] = None
        self._out_ready.set()

    def _collect(self) -> None:
        """Have all write what they left until now."""
        late, self._late = self._late, {}
        for channel in late:
            channel.write_late()

    async def wait_room(self) -> None:
        """Wait while too much is waiting to be sent."""
        while len(self._out) > _HIGH_WATER and self.lost is None:
            await self._room.park()

    async def wait_unblocked(self) -> None:
        """Wait while the broker reads nothing that we send."""
        while self.blocked is not None and self.lost is None:
            await self._room.park()

    async def flush(self) -> None:
        """Wait until what was written so far has been handed to the operating system.

        Returns too once it never can be.
        """
        if self.lost is None:
            self._collect()
        goal = self._sent + self._sending + len(self._out)
        while self._sent < goal and self.lost is None:
            await self._progress.park()

    def close(self) -> None:
        """End the connection once what was written has been sent."""
        self._closing = True
        self._out_ready.set()

    @property
    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing or self.lost is not None

    async def _write(self) -> None:
        while True:
            await self._out_ready.wait()
            self._collect()
            self._out_ready = trio.Event()
            while self._out:
                data, self._out = self._out, bytearray()
                self._room.unpark_all()
                await self._send(data)
                self._collect()
            if self._closing:
                raise ConnectionLost("closed by us")

    async def _send(self, data: bytearray) -> None:
        self._sending = len(data)
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
            raise ConnectionLost(f"writing failed: {_reason(exc)}") from exc
        self._sent += self._sending
        self._sending = 0
        self._progress.unpark_all()

    # Channels...

    def attach(self, number: int, channel: DataChannel) -> None:
        """Have the data frames of channel `number` handled by `channel`."""
        self._channels[number] = channel

    def detach(self, number: int, channel: DataChannel) -> None:
        """Leave all frames of channel `number` to aiormq again, unless it has another `channel`."""
        if self._channels.get(number) is channel:
            del self._channels[number]


def _first(group: BaseExceptionGroup[ConnectionLost]) -> ConnectionLost:
    """Return the error that came first: reading and writing may fail of the same cause."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _reason(exc: BaseException) -> str:
    cause = exc.__cause__ or exc
    return str(cause) or type(cause).__name__


class _Writer:
    """What aiormq needs of an ``asyncio.StreamWriter``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.transport = self

    def write(self, data: bytes) -> None:
        """Queue bytes; those for a lost connection are dropped, as asyncio's transports do."""
        if self._transport.lost is None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Return at once: control frames are few, and data goes around."""

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._transport.is_closing

    def can_write_eof(self) -> bool:
        """AMQP has a closing handshake of its own."""
        return False

    def close(self) -> None:
        """End the connection once what was written has been sent."""
        self._transport.close()

    def abort(self) -> None:
        """End the connection."""
        self._transport.close()

    async def wait_closed(self) -> None:
        """Return at once: the transport's owner waits."""


class ReadyTransport(aiormq.TransportFactory):
    """Hands aiormq a transport that is already open."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, url: URL, **kwargs: Any) -> Any:
        """Return the transport's asyncio face; `url` was used when the stream was opened."""
        return self._transport.reader, self._transport.writer
