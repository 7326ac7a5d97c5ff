"""`AmqpConfig.from_url`: every form a URL may have, and each it may not."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from roger_trio._config import AmqpConfig, SslOptions
from roger_trio._errors import ConfigError

TLS = {"port": 5671, "ssl_options": SslOptions()}


@pytest.mark.parametrize(
    ("url", "values"),
    [
        ("amqp://", {}),
        ("amqp:///", {}),
        ("amqp://localhost", {}),
        ("amqp://localhost:5672/", {}),
        ("amqp://localhost:/", {}),
        ("amqp://:5673", {"port": 5673}),
        ("amqp://guest:guest@localhost:5672/%2F", {}),
        ("amqp://guest:guest@localhost:5672//", {}),
        ("amqp://localhost/%2f", {}),
        ("Amqp://HOST/Vhost", {"host": "HOST", "virtual_host": "Vhost"}),
        ("amqp://bob@h", {"username": "bob", "host": "h"}),
        ("amqp://bob:@h", {"username": "bob", "password": "", "host": "h"}),
        ("amqp://b%40b:p%3A%2F%40%25@h", {"username": "b@b", "password": "p:/@%", "host": "h"}),
        ("amqp://bob:a:b@c@h", {"username": "bob", "password": "a:b@c", "host": "h"}),
        ("amqp://bob:%C3%BC@h", {"username": "bob", "password": "ü", "host": "h"}),
        (
            "amqp://bob:a+b@h/c+d",
            {"username": "bob", "password": "a+b", "host": "h", "virtual_host": "c+d"},
        ),
        ("amqp://h/a%2Fb", {"host": "h", "virtual_host": "a/b"}),
        ("amqp://[::1]", {"host": "::1"}),
        (
            "amqp://u:p@[fe80::1%25eth0]:5673/v",
            {
                "username": "u",
                "password": "p",
                "port": 5673,
                "host": "fe80::1%eth0",
                "virtual_host": "v",
            },
        ),
        ("amqp://h?", {"host": "h"}),
        ("amqp://?heartbeat=0", {"heartbeat": 0}),
        (
            "amqp://h/?heartbeat=10&channel_max=20&frame_max=4096",
            {"host": "h", "heartbeat": 10, "channel_max": 20, "frame_max": 4096},
        ),
        ("amqp://h/?connection_timeout=2.5", {"host": "h", "connection_timeout": 2.5}),
        ("amqp://h/?connection_timeout=none", {"host": "h", "connection_timeout": None}),
        ("amqp://h/?connection_timeout=infinity", {"host": "h", "connection_timeout": None}),
        ("amqp://h/?queue_settle_time=0", {"host": "h", "queue_settle_time": 0.0}),
        (
            "amqp://h/?client_properties.connection_name=web%201&client_properties.a.b=1%2B1",
            {"host": "h", "client_properties": {"connection_name": "web 1", "a.b": "1+1"}},
        ),
        ("amqps://localhost", TLS),
        ("amqps://localhost:5672", TLS | {"port": 5672}),
        ("amqps://?verify=verify_none", TLS | {"ssl_options": SslOptions(verify=False)}),
        ("amqps://?verify=false", TLS | {"ssl_options": SslOptions(verify=False)}),
        ("amqps://?verify=verify_peer", TLS),
        ("amqps://?verify=true", TLS),
        ("amqps://?cacertfile=/a/b.pem", TLS | {"ssl_options": SslOptions(cafile="/a/b.pem")}),
        (
            "amqps://?cafile=a&capath=b&certfile=c&keyfile=d&keyfile_password=e&server_hostname=f",
            TLS
            | {
                "ssl_options": SslOptions(
                    cafile="a",
                    capath="b",
                    certfile="c",
                    keyfile="d",
                    password="e",
                    server_hostname="f",
                )
            },
        ),
    ],
)
def test_a_url_gives_the_same_as_the_fields(url: str, values: dict[str, Any]) -> None:
    """Each part and each option of a URL is a field; what is left out has its default."""
    assert AmqpConfig.from_url(url) == AmqpConfig(**values)


SCHEME = "broker: expected amqp://user:password@host:port/virtual_host?option=value, or amqps://"
HIDDEN = " (the URL is not shown: it may hold a password)"
ESCAPE = "/ ? # @ in a user name, password or option to be written %2F %3F %23 %40"
KNOWN = (
    "(known keys: heartbeat, channel_max, frame_max, connection_timeout, queue_settle_time, "
    "cafile, cacertfile, capath, certfile, keyfile, keyfile_password, verify, server_hostname, "
    "client_properties.NAME)"
)
BRACKETS = (
    f"broker.host: expected a host name, or an IPv6 address in brackets, and perhaps a port{HIDDEN}"
)
PORT = "broker.port: expected a whole number from 1 to 65535"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (7, "broker: expected a URL as text, got a value of type int"),
        ("http://u:secret@h/", f"{SCHEME}, got 'http://***@h/'"),
        ("amqp:u:secret@h", f"{SCHEME}, got 'amqp:***@h'"),
        ("", f"{SCHEME}, got ''"),
        (
            "amqp://u:secret@h\n",
            f"broker: expected a URL without spaces and control characters{HIDDEN}",
        ),
        (
            "amqp://u:sec ret@h",
            f"broker: expected a URL without spaces and control characters{HIDDEN}",
        ),
        ("amqp://u:sec/ret@h", f"broker: expected {ESCAPE}{HIDDEN}"),
        ("amqp://u:sec?ret@h", f"broker: expected {ESCAPE}{HIDDEN}"),
        ("amqp://u:sec#ret@h", f"broker: expected {ESCAPE}{HIDDEN}"),
        ("amqp://u:sec@/ret@h", f"broker: expected {ESCAPE}{HIDDEN}"),
        ("amqp://h/#x", f"broker: expected a URL without a # part{HIDDEN}"),
        (
            "amqp://h/a/b",
            f"broker.virtual_host: expected a / in its name to be written %2F{HIDDEN}",
        ),
        ("amqp://h///", f"broker.virtual_host: expected a / in its name to be written %2F{HIDDEN}"),
        (
            "amqp://u:100%@h",
            (
                "broker.password: expected % to be followed by two hexadecimal digits "
                f"(a % itself is %25){HIDDEN}"
            ),
        ),
        ("amqp://u:%ff@h", "broker.password: expected UTF-8 behind the %, got other bytes"),
        ("amqp://u:p@h:0", f"{PORT}, got 0"),
        ("amqp://u:p@h:65536", f"{PORT}, got 65536"),
        ("amqp://u:p@h:5672x", f"{PORT}, got '5672x'"),
        ("amqp://u:p@h:-1", f"{PORT}, got '-1'"),
        ("amqp://u:p@h:٣", f"{PORT}, got '٣'"),
        ("amqp://guest:secret", f"{PORT}{HIDDEN}"),
        ("amqp://guest:70000", f"{PORT}{HIDDEN}"),
        ("amqp://a:b:c", f"{PORT}{HIDDEN}"),
        ("amqp://[::1", BRACKETS),
        (
            "amqp://[::1]x",
            BRACKETS,
        ),
        ("amqp://[::g]", "broker.host: expected a host name or IP address alone, got '::g'"),
        ("amqp://[h]", BRACKETS),
        ("amqp://a%20b", "broker.host: expected a host name or IP address alone, got 'a%20b'"),
        (
            "amqp://:p@h",
            "broker.username: expected text of 1 to 255 bytes in UTF-8 without NUL, got ''",
        ),
        ("amqp://u:p%00@h", "broker.password: expected text without NUL, got a value of type str"),
        (
            "amqp://h/?hartbeat=1",
            f"broker.hartbeat: unknown key; did you mean 'heartbeat'? {KNOWN}",
        ),
        ("amqp://h/?zzz=secret", f"broker.zzz: unknown key {KNOWN}"),
        ("amqp://h/?=1", f"broker.'': unknown key {KNOWN}"),
        (
            "amqp://h/?heartbeat=1&heartbeat=1",
            "broker.heartbeat: expected once, given twice in the URL",
        ),
        (
            "amqp://h/?heartbeat=1&heart%62eat=1",
            "broker.heartbeat: expected once, given twice in the URL",
        ),
        (
            "amqps://h/?cafile=a&cacertfile=a",
            "broker.ssl_options.cafile: expected once, given twice (as cacertfile too)",
        ),
        ("amqp://h/?cafile=a", "broker.cafile: expected only with amqps://, got amqp://"),
        (
            "amqp://h/?heartbeat=abc",
            "broker.heartbeat: expected a whole number from 0 to 65535, got 'abc'",
        ),
        (
            "amqp://h/?heartbeat",
            "broker.heartbeat: expected a whole number from 0 to 65535, got ''",
        ),
        (
            "amqp://h/?heartbeat=1_0",
            "broker.heartbeat: expected a whole number from 0 to 65535, got '1_0'",
        ),
        (
            "amqp://h/?heartbeat=65536",
            "broker.heartbeat: expected a whole number from 0 to 65535, got 65536",
        ),
        (
            "amqp://h/?frame_max=1",
            "broker.frame_max: expected 0, or a whole number from 4096 to 4294967295, got 1",
        ),
        (
            "amqp://h/?connection_timeout=nan",
            "broker.connection_timeout: expected a finite number of seconds, above 0, got 'nan'",
        ),
        (
            "amqp://h/?connection_timeout=0",
            "broker.connection_timeout: expected a finite number of seconds, above 0, got 0.0",
        ),
        (
            "amqp://h/?queue_settle_time=none",
            "broker.queue_settle_time: expected a finite number of seconds, at least 0, got None",
        ),
        (
            "amqp://h/?client_properties.=x",
            "broker.client_properties: expected names of 1 to 128 bytes in UTF-8, got ''",
        ),
        (
            "amqps://h/?verify=maybe",
            (
                "broker.ssl_options.verify: expected true, false, "
                '"verify_peer" or "verify_none", got \'maybe\''
            ),
        ),
        ("amqps://h/?cafile=", "broker.ssl_options.cafile: expected a path, got ''"),
        (
            "amqps://h/?keyfile=k",
            "broker.ssl_options.keyfile: expected only together with certfile",
        ),
        (
            "amqps://h/?password=secret",
            f"broker.password: unknown key; did you mean 'keyfile_password'? {KNOWN}",
        ),
    ],
)
def test_any_other_url_is_refused(url: object, message: str) -> None:
    """The error names the part, the rule and the value, unless that may be a password."""
    with pytest.raises(ConfigError) as caught:
        AmqpConfig.from_url(cast("str", url))
    assert str(caught.value) == message


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(username=TEXT.filter(bool), password=TEXT, virtual_host=TEXT.filter(bool))
def test_whatever_is_percent_encoded_comes_back(
    username: str, password: str, virtual_host: str
) -> None:
    """User, password and virtual host may have any characters once they are encoded."""
    user, secret, host = (quote(text, safe="") for text in (username, password, virtual_host))
    assert AmqpConfig.from_url(f"amqp://{user}:{secret}@h/{host}") == AmqpConfig(
        username=username, password=password, host="h", virtual_host=virtual_host
    )


@given(username=TEXT.filter(bool), virtual_host=TEXT.filter(bool), port=st.integers(1, 65_535))
def test_display_is_the_url_but_for_the_password(
    username: str, virtual_host: str, port: int
) -> None:
    """Read back, it gives the same configuration with three stars for a password."""
    config = AmqpConfig(username=username, password="***", virtual_host=virtual_host, port=port)
    assert AmqpConfig.from_url(config.display) == config
