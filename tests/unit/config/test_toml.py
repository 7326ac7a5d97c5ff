"""`Config.load` and the environment."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs
import pytest

from roger_trio._config import AmqpConfig, Config, SslOptions
from roger_trio._errors import ConfigError
from roger_trio._jobs.callbacks import Callbacks
from roger_trio._persisters import BrokerPersister, FilePersister, MemoryPersister

NOTHING: dict[str, str] = {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of a test lies."""
    return tmp_path / "roger.toml"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a user's module that can be imported, and give its name."""
    name = f"hooks_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "from roger_trio._jobs.callbacks import Callbacks\n"
        "class Mine(Callbacks): pass\n"
        "class Outer:\n    inner = Mine()\n"
        "class Needy(Callbacks):\n    def __init__(self, x): pass\n"
        "text = 'no callbacks'\n"
        "class Keeper:\n"
        "    async def load(self, partition): pass\n"
        "    async def save(self, partition, data): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def load(path: Path, text: str) -> Config:
    """Write a file and load it without an environment."""
    path.write_text(text, encoding="utf-8")
    return Config.load(path, environ=NOTHING)


def refused(path: Path, text: str) -> str:
    """Give the error of loading a file, without the path it must begin with."""
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    found = str(caught.value)
    assert found.startswith(f"{path}: ")
    return found.removeprefix(f"{path}: ")


def test_an_empty_file_is_the_defaults(path: Path) -> None:
    """Every key may be left out."""
    config = load(path, "")
    assert attrs.evolve(config, callbacks=(callbacks := Callbacks())) == Config(callbacks=callbacks)


def test_every_field_can_be_in_the_file(path: Path, module: str) -> None:
    """The keys are the fields of `Config` and, in the table, those of `AmqpConfig`."""
    config = load(
        path,
        f"""
        callbacks = "{module}:Mine"
        persister = "{module}:Keeper"
        retry_levels = [1, 2.5]
        max_buried = 100
        max_deliveries = 3
        shutdown_timeout = 20
        enqueue_timeout = 1.5
        node_name = "büro"
        prefix = "a-"

        [broker]
        host = "rabbit"
        port = 5671
        username = "ada"
        password = "secret"
        virtual_host = "v"
        channel_max = 10
        frame_max = 8192
        heartbeat = 30
        connection_timeout = "none"
        queue_settle_time = 0
        ssl_options = {{ cacertfile = "ca.pem", verify = "verify_peer" }}
        client_properties = {{ connection_name = "web", list = [1, true] }}

        [partitions.myapp]
        default = 10
        other = 5

        [partitions."Ada & Söhne"]
        """,
    )
    assert type(config.callbacks).__name__ == "Mine"
    assert type(config.persister).__name__ == "Keeper"
    assert config.partitions == {"myapp": {"default": 10, "other": 5}, "Ada & Söhne": {}}
    assert config.retry_levels == (1.0, 2.5)
    assert (config.max_buried, config.max_deliveries) == (100, 3)
    assert (config.shutdown_timeout, config.enqueue_timeout) == (20, 1.5)
    assert (config.node_name, config.prefix) == ("büro", "a-")
    assert config.broker == AmqpConfig(
        host="rabbit",
        port=5671,
        username="ada",
        password="secret",
        virtual_host="v",
        channel_max=10,
        frame_max=8192,
        heartbeat=30,
        connection_timeout=None,
        queue_settle_time=0,
        ssl_options=SslOptions(cafile="ca.pem"),
        client_properties={"connection_name": "web", "list": [1, True]},
    )


def test_the_broker_may_be_text(path: Path) -> None:
    """A line is enough where the URL says it all."""
    config = load(path, 'broker = "amqp://rabbit"')
    assert config.broker_config() == AmqpConfig(host="rabbit")


def test_the_persisters_have_names(path: Path) -> None:
    """Those that come along are named; a file's directory follows the colon."""
    assert load(path, 'persister = "broker"').persister == BrokerPersister()
    assert type(load(path, 'persister = "memory"').persister) is MemoryPersister
    assert load(path, 'persister = "file:a:b/c"').persister == FilePersister("a:b/c")


