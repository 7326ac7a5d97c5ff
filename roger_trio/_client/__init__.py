"""The client: enqueue jobs, look at them, and control them, without running any.

::

    client.py       Client, and `connect`
    cluster.py      what all nodes run
    controlling.py  cancel, pause, keys
    moving.py       replay and purge
    looking.py      what waits in queues
    enqueueing.py   enqueue
    base.py         what these have in common
"""

from __future__ import annotations

from .client import Client as Client, connect as connect
