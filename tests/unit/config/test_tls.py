"""`SslOptions`: certificates, and what a handshake makes of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from roger_trio._config import AmqpConfig, SslOptions
from roger_trio._errors import ConfigError

UNDER = "broker.ssl_options"


@attrs.frozen
class Certificates:
    """An authority, the broker's context under it, and the files of a client."""

    server: ssl.SSLContext
    cafile: Path
    certfile: Path
    keyfile: Path
    lockedfile: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make the certificates of a broker called rabbit.example and of a client."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("rabbit.example").configure_cert(server)
    authority.configure_trust(server)
    client = authority.issue_cert("ada@example.com")
    files = Certificates(
        server, folder / "ca.pem", folder / "cert.pem", folder / "key.pem", folder / "locked.pem"
    )
    authority.cert_pem.write_to_path(str(files.cafile))
    for blob in client.cert_chain_pems:
        blob.write_to_path(str(files.certfile), append=True)
    client.private_key_pem.write_to_path(str(files.keyfile))
    key = load_pem_private_key(client.private_key_pem.bytes(), password=None)
    files.lockedfile.write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
        )
    )
    return files


def handshake(server_context: ssl.SSLContext, config: AmqpConfig) -> ssl.SSLObject:
    """Shake hands in memory and give the broker's side of the connection."""
    context = config.ssl_context()
    assert context is not None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname=config.server_hostname)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    return server


def refused(config: AmqpConfig) -> str:
    """Give the error of making the context."""
    with pytest.raises(ConfigError) as caught:
        config.ssl_context()
    return str(caught.value)


def test_certificates_are_verified_by_default() -> None:
    """Nothing but `verify` turns it off, and the system's certificates are the trusted ones."""
    context = AmqpConfig.from_url("amqps://").ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert AmqpConfig().ssl_context() is None


def test_a_trusted_broker_is_accepted(certificates: Certificates) -> None:
    """Its certificate is signed by the authority and names the host."""
    config = AmqpConfig(host="rabbit.example", ssl_options={"cacertfile": certificates.cafile})
    handshake(certificates.server, config)


def test_another_authority_is_not_trusted(certificates: Certificates) -> None:
    """The system's certificates do not know the broker's."""
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificates.server, AmqpConfig(host="rabbit.example", ssl_options={}))


def test_another_host_is_not_accepted(certificates: Certificates) -> None:
    """A certificate for another name proves nothing, unless that name is the expected one."""
    options = SslOptions(cafile=certificates.cafile)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificates.server, AmqpConfig(host="10.0.0.1", ssl_options=options))
    options = SslOptions(cafile=str(certificates.cafile), server_hostname="rabbit.example")
    handshake(certificates.server, AmqpConfig(host="10.0.0.1", ssl_options=options))


@pytest.mark.parametrize("verify", [False, "verify_none"])
def test_verification_can_be_turned_off(certificates: Certificates, verify: Any) -> None:
    """Then anybody is accepted under any name."""
    config = AmqpConfig(host="10.0.0.1", ssl_options={"verify": verify})
    handshake(certificates.server, config)


@pytest.mark.parametrize("locked", [False, True])
def test_a_client_certificate_is_shown(certificates: Certificates, locked: bool) -> None:
    """A broker that asks for one gets it, also where its key is encrypted."""
    certificates.server.verify_mode = ssl.CERT_REQUIRED
    options = SslOptions(
        verify=False,
        certfile=certificates.certfile,
        keyfile=certificates.lockedfile if locked else certificates.keyfile,
        password="open sesame" if locked else None,
    )
    try:
        server = handshake(certificates.server, AmqpConfig(ssl_options=options))
        peer = server.getpeercert()
    finally:
        certificates.server.verify_mode = ssl.CERT_NONE
    assert peer is not None
    assert ("email", "ada@example.com") in peer["subjectAltName"]