@pytest.mark.parametrize("value", ["'file'", "'file:'", "''", "7", "'x'", "{ file = 'x' }"])
def test_what_names_no_persister(path: Path, value: str) -> None:
    """The error lists the forms there are."""
    rule = 'persister: expected "broker", "memory", "file:DIRECTORY" or "module:object", got '
    assert refused(path, f"persister = {value}").startswith(rule)


def test_an_object_that_is_no_persister(path: Path, module: str) -> None:
    """It is refused when it is loaded, before anything starts."""
    rule = "persister: expected an object with `async def load` and `async def save`"
    assert refused(path, f"persister = '{module}:Outer.inner'").startswith(rule)


def test_the_path_may_be_text_too(path: Path) -> None:
    """`load` takes what `open` takes."""
    path.write_text('prefix = "a-"')
    assert Config.load(str(path), environ=NOTHING).prefix == "a-"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prefix = 'a b'",
            "prefix: expected at most 32 letters (a-z, A-Z), digits and _ . : -, got 'a b'",
        ),
        (
            "[partitions.myapp]\ndefault = 0",
            "partitions.myapp.default: expected a whole number from 1 to 65535, got 0",
        ),
        (
            "[partitions.myapp]\ndefault = '10'",
            "partitions.myapp.default: expected a whole number from 1 to 65535, got '10'",
        ),
        (
            "partitions = 1",
            (
                "partitions: expected a mapping of partition names to their queues, "
                "got a value of type int"
            ),
        ),
        ("[broker]\nport = 0", "broker.port: expected a whole number from 1 to 65535, got 0"),
        (
            "[broker]\npassword = 1234567",
            "broker.password: expected text without NUL, got a value of type int",
        ),
        (
            "[broker]\nconnection_timeout = 'x'",
            "broker.connection_timeout: expected a finite number of seconds, above 0, got 'x'",
        ),
        (
            "[broker]\nconnection_timeout = inf",
            "broker.connection_timeout: expected a finite number of seconds, above 0, got inf",
        ),
        (
            "[broker]\nhots = 'x'",
            (
                "broker.hots: unknown key; did you mean 'host'? (known keys: "
                "host, port, username, password, virtual_host, channel_max, "
                "frame_max, heartbeat, connection_timeout, ssl_options, "
                "client_properties, queue_settle_time)"
            ),
        ),
        (
            "[broker.ssl_options]\ncafle = 'x'",
            (
                "broker.ssl_options.cafle: unknown key; did you "
                "mean 'cafile'? (known keys: cafile, capath, "
                "certfile, keyfile, password, verify, "
                "server_hostname, cacertfile)"
            ),
        ),
        ("broker = 7", 'broker: expected text or a table, "[broker]", got a value of type int'),
        (
            "brokr = 'memory:'",
            (
                "brokr: unknown key; did you mean 'broker'? (known keys: broker, "
                "partitions, callbacks, persister, retry_levels, max_buried, "
                "max_deliveries, max_job_processes, shutdown_timeout, enqueue_timeout, "
                "node_name, prefix)"
            ),
        ),
        ("callbacks = 'hooks'", "callbacks: expected \"module:object\", got 'hooks'"),
        ("callbacks = 7", 'callbacks: expected "module:object", got 7'),
        (
            "callbacks = 'no_such_module_here:X'",
            (
                "callbacks: cannot load 'no_such_module_here:X' "
                "(ModuleNotFoundError: No module named "
                "'no_such_module_here')"
            ),
        ),
        ("x =", "expected TOML in UTF-8 (Invalid value (at end of document))"),
    ],
)
def test_a_wrong_file_is_refused(path: Path, text: str, message: str) -> None:
    """The error begins with the path and names the key, the rule and the value."""
    assert refused(path, text) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nobody", "callbacks: cannot load '{}' (AttributeError: module "),
        ("Needy", "callbacks: cannot load '{}' (TypeError: Needy.__init__() missing 1 "),
        ("text", "callbacks: expected an instance of roger.Callbacks, got a value of type str"),
    ],
)
def test_callbacks_that_cannot_be_loaded_are_refused(
    path: Path, module: str, name: str, message: str
) -> None:
    """The error names what was to be loaded, and why it could not be."""
    found = refused(path, f'callbacks = "{module}:{name}"')
    assert found.startswith(message.format(f"{module}:{name}"))


