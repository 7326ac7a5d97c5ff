"""Running a configuration in several processes: the supervisor as a program."""

from __future__ import annotations

import logging
import signal

import trio

from .._config import Config, MemoryConfig
from .._errors import ConfigError
from .._tree import doorbell
from .child import config_of
from .process import Launch
from .supervisor import Supervisor
from .tie import Stop

logger = logging.getLogger(__name__)


def check_sharable(config: Config, count: int) -> None:
    """Make sure that several processes can serve a configuration.

    Raises:
        ConfigError: They cannot.
    """
    if isinstance(config.broker_config(), MemoryConfig):
        raise ConfigError(
            "broker: expected one that processes can share, got 'memory:', of which each process "
            "would have its own; use sqlite:PATH or RabbitMQ, or leave out --processes"
        )
    config_of(config, count)


async def supervise(config: Config, count: int, launch: Launch) -> int:
    """Run nodes in processes of their own until SIGTERM or SIGINT, then stop them gracefully.

    A second signal stops them at once.

    Args:
        config: What they run; see `check_sharable`.
        count: How many.
        launch: Starts one.

    Returns:
        The exit status; see `Supervisor.run`.
    """
    supervisor = Supervisor(count, launch, shutdown_timeout=config.shutdown_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, supervisor)
        nursery.start_soon(doorbell.answer, config, supervisor.health)
        status = await supervisor.run()
        nursery.cancel_scope.cancel()
    return status


async def _heed_signals(
    supervisor: Supervisor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        stop = Stop.GRACEFULLY
        async for number in signals:
            logger.warning("got %s; %s", signal.Signals(number).name, _ANNOUNCEMENTS[stop])
            supervisor.stop(stop)
            stop = Stop.AT_ONCE


_ANNOUNCEMENTS = {
    Stop.GRACEFULLY: "stopping all processes once their running jobs have ended; a second signal "
    "stops them at once",
    Stop.AT_ONCE: "stopping all processes at once",
}
