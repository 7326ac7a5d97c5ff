"""How RabbitMQ is reached: `AmqpConfig`."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Any, TypeAlias, cast
from urllib.parse import quote

import attrs

from .checks import (
    as_mapping,
    censor,
    check_seconds,
    check_whole,
    fail,
    fail_hidden,
    is_text,
    seconds,
    unknown,
    whole,
)
from .properties import freeze_properties, thaw_properties
from .tls import SslOptions
from .url import NO_TIMEOUT, parse_amqp_url

TlsOptions: TypeAlias = ssl.SSLContext | SslOptions | Mapping[str, object] | None

_UNDER = "broker."
_UINT16 = 2**16 - 1
_UINT32 = 2**32 - 1
_MIN_FRAME = 4096  # AMQP 0-9-1's frame-min-size
_SHORT_TEXT = 255  # bytes in an AMQP short string
_HOST = re.compile(r"[^\s/?#@\[\]%:\\]+")


def _check_text(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if not value or not is_text(value, _SHORT_TEXT):
        fail(_UNDER + field.name, f"text of 1 to {_SHORT_TEXT} bytes in UTF-8 without NUL", value)


def _check_password(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if not is_text(value, _UINT16):
        fail_hidden(_UNDER + field.name, "text without NUL", value)


def _check_host(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, str) and is_text(value, _SHORT_TEXT) and _is_host(value):
        return
    given = censor(value) if isinstance(value, str) else value
    fail(_UNDER + field.name, "a host name or IP address alone", given)


def _is_host(text: str) -> bool:
    if ":" not in text:
        return text.isprintable() and _HOST.fullmatch(text) is not None
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_frame_max(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if type(value) is not int or value != 0:
        check_whole(value, _MIN_FRAME, _UINT32, key=_UNDER + field.name, also="0, or ")


def _check_timeout(config: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        check_seconds(value, key=_UNDER + field.name, above=0)


def _to_tls(value: TlsOptions) -> ssl.SSLContext | SslOptions | None:
    if value is None or isinstance(value, ssl.SSLContext | SslOptions):
        return value
    rule = "an ssl.SSLContext, SslOptions or a mapping of its options"
    return SslOptions.from_mapping(as_mapping(value, key=f"{_UNDER}ssl_options", rule=rule))


def _show_properties(properties: Mapping[str, object]) -> str:
    return repr(thaw_properties(properties))


@attrs.frozen(kw_only=True)
class AmqpConfig:
    """How to reach RabbitMQ. Every option has a default; `from_url` reads them from a URL.

    Raises:
        ConfigError: A value breaks its rule; the message names ``broker.<option>``, the rule and
            the value, but never a password.
    """

    host: str = attrs.field(default="localhost", validator=_check_host)
    """Host name or IP address of the broker; an IPv6 address without brackets."""

    port: int = attrs.field(default=5672, validator=whole(1, _UINT16, under=_UNDER))
    """TCP port, 1 to 65535. ``amqps://`` URLs take 5671 instead where they name none."""

    username: str = attrs.field(default="guest", validator=_check_text)
    """Name of a user registered with the broker."""

    password: str = attrs.field(default="guest", repr=False, validator=_check_password)
    """The user's password; secret: it is in no ``repr``, log line or error."""

    virtual_host: str = attrs.field(default="/", validator=_check_text)
    """Name of the virtual host."""

    channel_max: int = attrs.field(default=0, validator=whole(0, _UINT16, under=_UNDER))
    """The most channels to ask for, 0 to 65535; 0 leaves it to the broker."""

    frame_max: int = attrs.field(default=0, validator=_check_frame_max)
    """The largest frame to ask for, in bytes, at least 4096; 0 leaves it to the broker."""

    heartbeat: int = attrs.field(default=60, validator=whole(0, _UINT16, under=_UNDER))
    """Whole seconds, 0 to 65535, between signs of life: a peer that is silent for two of them is
    held for dead; 0 turns them off."""

    connection_timeout: float | None = attrs.field(default=30.0, validator=_check_timeout)
    """Seconds, above 0, that connecting may take; None waits without end."""

    ssl_options: ssl.SSLContext | SslOptions | None = attrs.field(default=None, converter=_to_tls)
    """TLS: a context of your own, or `SslOptions` (or a mapping of its names, ``{}`` for verified
    TLS with the system's certificates). None: not encrypted. The port is not changed by it."""

    client_properties: Mapping[str, object] = attrs.field(
        factory=dict[str, object], converter=freeze_properties, repr=_show_properties
    )
    """What else to tell the broker about this client, as its management page shows it: text,
    numbers, bools, and lists and mappings of them."""

    queue_settle_time: float = attrs.field(default=1.0, validator=seconds(under=_UNDER))
    """Seconds, at least 0, to wait once after a queue was newly created.

    A quorum queue is not crash-safe in its first second: what is confirmed in it would be lost
    if a single-node broker were killed then. Tests may set 0, which also makes a missing queue at
    once, where others wait half a second, lest its deletion be news to its consumers. One that a
    job finds deleted, which was there before, is made half a second later all the same.
    """

    @classmethod
    def from_url(cls, url: str) -> AmqpConfig:
        """Read ``amqp://user:password@host:port/virtual_host?option=value``.

        ``amqps://`` means TLS, verified, on port 5671. Every part is optional. User, password,
        virtual host and options are percent-decoded as UTF-8 (``+`` stays ``+``); a virtual host
        left out, or given as ``/``, ``//`` or ``/%2F``, is ``/``. An IPv6 host stands in brackets.

        The options: ``heartbeat``, ``channel_max``, ``frame_max``, ``connection_timeout`` and
        ``queue_settle_time`` (seconds; ``none`` or ``infinity`` for a timeout without end),
        ``client_properties.NAME``, and with amqps ``cafile`` (or ``cacertfile``), ``capath``,
        ``certfile``, ``keyfile``, ``keyfile_password``, ``verify`` (``true``, ``false``,
        ``verify_peer``, ``verify_none``), ``server_hostname``.

        Raises:
            ConfigError: The URL is malformed, has an unknown option or one twice, or a value
                breaks its rule. What may belong to a password is not shown.
        """
        if not isinstance(url, str):
            fail_hidden("broker", "a URL as text", url)
        return cls(**cast("dict[str, Any]", parse_amqp_url(url)))

    @property
    def display(self) -> str:
        """The address without password and options: safe in logs and errors."""
        scheme = "amqp" if self.ssl_options is None else "amqps"
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = "" if self.virtual_host == "/" else quote(self.virtual_host, safe="")
        return f"{scheme}://{quote(self.username, safe='')}:***@{host}:{self.port}/{path}"

    @property
    def server_hostname(self) -> str:
        """The name that the broker's certificate must carry."""
        options = self.ssl_options
        named = options.server_hostname if isinstance(options, SslOptions) else None
        return named or self.host

    def ssl_context(self) -> ssl.SSLContext | None:
        """Give the context for the connection, or None where it is not encrypted.

        Certificate files are read by each call.

        Raises:
            ConfigError: A file cannot be read, is not what it should be, or does not fit another.
        """
        if isinstance(self.ssl_options, SslOptions):
            return self.ssl_options.ssl_context()
        return self.ssl_options

    def properties_table(self) -> dict[str, Any]:
        """Give a fresh copy of ``client_properties`` made of dicts and lists, to be encoded."""
        return thaw_properties(self.client_properties)


def amqp_from_table(table: Mapping[str, object]) -> AmqpConfig:
    """Make an `AmqpConfig` from named values, as a ``[broker]`` table has them.

    Raises:
        ConfigError: A name is unknown, or a value breaks its rule.
    """
    known = [field.name for field in attrs.fields(AmqpConfig)]
    values = dict(table)
    for name in values:
        if name not in known:
            unknown(name, known, under=_UNDER)
    timeout = values.get("connection_timeout")
    # TOML has no None, so that it is spelt as in a URL.
    if isinstance(timeout, str) and timeout in NO_TIMEOUT:
        values["connection_timeout"] = None
    return AmqpConfig(**cast("dict[str, Any]", values))
