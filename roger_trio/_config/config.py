"""All that can be set, in one value: `Config`."""

from __future__ import annotations

import inspect
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from .._errors import ConfigError
from .._jobs.callbacks import Callbacks
from .._persisters import FilePersister, Persister
from . import checks
from .broker import BrokerConfig, parse_broker
from .toml import read_toml

RETRY_LEVELS = (1.0, 3.0, 5.0, 10.0, 20.0, 35.0, 60.0, 100.0, 200.0, 400.0, 1000.0, 1800.0)
"""The default delays, in seconds, between the attempts of a retryable job."""

BROKER_VARIABLE = "ROGER_BROKER"
"""The environment variable that overrides `Config.broker`; no other one is read."""


def default_node_name() -> str:
    """Make a name that no other node has: ``host-pid-random``."""
    host = "".join(filter(str.isprintable, socket.gethostname()))[:64] or "node"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _to_partitions(value: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
    return checks.check_partitions(value)


def _to_levels(value: Sequence[float]) -> tuple[float, ...]:
    return checks.check_retry_levels(value)


def _check_broker(config: object, field: attrs.Attribute[Any], value: str | BrokerConfig) -> None:
    parse_broker(value)


def _check_callbacks(config: object, field: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, type) and issubclass(value, Callbacks):
        name = value.__name__
        raise ConfigError(f"callbacks: expected an instance, {name}(), got the class {name}")
    if not isinstance(value, Callbacks):
        rule = "an instance of roger.Callbacks"
        checks.fail_hidden("callbacks", rule, cast("object", value))


def _check_persister(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, type):
        name = value.__name__
        raise ConfigError(f"persister: expected an instance, {name}(), got the class {name}")
    for method in ("load", "save"):
        if not inspect.iscoroutinefunction(getattr(value, method, None)):
            rule = f"an object with `async def load` and `async def save` (no async {method} found)"
            checks.fail_hidden("persister", rule, value)


def _check_max_buried(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        checks.check_whole(value, 1, checks.MAX_COUNT, key="max_buried", also="None, or ")


def _check_job_processes(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        checks.check_whole(value, 1, checks.MAX_WORKERS, key="max_job_processes", also="None, or ")


def _check_node_name(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        checks.check_name(value, key="node_name")


def _show_broker(broker: str | BrokerConfig) -> str:
    return repr(parse_broker(broker).display if isinstance(broker, str) else broker)


def _show_partitions(partitions: Mapping[str, Mapping[str, int]]) -> str:
    return repr({name: dict(queues) for name, queues in partitions.items()})


@attrs.frozen(kw_only=True)
class Config:
    """What a node or a client runs with. Every field has a default, and nothing can be changed.

    A ``Config`` that exists is valid: every rule is checked when it is made, before anything
    starts. What only the outside can tell (whether the broker answers, whether certificate files
    are there) is met later. Its ``repr`` holds no password.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, the rule and the value.

    Example:
        >>> Config(broker="amqp://guest:secret@localhost/", partitions={"myapp": {"default": 10}})
        ... # doctest: +ELLIPSIS
        Config(broker='amqp://guest:***@localhost:5672/', partitions={'myapp': {'default': 10}}, ...
    """

    broker: str | BrokerConfig = attrs.field(
        default="sqlite:roger.db", validator=_check_broker, repr=_show_broker
    )
    """Where jobs live: an `AmqpConfig`, or text: ``amqp://…`` and ``amqps://…`` (see
    `AmqpConfig.from_url`), ``sqlite:PATH``, ``memory:``."""

    partitions: Mapping[str, Mapping[str, int]] = attrs.field(
        factory=dict[str, Mapping[str, int]], converter=_to_partitions, repr=_show_partitions
    )
    """The partitions a node starts with: their queues, and how many jobs of each may run at once
    on this node (1 to 65535). Partition names are printable text of up to 120 bytes in UTF-8,
    queue names 1 to 64 letters, digits and ``_``. It is copied; the order is kept."""

    callbacks: Callbacks = attrs.field(factory=Callbacks, validator=_check_callbacks)
    """What is called around jobs."""

    persister: Persister = attrs.field(factory=FilePersister, validator=_check_persister)
    """Where a partition's state (its held keys, cancelled jobs, paused queues) is kept: a
    `FilePersister`, a `BrokerPersister` for nodes on several hosts, a `MemoryPersister`, or any
    object with their ``load`` and ``save``."""

    retry_levels: tuple[float, ...] = attrs.field(default=RETRY_LEVELS, converter=_to_levels)
    """Seconds, each at least 0, between the attempts of a retryable job; after the last one it is
    buried. Jobs may have their own."""

    max_buried: int | None = attrs.field(default=None, validator=_check_max_buried)
    """The most buried jobs to keep of a queue, at least 1: beyond it the oldest are dropped,
    counted and logged. None: all are kept."""

    max_deliveries: int = attrs.field(default=5, validator=checks.whole(1, checks.MAX_COUNT))
    """How many processes, at least 1, may die of a job before it is buried. It is started twice all
    the same, as the first time that it comes back proves nothing."""

    max_job_processes: int | None = attrs.field(default=None, validator=_check_job_processes)
    """How many jobs with ``process=True`` may run at once on this node, of all its queues, at
    least 1: each has a process of its own then. None: as many as there are CPUs for the node."""

    shutdown_timeout: float = attrs.field(default=10.0, validator=checks.seconds())
    """Seconds, at least 0, that running jobs get when the node stops; then they are cancelled and
    given back, and spend no attempt."""

    enqueue_timeout: float = attrs.field(default=30.0, validator=checks.seconds(above=0))
    """Seconds, above 0, that a call of a client may wait: for the broker to confirm a job (of
    ``enqueue_many``: each group of 5,000), for the nodes to answer for one with a key, and for both
    in other calls; also while the broker cannot be reached."""

    node_name: str | None = attrs.field(default=None, validator=_check_node_name)
    """What this node is called, unique in the cluster; printable text of up to 120 bytes in UTF-8.
    None: ``host-pid-random``, made when the node starts."""

    prefix: str = attrs.field(default="", validator=checks.by(checks.check_prefix))
    """Put verbatim in front of every name on the broker, so that clusters can share a virtual
    host; at most 32 letters, digits and ``_ . : -``."""

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
    ) -> Config:
        """Read a TOML file, then let ``ROGER_BROKER`` override its broker.

        The top-level keys are the fields. ``broker`` is text, or a table of `AmqpConfig`'s
        fields; ``callbacks`` is ``"module:object"``, imported, and called if it is a class;
        ``persister`` is ``"broker"``, ``"memory"``, ``"file:DIRECTORY"`` or likewise an object. A
        field whose default is None is left out to keep it; ``connection_timeout`` may also be
        ``"none"``. What the file says of a broker is checked even where it is overridden.

        Args:
            path: The file.
            environ: Where to look for ``ROGER_BROKER``; default: the process's environment.

        Raises:
            ConfigError: The file cannot be read, is not TOML, has an unknown key, or a value
                breaks its rule; the message begins with the path, or with ``ROGER_BROKER``.
        """
        values = read_toml(path, [field.name for field in attrs.fields(cls)])
        try:
            config = cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}: {error}") from None
        return config.with_environment(environ)

    def with_environment(self, environ: Mapping[str, str] | None = None) -> Config:
        """Let ``ROGER_BROKER`` override the broker, as `load` and ``roger serve`` do.

        Args:
            environ: Where to look; default: the process's environment. Unset and empty are the
                same: nothing is overridden.

        Raises:
            ConfigError: The variable is not a broker; the message begins with its name.
        """
        broker = (os.environ if environ is None else environ).get(BROKER_VARIABLE)
        if not broker:
            return self
        try:
            return attrs.evolve(self, broker=broker)
        except ConfigError as error:
            raise ConfigError(f"{BROKER_VARIABLE}: {error}") from None

    def broker_config(self) -> BrokerConfig:
        """Give the broker as a value: `AmqpConfig`, `SqliteConfig` or `MemoryConfig`."""
        return parse_broker(self.broker)

    def make_node_name(self) -> str:
        """Give ``node_name``, or a new name of the form ``host-pid-random``."""
        return self.node_name if self.node_name is not None else default_node_name()
