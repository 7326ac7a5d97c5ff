"""AMQP 0-9-1 frames of the data path: what is sent and read a thousand times a second.

Only the handful of frames that carry jobs are made and read here, by precompiled structs, because
`pamqp` takes ten times as long for them; everything else is left to `aiormq` and `pamqp`. Layouts:
AMQP 0-9-1 specification, sections 4.2.3 to 4.2.6, and RabbitMQ's extensions.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Final

import attrs
import pamqp.encode
import pamqp.header

from ..base import HeaderValue, MessageTooLarge

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
FRAME_OVERHEAD: Final = 8
"""Bytes of a frame that are not payload: a header of seven and the end octet."""

MAX_BODY: Final = 2**29
"""Bytes of the largest message that any RabbitMQ can be set up to take."""
NO_FRAME_MAX: Final = MAX_BODY + 2**17
"""More bytes than a frame of a broker without a limit has."""

HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
CLOSE_OK: Final = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
"""Our answer when the broker closes the connection."""

CONNECTION_TUNE: Final = 10 << 16 | 30
CONNECTION_OPEN_OK: Final = 10 << 16 | 41
CONNECTION_CLOSE: Final = 10 << 16 | 50
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_OPEN_OK: Final = 20 << 16 | 11
CHANNEL_CLOSE: Final = 20 << 16 | 40
_close_payload: Final = (200).to_bytes(2, "big") + bytes(1 + 2 + 2)  # no text, class or method
CHANNEL_CLOSE_OK: Final = 20 << 16 | 41
BASIC_CANCEL: Final = 60 << 16 | 30
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_GET_OK: Final = 60 << 16 | 71
BASIC_GET_EMPTY: Final = 60 << 16 | 72
BASIC_ACK: Final = 60 << 16 | 80
BASIC_REJECT: Final = 60 << 16 | 90
BASIC_NACK: Final = 60 << 16 | 120

_PERSISTENT: Final = b"\x02"
_CONTENT_TYPE: Final = b"\x10application/json"
_FLAG_CONTENT_TYPE: Final = 1 << 15
_FLAG_HEADERS: Final = 1 << 13
_FLAG_DELIVERY_MODE: Final = 1 << 12
_FLAG_MESSAGE_ID: Final = 1 << 7
_FLAGS: Final = _FLAG_CONTENT_TYPE | _FLAG_DELIVERY_MODE | _FLAG_MESSAGE_ID

frame_head = struct.Struct(">BHI")
"""Type, channel number, payload size."""
method_id = struct.Struct(">I")
body_size = struct.Struct(">Q")
tag_and_flag = struct.Struct(">QB")
_tune = struct.Struct(">HIH")
_settle = struct.Struct(">BHIIQBB")
_content_head = struct.Struct(">BHIIQH")
_u16 = struct.Struct(">H")

_END: Final = b"\xce"
_TUNE_SIZE: Final = 12
_SETTLE_SIZE: Final = 13
_CONTENT_HEAD_SIZE: Final = 14
_BASIC_CLASS: Final = 60 << 16


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Make a ``basic.ack`` of one delivery, or of all up to it."""
    return _settle.pack(METHOD, channel, _SETTLE_SIZE, BASIC_ACK, tag, multiple, FRAME_END)


def nack(channel: int, tag: int) -> bytes:
    """Make a ``basic.nack`` that puts one delivery back into its queue."""
    return _settle.pack(METHOD, channel, _SETTLE_SIZE, BASIC_NACK, tag, 2, FRAME_END)


def reject(channel: int, tag: int) -> bytes:
    """Make a ``basic.reject`` that has one delivery dead-lettered."""
    return _settle.pack(METHOD, channel, _SETTLE_SIZE, BASIC_REJECT, tag, 0, FRAME_END)


def close_channel(channel: int) -> bytes:
    """Make the ``channel.close`` by which we end a channel."""
    return _method(channel, CHANNEL_CLOSE, _close_payload)


def get(channel: int, queue: str) -> bytes:
    """Make a ``basic.get`` that has to be acknowledged."""
    return _method(channel, 60 << 16 | 70, b"\x00\x00" + short_string(queue) + b"\x00")


def publish_method(
    channel: int, exchange: str, routing_key: str, *, mandatory: bool = True
) -> bytes:
    """Make the ``basic.publish`` frame of a message; the same for a destination."""
    flags = b"\x01" if mandatory else b"\x00"
    payload = b"\x00\x00" + short_string(exchange) + short_string(routing_key) + flags
    return _method(channel, 60 << 16 | 40, payload)


