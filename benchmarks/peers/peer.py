"""The peers: what is installed for each, and what it leaves in the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from .. import queues

ROGER: Final = "roger"


@attrs.frozen(kw_only=True)
class Peer:
    """One job system; ``with_NAME.py`` has its settings, jobs, client and worker."""

    name: str
    title: str
    requirements: tuple[str, ...] = ()
    """What is installed into its environment; none: it runs in ours."""
    packages: tuple[str, ...]
    """Whose versions are told."""
    base: str = ""
    """The peer whose file and environment it shares, being a variant of it."""
    has_processes: bool = True
    """Whether one command of its own runs two processes; else its worker is started twice."""
    leaves: Callable[[str], list[str]] = lambda queue: [queue]
    """Queues and exchanges of a run, given the queue's name."""
    shares: tuple[str, ...] = ()
    """Queues and exchanges whose names are always the same."""

    @property
    def module(self) -> str:
        """The module that is both its client and its worker."""
        return f"benchmarks.peers.with_{self.family}"

    @property
    def family(self) -> str:
        """The name of its file and of its environment."""
        return self.base or self.name

    @property
    def variant(self) -> str:
        """What its file is told; empty: it is not a variant."""
        return self.name if self.base else ""

    def programs(self, processes: int) -> int:
        """Tell how many workers are started."""
        return 1 if self.has_processes else processes


def _of_roger(queue: str) -> list[str]:
    prefix = f"{queue}-"
    declared = [name for name, _ in queues.declarations(prefix, "run")]
    return [*declared, *queues.partition_queues(prefix, "run")]


_DRAMATIQ: Final = Peer(
    name="dramatiq",
    title="Dramatiq",
    requirements=("dramatiq[rabbitmq]",),
    packages=("dramatiq", "pika"),
    leaves=lambda queue: [queue, f"{queue}.DQ", f"{queue}.XQ"],
)

PEERS: Final = (
    Peer(
        name=ROGER,
        title="roger_trio",
        packages=("roger-trio", "trio", "trio-asyncio", "aiormq"),
        leaves=_of_roger,
    ),
    Peer(
        name="celery",
        title="Celery",
        requirements=("celery",),
        packages=("celery", "kombu", "amqp"),
        has_processes=False,
        shares=(
            "celery.pidbox",
            "reply.celery.pidbox",
            "celeryev",
            "celery_delayed_delivery",
            *(f"celery_delayed_{level}" for level in range(28)),
        ),
    ),
    _DRAMATIQ,
    attrs.evolve(_DRAMATIQ, name="dramatiq-quorum", base="dramatiq", title="Dramatiq on quorum"),
    Peer(
        name="taskiq",
        title="Taskiq",
        requirements=("taskiq[orjson,uv]", "taskiq-aio-pika"),
        packages=("taskiq", "taskiq-aio-pika", "aio-pika", "aiormq", "uvloop", "orjson"),
        leaves=lambda queue: [queue, f"{queue}.dead"],
    ),
    Peer(
        name="faststream",
        title="FastStream",
        requirements=("faststream[rabbit,cli]", "fast-depends[msgspec]", "uvloop"),
        packages=("faststream", "aio-pika", "aiormq", "uvloop", "msgspec"),
    ),
)
TITLES: Final = {each.name: each.title for each in PEERS}
