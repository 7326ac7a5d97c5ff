"""Where a partition's state is kept. Bytes in, bytes out: nothing here knows what they mean.

base      what a persister is
file      `FilePersister`
statefile one file, and what it takes to keep it whole and one's own
memory    `MemoryPersister`
broker    `BrokerPersister`, a marker that the layers above the broker act on
"""

from __future__ import annotations

from .base import JournalPersister, Persister
from .broker import BrokerPersister
from .file import FilePersister
from .memory import MemoryPersister

__all__ = [
    "BrokerPersister",
    "FilePersister",
    "JournalPersister",
    "MemoryPersister",
    "Persister",
]
