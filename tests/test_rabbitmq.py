"""How the tests come by their RabbitMQ, and what they leave on it."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pamqp import commands

from tests import rabbitmq
from tests.amqp import AmqpSession, NoRabbitMQ


@pytest.fixture
def impostor() -> Iterator[str]:
    """Yield the URL of a server that listens and talks, but is no broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"220 mail.example.com ready\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield f"amqp://127.0.0.1:{server.getsockname()[1]}/"
        thread.join()


def test_an_open_port_is_not_a_broker(impostor: str) -> None:
    """A server that does not speak AMQP is told from a RabbitMQ."""
    with pytest.raises(NoRabbitMQ, match="does not speak AMQP"):
        rabbitmq.check(impostor)


def test_a_wrong_password_is_no_answer(amqp_url: str) -> None:
    """A RabbitMQ that refuses us does not count."""
    parts = urlsplit(amqp_url)
    wrong = parts._replace(netloc=f"nobody:wrong@{parts.netloc.rpartition('@')[2]}")
    with pytest.raises(NoRabbitMQ, match="ACCESS_REFUSED"):
        rabbitmq.check(wrong.geturl())


def test_a_named_broker_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong ROGER_TEST_AMQP is an error with advice, not a reason to take another broker."""
    monkeypatch.setenv("ROGER_TEST_AMQP", f"amqp://127.0.0.1:{rabbitmq.free_port()}/")
    with pytest.raises(NoRabbitMQ, match=r"(?s)ROGER_TEST_AMQP: cannot connect.*Do one of these"):
        rabbitmq.broker().__enter__()


def test_sweep_deletes_what_was_made(amqp_url: str) -> None:
    """Queues and exchanges of a run are gone after it, listed by name or not."""
    prefix = f"t{secrets.token_hex(3)}-"
    queue, exchange = f"{prefix}a queue", f"{prefix}an exchange"
    with AmqpSession(amqp_url) as session:
        session.call(commands.Queue.Declare(queue=queue), commands.Queue.DeclareOk)
        session.call(commands.Exchange.Declare(exchange=exchange), commands.Exchange.DeclareOk)
    rabbitmq.sweep(amqp_url, prefix, {queue, f"{prefix}never made"}, {exchange})
    for request, answer in (
        (commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk),
        (commands.Exchange.Declare(exchange=exchange, passive=True), commands.Exchange.DeclareOk),
    ):
        session = AmqpSession(amqp_url)
        with session, pytest.raises(NoRabbitMQ, match="NOT_FOUND"):
            session.call(request, answer)


def test_the_folder_that_is_named_is_the_one_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another RabbitMQ is installed: whoever names one means that version."""
    monkeypatch.setenv("ROGER_TEST_RABBITMQ", str(tmp_path))
    assert rabbitmq.find_program("rabbitmq-server") is None
    program = tmp_path / "rabbitmq-server"
    program.touch(mode=0o755)
    assert rabbitmq.find_program("rabbitmq-server") == str(program)
