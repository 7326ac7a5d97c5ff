"""Tests of jobs in no time: a node in memory, one job performed, what is enqueued, and faults.

::

    from roger_trio.testing import assert_enqueued, perform_job, running_node

    async def test_a_mail_is_sent() -> None:
        async with running_node() as node:
            await send_mail.job("ada@example.com").enqueue("test")
            await node.run_until_idle()

With pytest-trio the fixture ``roger_node`` gives such a node; with its ``autojump_clock`` delays
and retries take no time.
"""

from __future__ import annotations

from ._looking import (
    assert_enqueued as assert_enqueued,
    buried as buried,
    enqueued as enqueued,
    refute_enqueued as refute_enqueued,
)
from ._node import RunningNode as RunningNode, running_node as running_node
from ._performing import Performed as Performed, perform_job as perform_job
