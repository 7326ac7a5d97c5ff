"""`AmqpConfig`: defaults, and each rule of each field."""

from __future__ import annotations

import math
import ssl
from typing import Any

import attrs
import pytest

from roger_trio._config import AmqpConfig, SslOptions
from roger_trio._errors import ConfigError


def refused(**values: Any) -> str:
    """Give the error that these values meet."""
    with pytest.raises(ConfigError) as caught:
        AmqpConfig(**values)
    return str(caught.value)


def test_the_defaults_are_those_of_the_contract() -> None:
    """They fit a fresh RabbitMQ on this machine; heartbeats and a timeout are on."""
    config = AmqpConfig()
    assert (config.host, config.port, config.virtual_host) == ("localhost", 5672, "/")
    assert (config.username, config.password) == ("guest", "guest")
    assert (config.channel_max, config.frame_max, config.heartbeat) == (0, 0, 60)
    assert config.connection_timeout == 30.0
    assert config.ssl_options is None
    assert config.ssl_context() is None
    assert config.client_properties == {}
    assert config.queue_settle_time == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"host": "rabbit.example.com"},
        {"host": "rabbit_1"},
        {"host": "10.0.0.1"},
        {"host": "::1"},
        {"host": "fe80::1%eth0"},
        {"host": "bücher.example"},
        {"port": 1},
        {"port": 65_535},
        {"username": "ada@example.com"},
        {"password": ""},
        {"password": "ü/:@?# %"},
        {"virtual_host": "a/b"},
        {"channel_max": 65_535},
        {"frame_max": 4096},
        {"frame_max": 2**32 - 1},
        {"heartbeat": 0},
        {"connection_timeout": None},
        {"connection_timeout": 1},
        {"queue_settle_time": 0},
    ],
)
def test_what_the_rules_allow_is_kept(values: dict[str, Any]) -> None:
    """The bounds themselves are inside."""
    [(name, value)] = values.items()
    assert getattr(AmqpConfig(**values), name) == value


HOST = "broker.host: expected a host name or IP address alone, got "
TEXT = "expected text of 1 to 255 bytes in UTF-8 without NUL, got "
UINT16 = "expected a whole number from 0 to 65535, got "
FRAME = "broker.frame_max: expected 0, or a whole number from 4096 to 4294967295, got "
SECONDS = "expected a finite number of seconds, "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": ""}, f"{HOST}''"),
        ({"host": "a b"}, f"{HOST}'a b'"),
        ({"host": "localhost:5672"}, f"{HOST}'localhost:5672'"),
        ({"host": "[::1]"}, f"{HOST}'[::1]'"),
        ({"host": "amqp://guest:secret@rabbit"}, f"{HOST}'amqp://***@rabbit'"),
        ({"host": "guest:secret@rabbit"}, f"{HOST}'guest:***@rabbit'"),
        ({"host": "x" * 256}, f"{HOST}'{'x' * 119}… (258 characters)"),
        ({"host": None}, f"{HOST}None"),
        ({"port": 0}, "broker.port: expected a whole number from 1 to 65535, got 0"),
        ({"port": 65_536}, "broker.port: expected a whole number from 1 to 65535, got 65536"),
        ({"port": "5672"}, "broker.port: expected a whole number from 1 to 65535, got '5672'"),
        ({"port": True}, "broker.port: expected a whole number from 1 to 65535, got True"),
        ({"username": ""}, f"broker.username: {TEXT}''"),
        ({"username": "a\0b"}, rf"broker.username: {TEXT}'a\x00b'"),
        ({"username": 1}, f"broker.username: {TEXT}1"),
        (
            {"password": 12345},
            "broker.password: expected text without NUL, got a value of type int",
        ),
        (
            {"password": "se\0cret"},
            "broker.password: expected text without NUL, got a value of type str",
        ),
        (
            {"password": "\ud800"},
            "broker.password: expected text without NUL, got a value of type str",
        ),
        ({"virtual_host": ""}, f"broker.virtual_host: {TEXT}''"),
        ({"channel_max": -1}, f"broker.channel_max: {UINT16}-1"),
        ({"channel_max": 65_536}, f"broker.channel_max: {UINT16}65536"),
        ({"frame_max": 4095}, f"{FRAME}4095"),
        ({"frame_max": 2**32}, f"{FRAME}4294967296"),
        ({"frame_max": False}, f"{FRAME}False"),
        ({"frame_max": 0.0}, f"{FRAME}0.0"),
        ({"heartbeat": 1.5}, f"broker.heartbeat: {UINT16}1.5"),
        ({"heartbeat": None}, f"broker.heartbeat: {UINT16}None"),
        ({"connection_timeout": 0}, f"broker.connection_timeout: {SECONDS}above 0, got 0"),
        (
            {"connection_timeout": math.inf},
            f"broker.connection_timeout: {SECONDS}above 0, got inf",
        ),
        (
            {"queue_settle_time": -0.1},
            f"broker.queue_settle_time: {SECONDS}at least 0, got -0.1",
        ),
        (
            {"ssl_options": True},
            (
                "broker.ssl_options: expected an ssl.SSLContext, SslOptions or a mapping of its "
                "options, got a value of type bool"
            ),
        ),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, object], message: str) -> None:
    """The error names the key, the rule and the value, but no password."""
    assert refused(**values) == message


