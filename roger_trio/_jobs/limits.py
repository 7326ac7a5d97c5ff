"""How much JSON is read: a small text can make very large objects.

``[],`` takes three bytes on the wire and some eighty in memory, so a message that the broker takes
could be one that no node survives, however often it is delivered again. What is not read cannot.
"""

from __future__ import annotations

from typing import Final

MAX_VALUES: Final = 1_000_000
"""Values of one message."""


def has_too_many_values(body: bytes) -> bool:
    """Tell, without reading it, whether some JSON has more than `MAX_VALUES` values.

    Args:
        body: Any bytes; of what is not JSON, the answer means nothing.
    """
    if len(body) <= MAX_VALUES or _separators(body) < MAX_VALUES:
        return False  # Without a look at what is text, and only looks like values there.
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if body.count(b'"') > 4 * MAX_VALUES:
        return True  # Each text has two, and is a value or the key of one.
    return _separators(b"".join(body.split(b'"')[::2])) >= MAX_VALUES


def _separators(body: bytes) -> int:
    """Count what stands before each value but the first."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")
