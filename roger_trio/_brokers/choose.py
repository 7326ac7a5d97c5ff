"""From a configuration to its broker. A broker's libraries are imported only if it is the one."""

from __future__ import annotations

from .._config import AmqpConfig, Config, SqliteConfig
from .base import Broker


def make_broker(config: Config, *, name: str, consumes: bool) -> Broker:
    """Make the broker a configuration names; nothing is connected yet.

    Args:
        config: The configuration.
        name: What the broker's operators see of us.
        consumes: Whether deliveries will be taken.

    Raises:
        ConfigError: Its certificates cannot be read.
    """
    broker = config.broker_config()
    if isinstance(broker, AmqpConfig):
        from .rabbitmq.broker import RabbitBroker

        broker.ssl_context()  # Unreadable certificates are found here, before anything starts.
        return RabbitBroker(broker, prefix=config.prefix, name=name, consumes=consumes)
    from .embedded.open import open_memory_broker, open_sqlite_broker

    if isinstance(broker, SqliteConfig):
        return open_sqlite_broker(broker.path, config.prefix)
    return open_memory_broker(config.prefix)
