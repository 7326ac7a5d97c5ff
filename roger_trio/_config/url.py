"""Read a broker's address, ``amqp://user:password@host:port/virtual_host?option=value``.

Written by hand because the standard library is too kind here and its errors repeat the password.
An error from this module never shows a part of the URL that could belong to one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn
from urllib.parse import unquote

from .._errors import ConfigError
from .checks import censor, fail, unknown

TLS_PORT = 5671
NO_TIMEOUT = ("none", "infinity")
"""How text says that ``connection_timeout`` is None."""

_WHOLE = ("heartbeat", "channel_max", "frame_max")
_SECONDS = ("connection_timeout", "queue_settle_time")
_TLS = {
    "cafile": "cafile",
    "cacertfile": "cacertfile",
    "capath": "capath",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "keyfile_password": "password",
    "verify": "verify",
    "server_hostname": "server_hostname",
}
_PROPERTY = "client_properties."
_KNOWN = (*_WHOLE, *_SECONDS, *_TLS, f"{_PROPERTY}NAME")

_URL = re.compile(
    r"(?P<scheme>amqps?)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*:[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORM = "amqp://user:password@host:port/virtual_host?option=value, or amqps://"


def parse_amqp_url(url: str) -> dict[str, object]:
    """Split a URL into the arguments of `AmqpConfig`; parts that are not there are left out.

    Raises:
        ConfigError: The URL is not of the form, or has an unknown option or one given twice.
            Values are for `AmqpConfig` to judge.
    """
    match = _parts(url)
    tls = match["scheme"].lower() == "amqps"
    values: dict[str, object] = {"port": TLS_PORT} if tls else {}
    userinfo, at, address = match["authority"].rpartition("@")
    username, colon, password = userinfo.partition(":")
    if at:
        values["username"] = _decoded("username", username)
    if colon:
        values["password"] = _decoded("password", password)
    values |= _address(address, hide=not at)
    # `//` is how Celery and others write the virtual host `/`.
    path = "" if match["path"] == "//" else (match["path"] or "")[1:]
    if "/" in path:
        _refuse("virtual_host", "a / in its name to be written %2F")
    if path:
        values["virtual_host"] = _decoded("virtual_host", path)
    return values | _query(match["query"] or "", tls=tls)


def _refuse(part: str, rule: str) -> NoReturn:
    key = f"broker.{part}" if part else "broker"
    raise ConfigError(f"{key}: expected {rule} (the URL is not shown: it may hold a password)")


def _parts(url: str) -> re.Match[str]:
    if not re.match(r"amqps?://", url, re.IGNORECASE):
        fail("broker", _FORM, censor(url))
    if not url.isprintable() or " " in url:
        _refuse("", "a URL without spaces and control characters")
    # An @ behind the authority is most likely the true one, cut off by a password's / ? or #.
    if "@" in re.sub(r"\A[^/]*//[^/?#]*", "", url):
        _refuse("", "/ ? # @ in a user name, password or option to be written %2F %3F %23 %40")
    match = _URL.fullmatch(url)
    if match is None:
        _refuse("", "a URL without a # part")
    return match


def _decoded(part: str, text: str) -> str:
    if _BAD_PERCENT.search(text):
        _refuse(part, "% to be followed by two hexadecimal digits (a % itself is %25)")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        # `from None` here and above: the cause would show the text.
        raise ConfigError(f"broker.{part}: expected UTF-8 behind the %, got other bytes") from None


def _address(address: str, *, hide: bool) -> dict[str, object]:
    match = _AUTHORITY.fullmatch(address)
    if match is None:
        _refuse("host", "a host name, or an IPv6 address in brackets, and perhaps a port")
    values: dict[str, object] = {}
    host, port = match["host"], match["port"]
    if host.startswith("["):
        values["host"] = _decoded("host", host[1:-1])
    elif host:
        values["host"] = host
    if port:
        values["port"] = _whole(port)
        # Where no @ follows, `user:password` without a host reads like `host:port`.
        if hide and not (isinstance(values["port"], int) and 1 <= values["port"] <= 65_535):
            _refuse("port", "a whole number from 1 to 65535")
    return values


def _query(query: str, *, tls: bool) -> dict[str, object]:
    values: dict[str, object] = {}
    properties: dict[str, str] = {}
    ssl_options: dict[str, object] = {}
    for name, value in _pairs(query.split("&") if query else ()):
        if name in _WHOLE:
            values[name] = _whole(value)
        elif name in _SECONDS:
            values[name] = None if value in NO_TIMEOUT else _seconds(value)
        elif name in _TLS and tls:
            ssl_options[_TLS[name]] = value
        elif name in _TLS:
            raise ConfigError(f"broker.{name}: expected only with amqps://, got amqp://")
        elif name.startswith(_PROPERTY):
            properties[name.removeprefix(_PROPERTY)] = value
        else:
            unknown(name, _KNOWN, under="broker.")
    if properties:
        values["client_properties"] = properties
    return values | ({"ssl_options": ssl_options} if tls else {})


def _pairs(items: Iterable[str]) -> Iterable[tuple[str, str]]:
    seen: set[str] = set()
    for item in items:
        given, _, value = item.partition("=")
        name = _decoded("query", given)
        if name in seen:
            raise ConfigError(f"broker.{name}: expected once, given twice in the URL")
        seen.add(name)
        yield name, _decoded(name, value)


def _seconds(text: str) -> object:
    return float(text) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text) else text


def _whole(text: str) -> object:
    # Text that is no number goes on as it is, for the field's own rule to refuse.
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else text
