"""The client as a whole, and how to get one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from .._brokers.base import ConnectionRefused
from .._brokers.choose import make_broker
from .._config import Config, default_node_name
from .._errors import BrokerUnavailable
from .._jobs.context import current_client
from .cluster import Cluster
from .controlling import Controlling
from .enqueueing import Enqueueing
from .looking import Looking
from .moving import Moving

_FLUSH_TIMEOUT: Final = 1.0
"""Seconds for what was told in the background to reach the broker when a client is left."""


class Client(Enqueueing, Looking, Moving, Controlling, Cluster):
    """Enqueues jobs and looks after queues. Get one from `connect`; a `Node` is one too.

    Methods may be called from any task, also at the same time. Those that need the broker wait
    while it cannot be reached, at most ``enqueue_timeout`` seconds, and then raise
    `BrokerUnavailable`.
    """


@asynccontextmanager
async def connect(config: Config) -> AsyncGenerator[Client]:
    """Open a client, without a node, and make it the ambient client.

    Inside the block ``await job.enqueue(partition)`` goes through it::

        async with roger.connect(config) as client:
            await client.enqueue(send_mail.job("ada@example.com"), "myapp")

    A broker that cannot be reached now does not keep the block from being entered: the connection
    is made when it can be, and what needs it waits, as `Client` says.

    Args:
        config: Where to; partitions, callbacks and the like are not used.

    Raises:
        ConfigError: The configuration is wrong.
        BrokerUnavailable: The broker refused us for good: a wrong password, virtual host or
            certificate; or what answers there does not speak AMQP. Where nobody answers, as at
            most wrong ports, the broker is waited for.
    """
    name = config.node_name or default_node_name()
    broker = make_broker(config, name=f"{name} client", consumes=False)
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(broker.run)
            client = Client(config, broker, nursery=nursery)
            token = current_client.set(client)
            try:
                yield client
            finally:
                current_client.reset(token)
                await client._flush_controls(_FLUSH_TIMEOUT)  # noqa: SLF001 -- of this package
        except trio.Cancelled:
            raise
        except ConnectionRefused as exc:
            error = BrokerUnavailable(str(exc))
            error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001 -- raised again below, out of the nursery
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