def content(
    channel: int,
    body: bytes,
    message_id: bytes,
    headers: Mapping[str, HeaderValue] | None,
    frame_max: int,
) -> bytes:
    """Make the header and body frames of a persistent JSON message.

    Args:
        channel: Channel number.
        body: The whole body; split over as many frames as it takes.
        message_id: At most 255 bytes, may be empty.
        headers: The header table, if any.
        frame_max: Largest frame the connection allows, in bytes.

    Raises:
        MessageTooLarge: The header does not fit into a frame; unlike a body it cannot be split.
    """
    flags = _FLAGS
    properties = _CONTENT_TYPE
    if headers:
        flags |= _FLAG_HEADERS
        properties += pamqp.encode.field_table(dict(headers))
    properties += _PERSISTENT + bytes((len(message_id),)) + message_id
    room = frame_max - FRAME_OVERHEAD
    if _CONTENT_HEAD_SIZE + len(properties) > room:
        raise MessageTooLarge(
            f"the message's header takes {_CONTENT_HEAD_SIZE + len(properties)} bytes, "
            f"and a frame of this connection holds {room}"
        )
    size = len(body)
    head = _content_head.pack(
        HEADER, channel, _CONTENT_HEAD_SIZE + len(properties), _BASIC_CLASS, size, flags
    )
    if size <= room:
        frames = frame_head.pack(BODY, channel, size) + body + _END if size else b""
    else:
        parts = (body[start : start + room] for start in range(0, size, room))
        frames = b"".join(frame_head.pack(BODY, channel, len(part)) + part + _END for part in parts)
    return head + properties + _END + frames


def short_string(text: str) -> bytes:
    """Encode a short string: one length octet and at most 255 bytes of UTF-8."""
    data = text.encode()
    return bytes((len(data),)) + data


def _method(channel: int, method: int, payload: bytes) -> bytes:
    size = method_id.size + len(payload)
    return frame_head.pack(METHOD, channel, size) + method_id.pack(method) + payload + _END


def limit_tune(frame: bytes, *, channel_max: int, frame_max: int) -> bytes:
    """Lower the limits in a ``connection.tune`` frame to ours; 0 asks for no limit of ours.

    `aiormq` answers with the limits it is offered, so offering it our own is how they are set.
    """
    if len(frame) != FRAME_OVERHEAD + _TUNE_SIZE:
        return frame
    offset = frame_head.size + method_id.size
    offered_channels, offered_frame, heartbeat = _tune.unpack_from(frame, offset)
    limits = _tune.pack(
        _lower(offered_channels, channel_max), _lower(offered_frame, frame_max), heartbeat
    )
    return frame[:offset] + limits + _END


def tuned_frame_max(tune: bytes) -> int:
    """Read the largest frame that a ``connection.tune`` frame allows; 0 is no limit."""
    if len(tune) != FRAME_OVERHEAD + _TUNE_SIZE:
        return 0
    return int(_tune.unpack_from(tune, frame_head.size + method_id.size)[1])


def _lower(offered: int, wanted: int) -> int:
    """Return the lower of two limits of which 0 means none."""
    return min(offered, wanted) if offered and wanted else offered or wanted


@attrs.frozen
class CloseReason:
    """Why the broker closed a connection or a channel."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


def close_reason(payload: bytes) -> CloseReason:
    """Read the payload of ``connection.close`` or ``channel.close``."""
    if len(payload) < 7:
        return CloseReason(0, "closed by the broker")
    (code,) = _u16.unpack_from(payload, 4)
    return CloseReason(code, read_short_string(payload, 6))


def read_short_string(data: bytes, offset: int) -> str:
    """Read the short string that starts at `offset`."""
    return data[offset + 1 : offset + 1 + data[offset]].decode("utf-8", "replace")


def delivered_through(payload: bytes) -> str:
    """Read from ``basic.deliver`` or ``basic.get-ok`` the exchange that a message went through."""
    (method,) = method_id.unpack_from(payload)
    consumer_tag = 1 + payload[4] if method == BASIC_DELIVER else 0
    return read_short_string(payload, method_id.size + consumer_tag + tag_and_flag.size)


@attrs.frozen
class Returned:
    """A mandatory message that no queue took."""

    reason: CloseReason
    exchange: str
    key: str

    @property
    def destination(self) -> tuple[str, str]:
        """Where it was sent: exchange and routing key."""
        return self.exchange, self.key


def returned(payload: bytes) -> Returned:
    """Read the payload of ``basic.return``."""
    exchange_at = 7 + payload[6]
    key_at = exchange_at + 1 + payload[exchange_at]
    return Returned(
        close_reason(payload),
        read_short_string(payload, exchange_at),
        read_short_string(payload, key_at),
    )


def properties(payload: bytes) -> pamqp.header.ContentHeader:
    """Decode a content header's payload, as far as it can be decoded: anybody may have made it."""
    header = pamqp.header.ContentHeader()
    # A date out of range is an OSError to Python, a table nested too deeply a RecursionError.
    with contextlib.suppress(
        struct.error, ValueError, LookupError, ArithmeticError, TypeError, OSError, RecursionError
    ):
        header.unmarshal(payload)
    return header
