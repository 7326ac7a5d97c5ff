"""What the tests of the RabbitMQ bridge share: a node of their own, and certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trustme

from tests.rabbitmq import PrivateRabbit, TlsFiles

MAX_MESSAGE = 300_000
"""Bytes of the largest message the private node takes."""


@attrs.frozen
class Certificates:
    """PEM files: authorities, and a client's certificate."""

    ca: Path
    other_ca: Path
    client: Path
    server: TlsFiles


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make certificates for a server named localhost and for a client."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other.pem")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    client.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    files = TlsFiles(
        ca=folder / "ca.pem",
        cert=folder / "server.pem",
        key=folder / "server.key",
        client_cert_required=True,
    )
    return Certificates(folder / "ca.pem", folder / "other.pem", folder / "client.pem", files)


@pytest.fixture(scope="package")
def _node(certificates: Certificates) -> Iterator[PrivateRabbit]:
    """Run one node for all of the folder's tests: starting one takes seconds."""
    settings = [f"max_message_size = {MAX_MESSAGE}"]
    made = PrivateRabbit(tls=certificates.server, settings=settings)
    # A delayed message that is on its way from level to level when the broker stops is not lost,
    # but handed over again only after this time, by default three minutes.
    option = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
    made._environment[option] = "-rabbit dead_letter_worker_publisher_confirm_timeout 2000"
    with made as rabbit:
        rabbit.ctl("add_vhost", "elsewhere")
        rabbit.ctl("add_user", "reader", "secret-word")
        for vhost in ("/", "elsewhere"):
            rabbit.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        rabbit.ctl("set_permissions", "reader", ".*", "^mine", ".*")
        yield rabbit


@pytest.fixture
def node(_node: PrivateRabbit) -> PrivateRabbit:
    """Return the folder's own node, up again if the test before left it down."""
    _node.start()
    return _node
