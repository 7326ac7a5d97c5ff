"""No password is in any log line, at any level, in any error, or in anything a program prints."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization

import roger_trio as roger
from tests.leaks import look, new_secret
from tests.promises.support import (
    ROOT,
    Hub,
    Setup,
    do,
    drop_connections,
    note,
    serving,
)


@pytest.fixture(autouse=True)
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Have every logger write all it can; what it writes is looked at when the test ends."""
    caplog.set_level(logging.DEBUG)
    for name in ("aiormq", "aiormq.connection", "trio", "roger_trio", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    yield
    for record in caplog.records:
        look(record.getMessage())
        look(repr(vars(record)))


def look_at_error(error: BaseException) -> str:
    """Look at all that an error can print: itself, its causes and contexts, with tracebacks."""
    text = "".join(traceback.format_exception(error))
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        text += f"{each}\n{each!r}\n{each.args!r}\n"
        todo += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions
    return look(text)


def with_password(url: str, password: str) -> str:
    """Put another password into a URL."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    user = parts.username or "guest"
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}").geturl()


async def test_a_node_at_work(setup: Setup, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """Start, jobs that end well and badly, a lost connection, and the end, at DEBUG."""

    async def fail() -> None:
        raise ValueError("on purpose")

    hub.extra["do"] = fail
    config = setup.config(retry_levels=())
    with trio.fail_after(40):
        async with serving(config) as node:
            await node.enqueue_many([note.job(hub.name), do.job(hub.name)], setup.partition)
            await hub.wait("ran", 2)
            await drop_connections(node)
            await node.enqueue(note.job(hub.name, "again"), setup.partition)
            await hub.wait("ran", tag="again")
            for each in (config, config.broker_config(), node, node._broker, vars(node)):
                look(f"{each}\n{each!r}")
    assert any(each.levelno == logging.DEBUG for each in caplog.records)


@pytest.mark.parametrize("kind", ["password", "vhost", "nobody", "name"])
async def test_being_refused(setup: Setup, kind: str) -> None:
    """A wrong password, a vhost that is not there, an address of nobody: told without the word."""
    wrong = with_password(setup.url, new_secret())
    match kind:
        case "vhost":
            wrong = wrong.rstrip("/") + "/nowhere"
        case "nobody":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            wrong = f"amqp://guest:{new_secret()}@127.0.0.1:{port}/"
        case "name":
            wrong = f"amqp://guest:{new_secret()}@no-such-host.invalid/"
        case _:
            pass
    config = roger.Config(broker=wrong, enqueue_timeout=0.5, partitions={"p": {"default": 1}})
    with trio.fail_after(40), pytest.raises(roger.BrokerUnavailable) as refused:
        async with roger.connect(config) as client:
            await client.enqueue(note.job("h"), "p")
    look_at_error(refused.value)
    if kind in {"password", "vhost"}:
        with trio.fail_after(40), pytest.raises(roger.BrokerUnavailable) as refused:
            await roger.serve(config)
        look_at_error(refused.value)


@pytest.fixture
def encrypted(tmp_path: Path) -> tuple[Path, Path, str]:
    """Make a certificate with an encrypted key: certificate, key, password."""
    password = new_secret()
    made = trustme.CA().issue_cert("client")
    made.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    hidden = serialization.BestAvailableEncryption(password.encode())
    form = serialization.PrivateFormat.PKCS8
    tmp_path.joinpath("client.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, hidden)
    )
    return tmp_path / "client.pem", tmp_path / "client.key", password


@pytest.mark.parametrize("is_right", [True, False])
async def test_the_password_of_a_key(encrypted: tuple[Path, Path, str], is_right: bool) -> None:
    """Right or wrong, given as a value or in a URL, it is in nothing that is said about it."""
    cert, key, password = encrypted
    word = password if is_right else new_secret()
    options = {"certfile": cert, "keyfile": key, "password": word}
    url = f"amqps://u:{new_secret()}@127.0.0.1:1/?certfile={cert}&keyfile={key}"
    for broker in (
        roger.AmqpConfig(host="127.0.0.1", port=1, password=new_secret(), ssl_options=options),
        f"{url}&keyfile_password={word}",
    ):
        config = roger.Config(broker=broker, enqueue_timeout=0.5)
        look(f"{config!r} {config} {config.broker_config()!r}")
        with trio.fail_after(20), pytest.raises(roger.RogerError) as refused:
            async with roger.connect(config) as client:
                await client.enqueue(note.job("h"), "p")
        assert isinstance(refused.value, roger.ConfigError) is not is_right
        look_at_error(refused.value)


def test_a_wrong_file_of_configuration(tmp_path: Path) -> None:
    """What is wrong beside a password is told without it."""
    path = tmp_path / "roger.toml"
    for wrong in (
        'broker = "amqp://u:{}@h/"\nshutdown_timeout = "soon"',
        'broker = "amqp://u:{}@h/?heartbeat=x"',
        'broker = "amqp://u:{}@h/',
        '[broker]\nhost = "h"\npassword = "{}"\nport = 0',
        '[broker]\nhost = "h"\npasword = "{}"',
        '[broker]\npassword = ["{}"]',
        '[broker]\nhost = "h"\n[broker.ssl_options]\npassword = "{}"',
    ):
        path.write_text(wrong.format(new_secret()))
        with pytest.raises(roger.ConfigError) as refused:
            roger.Config.load(path)
        look_at_error(refused.value)


PROGRAMS = {
    "refused": "trio.run(roger.serve, config)",
    "wrong": "roger.Config(broker=config.broker_config(), shutdown_timeout=-1)",
    "crash": "raise RuntimeError(config, config.broker_config(), [config])",
    "types": "roger.AmqpConfig(password=[URL])",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_ends_badly(setup: Setup, what: str, tmp_path: Path) -> None:
    """What Python prints of an error that nobody caught has no password."""
    url = with_password(setup.url, new_secret())
    program = tmp_path / "program.py"
    program.write_text(
        "import logging, os, trio, roger_trio as roger\n"
        "logging.basicConfig(level=0)\n"
        "URL = os.environ['URL']\n"
        "config = roger.Config(broker=URL, partitions={'p': {'default': 1}})\n" + PROGRAMS[what]
    )
    done = subprocess.run(
        [sys.executable, program], env={**os.environ, "URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Error" in look(done.stderr) or "BrokerUnavailable" in look(done.stderr)
    look(done.stdout)
