"""Which broker a configuration means: one value class for each kind."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .._errors import ConfigError
from .amqp import AmqpConfig
from .checks import censor, fail, fail_hidden, is_text, shown

_FORMS = '"amqp://user:password@host:port/virtual_host", "amqps://…", "sqlite:PATH" or "memory:"'
_MAX_PATH = 4096


def _check_path(config: object, field: attrs.Attribute[str], value: object) -> None:
    # `sqlite:///x` is how others write a path; here it would silently be the file `///x`.
    if not value or not isinstance(value, str) or not is_text(value, _MAX_PATH):
        fail("broker", "sqlite: to be followed by the path of a file", value)
    if value.startswith(("//", ":")):
        fail("broker", "sqlite:PATH, or memory: for a broker without a file", f"sqlite:{value}")


@attrs.frozen(kw_only=True)
class SqliteConfig:
    """The embedded broker in a file: durable, for the processes of one machine."""

    path: str = attrs.field(validator=_check_path)
    """The file, relative to the working directory; it is made when it does not exist."""

    @property
    def display(self) -> str:
        """The address, as in `Config.broker`."""
        return f"sqlite:{self.path}"


@attrs.frozen(kw_only=True)
class MemoryConfig:
    """The embedded broker of one process: all is forgotten with it."""

    @property
    def display(self) -> str:
        """The address, as in `Config.broker`."""
        return "memory:"


BrokerConfig: TypeAlias = AmqpConfig | SqliteConfig | MemoryConfig


def parse_broker(broker: str | BrokerConfig) -> BrokerConfig:
    """Read the text forms of a broker; a value class passes as it is.

    Raises:
        ConfigError: It is none of the forms, or wrong in itself. A password is not shown.
    """
    if isinstance(broker, AmqpConfig | SqliteConfig | MemoryConfig):
        return broker
    if not isinstance(broker, str):
        fail_hidden("broker", f"AmqpConfig(...) or {_FORMS}", broker)
    scheme, colon, rest = broker.partition(":")
    match scheme.lower() + colon:
        case "amqp:" | "amqps:":
            return AmqpConfig.from_url(broker)
        case "sqlite:":
            return SqliteConfig(path=rest)
        case "memory:" if not rest:
            return MemoryConfig()
        case _:
            raise ConfigError(f"broker: expected {_FORMS}, got {shown(censor(broker))}")