def test_a_renewed_certificate_is_read_by_the_next_connection(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Files are read by each call, so a reconnecting node meets what lies there then."""
    cafile = tmp_path / "ca.pem"
    config = AmqpConfig(host="rabbit.example", ssl_options={"cafile": cafile})
    assert "cafile: expected a readable file" in refused(config)
    cafile.write_bytes(certificates.cafile.read_bytes())
    handshake(certificates.server, config)


def test_a_directory_of_certificates_must_be_there(tmp_path: Path) -> None:
    """OpenSSL itself would trust nobody without a word."""
    assert AmqpConfig(ssl_options={"capath": tmp_path}).ssl_context() is not None
    missing = str(tmp_path / "missing")
    found = refused(AmqpConfig(ssl_options={"capath": missing}))
    assert found == f"{UNDER}.capath: expected a directory, got {missing!r}"


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile"])
def test_a_missing_file_is_named(certificates: Certificates, name: str) -> None:
    """The error names the option and the path."""
    options = {"certfile": certificates.certfile, "keyfile": certificates.keyfile}
    options[name] = certificates.cafile / "missing.pem"
    found = refused(AmqpConfig(ssl_options=options))
    path = str(options[name])
    assert found == f"{UNDER}.{name}: expected a readable file, got {path!r} (Not a directory)"


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    """Both what is trusted and what is shown must be PEM."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    found = refused(AmqpConfig(ssl_options={"cafile": wrong}))
    assert found.startswith(
        f"{UNDER}.cafile: expected certificates in PEM form, got {str(wrong)!r} ("
    )
    found = refused(AmqpConfig(ssl_options={"certfile": wrong}))
    assert found.startswith(f"{UNDER}.certfile: expected a certificate in PEM form whose private")
    assert repr(str(wrong)) in found


def test_a_wrong_key_password_is_not_repeated(certificates: Certificates) -> None:
    """The error names the files alone."""
    options = SslOptions(
        certfile=certificates.certfile, keyfile=certificates.lockedfile, password="close sesame"
    )
    found = refused(AmqpConfig(ssl_options=options))
    assert "opens with the password" in found
    assert "sesame" not in found + repr(options)


def test_an_encrypted_key_without_a_password_does_not_ask_for_one(
    certificates: Certificates,
) -> None:
    """A service has no terminal to answer on."""
    options = {"certfile": certificates.certfile, "keyfile": certificates.lockedfile}
    found = refused(AmqpConfig(ssl_options=options))
    assert found == f"{UNDER}.password: expected one, since the private key is encrypted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cafile": 7}, ".cafile: expected a path, got 7"),
        ({"cafile": b"x"}, ".cafile: expected a path, got b'x'"),
        ({"cafile": "a\0"}, r".cafile: expected a path, got 'a\x00'"),
        ({"certfile": ""}, ".certfile: expected a path, got ''"),
        (
            {"verify": 1},
            '.verify: expected true, false, "verify_peer" or "verify_none", got 1',
        ),
        (
            {"password": 7},
            ".password: expected text of at most 1023 bytes, got a value of type int",
        ),
        (
            {"password": "secret" * 200},
            ".password: expected text of at most 1023 bytes, got a value of type str",
        ),
        ({"server_hostname": ""}, ".server_hostname: expected a host name, got ''"),
        ({"server_hostname": 7}, ".server_hostname: expected a host name, got 7"),
        ({"keyfile": "k"}, ".keyfile: expected only together with certfile"),
        ({"password": "secret"}, ".password: expected only together with certfile"),
        (
            {"cafile": "a", "cacertfile": "b"},
            ".cafile: expected once, given twice (as cacertfile too)",
        ),
        (
            {"certfle": "a"},
            (
                ".certfle: unknown key; did you mean 'certfile'? (known keys: cafile, capath, "
                "certfile, keyfile, password, verify, server_hostname, cacertfile)"
            ),
        ),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], message: str) -> None:
    """The error names the option, the rule and the value, but no password."""
    with pytest.raises(ConfigError) as caught:
        AmqpConfig(ssl_options=options)
    assert str(caught.value) == UNDER + message
