"""TLS: who is trusted, by either side."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from roger_trio._brokers.base import ConnectionRefused, Message
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from tests.bridge.conftest import Certificates
from tests.bridge.running import configure, drained, new_queue, running
from tests.conformance.kit import PATIENCE
from tests.leaks import look, new_secret
from tests.rabbitmq import PrivateRabbit


async def test_both_sides_trust_each_other(node: PrivateRabbit, certificates: Certificates) -> None:
    """With certificates on both sides everything works, with large bodies too."""
    options = {"cafile": certificates.ca, "certfile": certificates.client}
    body = b"x" * 290_000
    async with running(configure(node.tls_url, ssl_options=options)) as broker:
        queue = await new_queue(broker, set())
        with trio.fail_after(PATIENCE):
            await broker.publish_many(queue, [Message(body), Message(b"")])
            assert await drained(broker, queue, {body, b""}) == [body, b""]
        assert [link.generation for link in broker._links] == [1, 1]


@pytest.mark.parametrize(
    ("host", "names", "complaint"),
    [
        ("localhost", ("other_ca", "client"), "certificate verify failed"),
        ("127.0.0.1", ("ca", "client"), "IP address mismatch"),
        ("localhost", ("ca", None), "certificate required|handshake failure"),
    ],
    ids=["unknown authority", "wrong name", "no client certificate"],
)
async def test_no_trust_is_a_refusal(
    node: PrivateRabbit,
    certificates: Certificates,
    host: str,
    names: tuple[str, str | None],
    complaint: str,
) -> None:
    """Where one side does not trust the other it is refused, in one line, without the password."""
    authority, client = names
    options: dict[str, Any] = {"cafile": getattr(certificates, authority)}
    if client is not None:
        options["certfile"] = getattr(certificates, client)
    config = configure(node.tls_url, host=host, ssl_options=options, password="secret-word")
    broker = RabbitBroker(config, prefix="", name="tls", consumes=True)
    with trio.fail_after(PATIENCE), pytest.raises(ConnectionRefused, match=complaint) as refused:
        await broker.run()
    text = str(refused.value)
    assert "\n" not in text
    assert "secret-word" not in text


async def test_a_port_without_tls(node: PrivateRabbit, certificates: Certificates) -> None:
    """Speaking TLS to a port that does not is a refusal."""
    config = configure(node.url, ssl_options={"cafile": certificates.ca})
    broker = RabbitBroker(config, prefix="", name="tls", consumes=True)
    with trio.fail_after(PATIENCE), pytest.raises(ConnectionRefused, match="TLS"):
        await broker.run()


NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@contextlib.asynccontextmanager
async def tls_server(
    certificate: trustme.LeafCert, clients: trustme.CA | None = None
) -> AsyncGenerator[int]:
    """Run something that shakes hands with this certificate, and then hangs up; yield its port.

    In a thread, as OpenSSL on a socket says why it refuses somebody, and Trio does not.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):  # The listener is closed.
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE)
                copy = connection.dup()
                with connection, copy, contextlib.suppress(OSError):
                    with contextlib.suppress(ssl.SSLError):
                        context.wrap_socket(connection, server_side=True)
                    copy.shutdown(socket.SHUT_WR)
                    while copy.recv(65_536):  # What is not read would cost it the last word.
                        pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve)
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


async def refusal(port: int, **options: Any) -> str:
    """Connect, and return why that is refused."""
    password = new_secret()
    config = configure(f"amqps://guest:{password}@localhost:{port}/", ssl_options=options)
    broker = RabbitBroker(config, prefix="", name="tls", consumes=True)
    with trio.fail_after(PATIENCE), pytest.raises(ConnectionRefused) as refused:
        await broker.run()
    return look(str(refused.value))


@pytest.mark.parametrize(
    ("names", "valid", "complaint"),
    [
        (["localhost"], (NOW - 9 * DAY, NOW - DAY), "certificate has expired"),
        (["localhost"], (NOW + DAY, NOW + 9 * DAY), "certificate is not yet valid"),
        (["elsewhere.example"], (NOW - DAY, NOW + DAY), "Hostname mismatch"),
        (["*.localhost", "127.0.0.2"], (NOW - DAY, NOW + DAY), "Hostname mismatch"),
    ],
    ids=["expired", "not yet valid", "another name", "almost the name"],
)
async def test_certificates_that_do_not_count(
    tmp_path: Path,
    names: list[str],
    valid: tuple[dt.datetime, dt.datetime],
    complaint: str,
) -> None:
    """The authority is trusted, and the certificate is refused all the same, with what to do."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    bad = authority.issue_cert(*names, not_before=valid[0], not_after=valid[1])
    async with tls_server(bad) as port:
        text = await refusal(port, cafile=tmp_path / "ca.pem")
        assert complaint in text
        assert "; broker.ssl_options: " in text  # what to do


async def test_an_authority_that_is_not_trusted(tmp_path: Path) -> None:
    """Neither the system's authorities nor another of ours stand for it."""
    theirs, other = trustme.CA(), trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    async with tls_server(theirs.issue_cert("localhost")) as port:
        for options in ({}, {"cafile": tmp_path / "other.pem"}):
            text = await refusal(port, **options)
            assert "unable to get local issuer certificate" in text
            assert "broker.ssl_options: set cafile" in text


@pytest.mark.parametrize("client", ["none", "another authority's", "expired"])
async def test_clients_that_the_broker_does_not_trust(tmp_path: Path, client: str) -> None:
    """Without a certificate, or with one that does not count there, they are told that it is it."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options: dict[str, Any] = {"cafile": tmp_path / "ca.pem"}
    if client != "none":
        signs, until = (authority, NOW - DAY) if client == "expired" else (other, NOW + DAY)
        made = signs.issue_cert("c", not_before=NOW - 9 * DAY, not_after=until)
        made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        options["certfile"] = tmp_path / "client.pem"
    async with tls_server(authority.issue_cert("localhost"), authority) as port:
        text = await refusal(port, **options)
    assert "broker.ssl_options: set certfile" in text
