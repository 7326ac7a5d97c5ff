"""From a configuration to its broker. A broker's libraries are imported only if it is the one."""

from __future__ import annotations

from .._config import AmqpConfig, Config
from .._errors import ConfigError
from .base import Broker


def make_broker(config: Config, *, name: str, consumes: bool) -> Broker:
    """Make the broker a configuration names; nothing is connected yet.

    Args:
        config: The configuration.
        name: What the broker's operators see of us.
        consumes: Whether deliveries will be taken.

    Raises:
        ConfigError: There is no such broker, or its certificates cannot be read.
    """
    broker = config.broker_config()
    if isinstance(broker, AmqpConfig):
        from .rabbitmq.broker import RabbitBroker

        broker.ssl_context()  # Unreadable certificates are found here, before anything starts.
        return RabbitBroker(broker, prefix=config.prefix, name=name, consumes=consumes)
    raise ConfigError(
        f"broker: expected amqp://… or amqps://…, as this version has no embedded broker yet, "
        f"got {broker.display!r}"
    )
