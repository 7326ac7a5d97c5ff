"""How a connection to the broker is encrypted, and whom it trusts."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import attrs

from .._errors import ConfigError
from .checks import fail, fail_hidden, is_text, unknown

FilePath: TypeAlias = str | Path

_UNDER = "broker.ssl_options"
_VERIFY = {"verify_peer": True, "verify_none": False, "true": True, "false": False}
_ALIASES = {"cacertfile": "cafile"}
_MAX_PASSWORD = 1023  # what OpenSSL takes
_MAX_HOST = 255
_MAX_PATH = 4096


def _to_verify(value: bool | str) -> bool:  # noqa: FBT001 - a converter's only argument
    verify = _VERIFY.get(value) if isinstance(value, str) else value
    if not isinstance(verify, bool):
        fail(f"{_UNDER}.verify", 'true, false, "verify_peer" or "verify_none"', value)
    return verify


def _path(_: object, field: attrs.Attribute[Any], value: object) -> None:
    path = str(value) if isinstance(value, str | Path) else None
    if value is not None and (not path or not is_text(path, _MAX_PATH)):
        fail(f"{_UNDER}.{field.name}", "a path", value)


@attrs.frozen(kw_only=True)
class SslOptions:
    """Where the certificates for a TLS connection lie. ``SslOptions()`` is verified TLS.

    Relative paths are relative to the working directory. Files are read when a connection is
    made, so that a renewed certificate is met by the next one.

    Raises:
        ConfigError: A value breaks its rule.
    """

    cafile: FilePath | None = attrs.field(default=None, validator=_path)
    """PEM file with the certificates to trust. With neither this nor ``capath``: the system's."""

    capath: FilePath | None = attrs.field(default=None, validator=_path)
    """Directory of such files, named by OpenSSL's hash."""

    certfile: FilePath | None = attrs.field(default=None, validator=_path)
    """PEM file with our own certificate and its chain, for a broker that wants one."""

    keyfile: FilePath | None = attrs.field(default=None, validator=_path)
    """PEM file with the private key of ``certfile``, where it is not in the same file."""

    password: str | None = attrs.field(default=None, repr=False)
    """What the private key is encrypted with; secret."""

    verify: bool = attrs.field(default=True, converter=_to_verify)
    """Whether the broker must show a trusted certificate that names it.

    False, or ``"verify_none"``, accepts anybody: encrypted, yet open to whoever stands between.
    """

    server_hostname: str | None = None
    """The name that the broker's certificate must carry; default: the host connected to."""

    def __attrs_post_init__(self) -> None:
        if self.password is not None and not is_text(self.password, _MAX_PASSWORD):
            rule = f"text of at most {_MAX_PASSWORD} bytes"
            fail_hidden(f"{_UNDER}.password", rule, self.password)
        name = self.server_hostname
        if name is not None and (not name or not is_text(name, _MAX_HOST)):
            fail(f"{_UNDER}.server_hostname", "a host name", name)
        if self.certfile is None and (self.keyfile is not None or self.password is not None):
            given = "password" if self.keyfile is None else "keyfile"
            raise ConfigError(f"{_UNDER}.{given}: expected only together with certfile")

    @classmethod
    def from_mapping(cls, options: Mapping[str, object]) -> SslOptions:
        """Make options from their names; ``cacertfile`` is another name of ``cafile``.

        Raises:
            ConfigError: A name is unknown or given twice, or a value breaks its rule.
        """
        known = [field.name for field in attrs.fields(cls)]
        values: dict[str, object] = {}
        for given, value in options.items():
            name = _ALIASES.get(given, given)
            if name not in known:
                unknown(str(given), [*known, *_ALIASES], under=f"{_UNDER}.")
            if name in values:
                raise ConfigError(f"{_UNDER}.{name}: expected once, given twice (as {given} too)")
            values[name] = value
        return cls(**cast("dict[str, Any]", values))

    def ssl_context(self) -> ssl.SSLContext:
        """Read the files and make the context of a connection.

        Raises:
            ConfigError: A file cannot be read, is not what it should be, or does not fit another.
        """
        context = self._trust()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certfile is not None:
            self._identify(context, self.certfile)
        return context

    def _trust(self) -> ssl.SSLContext:
        # OpenSSL takes a directory that does not exist without a word.
        if self.capath is not None and not Path(self.capath).is_dir():
            fail(f"{_UNDER}.capath", "a directory", str(self.capath))
        if self.cafile is not None:
            _readable("cafile", self.cafile)
        try:
            return ssl.create_default_context(cafile=self.cafile, capath=self.capath)
        except ssl.SSLError as error:
            path = str(self.cafile)
            raise ConfigError(
                f"{_UNDER}.cafile: expected certificates in PEM form, got {path!r} ({error})"
            ) from error

    def _identify(self, context: ssl.SSLContext, certfile: FilePath) -> None:
        _readable("certfile", certfile)
        if self.keyfile is not None:
            _readable("keyfile", self.keyfile)
        # Without a callback OpenSSL would ask on the terminal, which a service has none of.
        password = self.password if self.password is not None else _no_password
        try:
            context.load_cert_chain(certfile, self.keyfile, password)
        except ssl.SSLError as error:
            keyfile = str(self.keyfile or certfile)
            raise ConfigError(
                f"{_UNDER}.certfile: expected a certificate in PEM form whose private key is in "
                f"{keyfile!r} and opens with the password, got {str(certfile)!r} ({error})"
            ) from error


def _no_password() -> NoReturn:
    raise ConfigError(f"{_UNDER}.password: expected one, since the private key is encrypted")


def _readable(name: str, path: FilePath) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{_UNDER}.{name}: expected a readable file, got {str(path)!r} ({error.strerror})"
        ) from error
