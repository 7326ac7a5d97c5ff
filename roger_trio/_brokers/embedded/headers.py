"""How the database keeps a message's headers, and where the message may be sent on to.

Both are in one column, as JSON: an object is the headers alone, as everywhere but in the queues
that forward; there it is a list of where to, and the headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..base import HeaderValue


def pack(headers: Mapping[str, HeaderValue] | None, onward: str) -> str | None:
    """Return what the database keeps."""
    if onward:
        return json.dumps([onward, dict(headers or {})])
    return json.dumps(dict(headers)) if headers else None


def unpack(packed: str | None) -> tuple[str, dict[str, Any]]:
    """Return where the message may be sent on to ('': nowhere), and its headers."""
    kept: Any = json.loads(packed) if packed else {}
    if isinstance(kept, list):
        onward, headers = kept
        return str(onward), headers
    return "", kept