def test_callbacks_may_be_an_object(path: Path, module: str) -> None:
    """Only a class is called."""
    config = load(path, f'callbacks = "{module}:Outer.inner"')
    assert isinstance(config.callbacks, Callbacks)


def test_a_failed_import_keeps_its_cause(path: Path) -> None:
    """The traceback shows where the user's module broke."""
    with pytest.raises(ConfigError) as caught:
        load(path, 'callbacks = "no_such_module_here:X"')
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_missing_file_is_refused(path: Path) -> None:
    """The error names the path and what the system said."""
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert str(caught.value) == f"{path}: expected a readable file (No such file or directory)"


def test_a_file_that_is_not_utf8_is_refused(path: Path) -> None:
    """TOML is UTF-8."""
    path.write_bytes(b'prefix = "\xff"')
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: expected TOML in UTF-8 ('utf-8' codec can't")


def test_certificates_in_the_file_need_not_be_there_yet(path: Path) -> None:
    """They are looked for when a connection is made."""
    config = load(path, '[broker.ssl_options]\ncafile = "missing.pem"').broker_config()
    assert isinstance(config, AmqpConfig)
    with pytest.raises(ConfigError, match=r"broker\.ssl_options\.cafile: expected a readable"):
        config.ssl_context()
    assert load(path, "[broker]\nssl_options = {}").broker_config() == AmqpConfig(ssl_options={})
    assert isinstance(AmqpConfig(ssl_options={}).ssl_context(), ssl.SSLContext)


def test_the_environment_overrides_the_broker_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` reads ROGER_BROKER; everything else stays as the file says."""
    path.write_text('broker = "memory:"\nprefix = "a-"')
    monkeypatch.setenv("ROGER_BROKER", "amqp://rabbit")
    config = Config.load(path)
    assert config.broker_config() == AmqpConfig(host="rabbit")
    assert config.prefix == "a-"


def test_the_environment_overrides_the_broker_of_a_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`with_environment` gives a copy, or the same where nothing is set."""
    monkeypatch.delenv("ROGER_BROKER", raising=False)
    config = Config(prefix="a-")
    assert config.with_environment() is config
    assert config.with_environment({"ROGER_BROKER": ""}) is config
    other = config.with_environment({"ROGER_BROKER": "memory:"})
    assert (other.broker, other.prefix) == ("memory:", "a-")
    assert other.callbacks is config.callbacks
    assert config.broker == "sqlite:roger.db"
    monkeypatch.setenv("ROGER_BROKER", "memory:")
    assert config.with_environment() == other
    assert config.with_environment({}) is config


def test_the_environment_is_read_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's own broker stands unless it asks for the override."""
    monkeypatch.setenv("ROGER_BROKER", "memory:")
    assert Config().broker == "sqlite:roger.db"


def test_a_wrong_variable_is_named() -> None:
    """The error begins with ROGER_BROKER, and shows no password."""
    with pytest.raises(ConfigError) as caught:
        Config().with_environment({"ROGER_BROKER": "amqp://u:secret@h:x"})
    assert str(caught.value) == (
        "ROGER_BROKER: broker.port: expected a whole number from 1 to 65535, got 'x'"
    )


def test_the_file_is_checked_even_where_it_is_overridden(path: Path) -> None:
    """A mistake shows itself at once, not when the variable is taken away."""
    path.write_text('broker = "rabbit"')
    with pytest.raises(ConfigError, match="broker: expected"):
        Config.load(path, environ={"ROGER_BROKER": "memory:"})
