"""A process of a supervisor, from within: who it is, and how it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, MutableMapping

import attrs
import trio

from .._config import Config
from .._errors import ConfigError
from .._tree.node import Node
from .._tree.serve import serve_as
from .process import PROCESS_VARIABLE
from .tie import READY, Stop, Tie, after_signal

logger = logging.getLogger(__name__)


@attrs.frozen
class Place:
    """Which process this is, and what connects it to its supervisor."""

    number: int
    tie: Tie


def take_place(environ: MutableMapping[str, str] = os.environ) -> Place | None:
    """Find out whether this is a process of a supervisor, and leave no trace for its children.

    From here on SIGINT waits until there is a node to stop: a terminal sends it to the supervisor
    too, which then sees to this one.

    Returns:
        None: it is not.

    Raises:
        ConfigError: Somebody else has set the variable.
    """
    value = environ.pop(PROCESS_VARIABLE, None)
    if value is None:
        return None
    number, _, descriptor = value.partition(":")
    try:
        end = socket.socket(fileno=int(descriptor))
        end.set_inheritable(False)
        place = Place(int(number), Tie(end))
    except (ValueError, OSError):
        rule = "expected nothing, as only `roger serve --processes` may set it"
        raise ConfigError(f"{PROCESS_VARIABLE}: {rule}, got {value!r}") from None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return place


def config_of(config: Config, number: int) -> Config:
    """Give a process its own node name: the configured one and its number.

    Names that are not configured are unlike each other already.

    Raises:
        ConfigError: The name becomes too long.
    """
    if config.node_name is None:
        return config
    return attrs.evolve(config, node_name=f"{config.node_name}-{number}")


async def serve_in_place(
    config: Config, name: str, place: Place, set_up_process: Callable[[], None] | None = None
) -> None:
    """Run a node as a process of a supervisor; see `serve_as`.

    It stops as the supervisor says; gracefully also at a signal of its own, and when the supervisor
    is gone.
    """
    orders = _Orders(place.tie)
    await serve_as(
        config,
        name,
        stop_when=orders.heed,
        set_up_process=set_up_process,
        task_status=_Announcing(place.tie),
    )


class _Announcing:
    """Tells the supervisor that the node is ready."""

    def __init__(self, tie: Tie) -> None:
        self._tie = tie

    def started(self, value: Node | None = None) -> None:
        """Tell it."""
        self._tie.say(READY)


class _Orders:
    """How far the node has been told to stop, by whomever."""

    def __init__(self, tie: Tie) -> None:
        self._tie = tie
        self._stop = Stop.NO
        self._is_orphan = False

    async def heed(
        self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Stop the node when told to, until cancelled."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_signals, node, signals)
                nursery.start_soon(self._heed_supervisor, node)

    async def _heed_signals(self, node: Node, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            why = f"got {signal.Signals(number).name}"
            self._obey(node, after_signal(self._stop, is_orphan=self._is_orphan), why)

    async def _heed_supervisor(self, node: Node) -> None:
        while word := await self._tie.hear():
            self._obey(node, Stop(word[0]), "told to by the supervisor")
        self._is_orphan = True
        self._obey(node, Stop.GRACEFULLY, "the supervisor is gone")

    def _obey(self, node: Node, stop: Stop, why: str) -> None:
        if stop <= self._stop:
            return
        self._stop = stop
        if stop is Stop.AT_ONCE:
            logger.warning("%s: stopping at once", why)
            node.stop_now()
        else:
            logger.warning("%s: stopping once the running jobs have ended", why)
            node.stop()
