"""Running a node: as a program of its own, or inside another Trio program."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from typing import Protocol

import trio

from .._brokers.choose import make_broker
from .._config import Config, MemoryConfig, SqliteConfig
from .._errors import RogerError
from .node import Node

logger = logging.getLogger(__name__)


async def serve(
    config: Config, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a node.

    As a program, until SIGTERM or SIGINT, then gracefully; a second signal stops it at once::

        trio.run(roger.serve, config)

    Inside a Trio program, which then owns the signals and stops the node by cancelling it::

        async with trio.open_nursery() as nursery:
            node = await nursery.start(roger.serve, config)

    Args:
        config: What to run, and where.
        task_status: ``started`` gets the `Node` once its partitions consume their queues. While
            the broker cannot be reached, that takes as long as it takes.

    Raises:
        ConfigError: The configuration is wrong, or a job has ``process=True`` and the extra
            ``roger_trio[process]`` is not installed; nothing was started.
        BrokerUnavailable: The broker refused us for good at the first attempt: a wrong password,
            virtual host or certificate; or what answers there does not speak AMQP. Where nobody
            answers, as at most wrong ports, the broker is waited for.

    Cancellation: the node stops gracefully: no new jobs are taken, running ones get
    ``shutdown_timeout`` seconds, the rest are cancelled and given back, spending no attempt. That
    takes at most ``shutdown_timeout`` and 20 seconds more, also where the broker does not answer.

    Delivery: a job whose node dies is given to another worker by the broker.
    """
    is_program = task_status is trio.TASK_STATUS_IGNORED
    owns_signals = is_program and threading.current_thread() is threading.main_thread()
    stop_when = stop_on_signals if owns_signals else None
    name = config.make_node_name()
    await serve_as(config, name, stop_when=stop_when, task_status=task_status)


class StopWhen(Protocol):
    """Stops a node when it is time to; started once it looks out for that."""

    async def __call__(self, node: Node, *, task_status: trio.TaskStatus[None]) -> None: ...


async def serve_as(
    config: Config,
    name: str,
    *,
    stop_when: StopWhen | None = None,
    set_up_process: Callable[[], None] | None = None,
    task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node under a name that ``config.make_node_name`` gave; see `serve`.

    For who has to know a name that the configuration leaves open, and is unlike any other then.

    Args:
        config: As for `serve`.
        name: The node's.
        stop_when: Runs beside the node, and stops it; None: only cancellation does.
        set_up_process: Called in each worker process for jobs, before its first one, to set up the
            log, for instance. It has to be pickled.
        task_status: As for `serve`.
    """
    node = Node(config, make_broker(config, name=name, consumes=True), name, set_up_process)
    error: RogerError | None = None
    _say_where_jobs_are(config)
    async with trio.open_nursery() as nursery:
        if stop_when is not None:
            await nursery.start(stop_when, node)
        nursery.start_soon(_stop_on_cancellation, node)
        # Shielded, so that a cancelled node can stop in good order; `Node.stop` sets the deadline.
        with trio.CancelScope(shield=True):
            try:
                await node.run(task_status=task_status)
            except RogerError as exc:
                error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    # A node that was cancelled before it was ready must not seem to have ended by itself.
    await trio.lowlevel.checkpoint_if_cancelled()


def _say_where_jobs_are(config: Config) -> None:
    """Tell what the embedded broker is good for, and how to leave it."""
    broker = config.broker_config()
    if isinstance(broker, SqliteConfig):
        logger.info(
            "jobs are kept in the file %r, for the processes of this machine; for RabbitMQ, and "
            "nodes on several machines, set broker='amqp://user:password@host/' in the Config, or "
            "ROGER_BROKER in the environment",
            broker.path,
        )
    elif isinstance(broker, MemoryConfig):
        logger.info("jobs are kept in memory, and end with this program")


async def _stop_on_cancellation(node: Node) -> None:
    try:
        await trio.sleep_forever()
    finally:
        node.stop()


async def stop_on_signals(
    node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Stop a node at SIGTERM or SIGINT, gracefully; a second one stops it at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        stop = node.stop
        async for number in signals:
            logger.warning("got %s; %s", signal.Signals(number).name, _announcement(node, stop))
            stop()
            stop = node.stop_now


def _announcement(node: Node, stop: object) -> str:
    if stop == node.stop_now:
        return "stopping at once"
    return "stopping once the running jobs have ended; a second signal stops at once"