def test_client_properties_are_copied_deeply_and_read_only() -> None:
    """Nobody can change them afterwards; the encoder gets dicts and lists of its own."""
    given: dict[str, Any] = {
        "connection_name": "web",
        "capabilities": {"consumer_cancel_notify": True},
        "numbers": [1, 2.5, -(2**63)],
    }
    config = AmqpConfig(client_properties=given)
    given["capabilities"]["consumer_cancel_notify"] = False
    given["numbers"].append(3)
    expected = {
        "connection_name": "web",
        "capabilities": {"consumer_cancel_notify": True},
        "numbers": [1, 2.5, -(2**63)],
    }
    assert config.properties_table() == expected
    config.properties_table()["numbers"].clear()
    assert config.properties_table() == expected
    assert f"client_properties={expected!r}" in repr(config)
    frozen: Any = config.client_properties
    with pytest.raises(TypeError):
        frozen["capabilities"]["x"] = 1


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ([], ": expected a mapping of names to values, got a value of type list"),
        ({1: "x"}, ": expected names of 1 to 128 bytes in UTF-8, got 1"),
        ({"": "x"}, ": expected names of 1 to 128 bytes in UTF-8, got ''"),
        ({"x" * 129: "x"}, ": expected names of 1 to 128 bytes in UTF-8, got 'xxx"),
        ({"a": None}, ".a: expected text, a bool, a 64-bit whole number, a finite number, or"),
        ({"a": {"b": [1, 2**63]}}, ".a.b[1]: expected text, a bool, a 64-bit whole number, a "),
        ({"a": math.nan}, ".a: expected text, a bool, a 64-bit whole number, a finite number"),
        ({"a": "\ud800"}, ".a: expected text, a bool, a 64-bit whole number, a finite number"),
    ],
)
def test_wrong_client_properties_are_refused(properties: object, message: str) -> None:
    """The error names the place; only what an AMQP table can hold passes."""
    found = refused(client_properties=properties)
    assert found.startswith(f"broker.client_properties{message}")


def test_ssl_options_take_a_context_of_ones_own() -> None:
    """It is used as it is."""
    context = ssl.create_default_context()
    assert AmqpConfig(ssl_options=context).ssl_context() is context
    assert AmqpConfig(ssl_options=context, host="rabbit").server_hostname == "rabbit"


def test_ssl_options_take_a_mapping() -> None:
    """A mapping becomes `SslOptions`; an empty one is verified TLS."""
    config = AmqpConfig(ssl_options={"verify": "verify_none", "server_hostname": "other"})
    assert config.ssl_options == SslOptions(verify=False, server_hostname="other")
    assert config.server_hostname == "other"
    assert AmqpConfig(ssl_options={}).ssl_options == SslOptions()
    assert AmqpConfig(ssl_options=SslOptions()).ssl_options == SslOptions()


@pytest.mark.parametrize(
    ("config", "display"),
    [
        (AmqpConfig(), "amqp://guest:***@localhost:5672/"),
        (AmqpConfig(ssl_options={}, port=5671), "amqps://guest:***@localhost:5671/"),
        (AmqpConfig(host="::1", virtual_host="a/b c"), "amqp://guest:***@[::1]:5672/a%2Fb%20c"),
        (AmqpConfig(username="a:b@c"), "amqp://a%3Ab%40c:***@localhost:5672/"),
    ],
)
def test_display_is_a_url_without_the_password(config: AmqpConfig, display: str) -> None:
    """Host, port, user and virtual host are what an operator looks for."""
    assert config.display == display


def test_an_amqp_config_cannot_be_changed() -> None:
    """It is a value."""
    config: Any = AmqpConfig()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.port = 1
