"""TLS: who is trusted, by either side."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from roger_trio._brokers.base import ConnectionRefused, Message
from roger_trio._brokers.rabbitmq.broker import RabbitBroker
from tests.bridge.conftest import Certificates
from tests.bridge.running import configure, drained, new_queue, running
from tests.conformance.kit import PATIENCE
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
