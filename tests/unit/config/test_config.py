"""`Config`: defaults, and each rule of each field."""

from __future__ import annotations

import os
import re
from typing import Any

import attrs
import pytest

from roger_trio._config import (
    AmqpConfig,
    Config,
    MemoryConfig,
    SqliteConfig,
    default_node_name,
    parse_broker,
)
from roger_trio._errors import ConfigError
from roger_trio._jobs.callbacks import Callbacks
from roger_trio._persisters import FilePersister


class MyCallbacks(Callbacks):
    """Callbacks of a user."""


def refused(**values: Any) -> str:
    """Give the error that these values meet."""
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    return str(caught.value)


def test_the_defaults_are_those_of_the_contract() -> None:
    """Everything has a default, and the default broker needs nothing installed."""
    config = Config()
    assert config.broker == "sqlite:roger.db"
    assert config.partitions == {}
    assert type(config.callbacks) is Callbacks
    assert config.persister == FilePersister()
    assert config.retry_levels == (1, 3, 5, 10, 20, 35, 60, 100, 200, 400, 1000, 1800)
    assert config.max_buried is None
    assert config.max_deliveries == 5
    assert config.shutdown_timeout == 10.0
    assert config.enqueue_timeout == 30.0
    assert config.node_name is None
    assert config.prefix == ""


def test_every_field_can_be_set() -> None:
    """What is given is what is found."""
    callbacks = MyCallbacks()
    config = Config(
        broker=AmqpConfig(host="rabbit"),
        partitions={"myapp": {"default": 10, "other": 5}},
        callbacks=callbacks,
        persister=FilePersister("state"),
        retry_levels=[1, 2.5],
        max_buried=1000,
        max_deliveries=1,
        shutdown_timeout=0,
        enqueue_timeout=0.5,
        node_name="node 1",
        prefix="Team-a_1.x:",
    )
    assert config.broker == AmqpConfig(host="rabbit")
    assert config.partitions == {"myapp": {"default": 10, "other": 5}}
    assert config.callbacks is callbacks
    assert config.persister == FilePersister("state")
    assert config.retry_levels == (1.0, 2.5)
    assert (config.max_buried, config.max_deliveries) == (1000, 1)
    assert (config.shutdown_timeout, config.enqueue_timeout) == (0, 0.5)
    assert (config.node_name, config.prefix) == ("node 1", "Team-a_1.x:")


def test_a_config_cannot_be_changed() -> None:
    """Neither a field nor a mapping inside can be set."""
    given = {"myapp": {"default": 10}}
    config: Any = Config(partitions=given)
    given["myapp"]["default"] = 99
    given["other"] = {}
    assert config.partitions == {"myapp": {"default": 10}}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.prefix = "x"
    with pytest.raises(TypeError):
        config.partitions["other"] = {}
    with pytest.raises(TypeError):
        config.partitions["myapp"]["default"] = 99


def test_partitions_and_queues_keep_their_order() -> None:
    """A node starts them in the order they are written."""
    config = Config(partitions={"z": {"y": 1, "x": 1}, "a": {}})
    assert list(config.partitions) == ["z", "a"]
    assert list(config.partitions["z"]) == ["y", "x"]


def test_an_unknown_field_is_a_type_error() -> None:
    """It is a mistake in the program's text, as with any function."""
    with pytest.raises(TypeError):
        Config(partition={})  # type: ignore[call-arg]


def test_equal_configs_are_equal() -> None:
    """Two configurations compare by their values."""
    callbacks = Callbacks()
    assert Config(prefix="a", callbacks=callbacks) == Config(prefix="a", callbacks=callbacks)
    assert Config(prefix="a", callbacks=callbacks) != Config(prefix="b", callbacks=callbacks)


SECONDS = "expected a finite number of seconds"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"partitions": {"myapp": {"default": 0}}},
            "partitions.myapp.default: expected a whole number from 1 to 65535, got 0",
        ),
        (
            {"partitions": {"myapp": {"default": True}}},
            "partitions.myapp.default: expected a whole number from 1 to 65535, got True",
        ),
        (
            {"partitions": {"myapp": {"a-b": 1}}},
            (
                "partitions.myapp: expected a queue name of 1 to 64 letters (a-z, A-Z), digits "
                "and _, got 'a-b'"
            ),
        ),
        (
            {"partitions": {"my\napp": {}}},
            (
                "partitions: expected printable text of 1 to 120 bytes in UTF-8, not only spaces, "
                r"got 'my\napp'"
            ),
        ),
        (
            {"partitions": {"myapp": 10}},
            (
                "partitions.myapp: expected a mapping of queue names to numbers of workers, "
                "got a value of type int"
            ),
        ),
        (
            {"partitions": ["myapp"]},
            (
                "partitions: expected a mapping of partition names to their queues, "
                "got a value of type list"
            ),
        ),
        (
            {"callbacks": MyCallbacks},
            "callbacks: expected an instance, MyCallbacks(), got the class MyCallbacks",
        ),
        (
            {"callbacks": print},
            (
                "callbacks: expected an instance of roger.Callbacks, "
                "got a value of type builtin_function_or_method"
            ),
        ),
        (
            {"callbacks": int},
            "callbacks: expected an instance of roger.Callbacks, got a value of type type",
        ),
        ({"retry_levels": 5}, "retry_levels: expected a list or tuple of seconds, got 5"),
        (
            {"max_buried": 0},
            "max_buried: expected None, or a whole number from 1 to 2147483647, got 0",
        ),
        (
            {"max_buried": True},
            "max_buried: expected None, or a whole number from 1 to 2147483647, got True",
        ),
        (
            {"max_deliveries": 0},
            "max_deliveries: expected a whole number from 1 to 2147483647, got 0",
        ),
        (
            {"max_deliveries": "5"},
            "max_deliveries: expected a whole number from 1 to 2147483647, got '5'",
        ),
        ({"shutdown_timeout": -1}, f"shutdown_timeout: {SECONDS}, at least 0, got -1"),
        (
            {"shutdown_timeout": float("inf")},
            f"shutdown_timeout: {SECONDS}, at least 0, got inf",
        ),
        ({"shutdown_timeout": True}, f"shutdown_timeout: {SECONDS}, at least 0, got True"),
        ({"shutdown_timeout": "10"}, f"shutdown_timeout: {SECONDS}, at least 0, got '10'"),
        ({"shutdown_timeout": None}, f"shutdown_timeout: {SECONDS}, at least 0, got None"),
        ({"enqueue_timeout": 0}, f"enqueue_timeout: {SECONDS}, above 0, got 0"),
        ({"enqueue_timeout": float("nan")}, f"enqueue_timeout: {SECONDS}, above 0, got nan"),
        (
            {"node_name": ""},
            (
                "node_name: expected printable text of 1 to 120 bytes in UTF-8, not only spaces, "
                "got ''"
            ),
        ),
        (
            {"prefix": "a b"},
            "prefix: expected at most 32 letters (a-z, A-Z), digits and _ . : -, got 'a b'",
        ),
        (
            {"prefix": "x" * 33},
            f"prefix: expected at most 32 letters (a-z, A-Z), digits and _ . : -, got '{'x' * 33}'",
        ),
        (
            {"prefix": None},
            "prefix: expected at most 32 letters (a-z, A-Z), digits and _ . : -, got None",
        ),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, object], message: str) -> None:
    """The error names the key, the rule and the value."""
    assert refused(**values) == message


def test_a_changed_copy_is_checked_too() -> None:
    """`attrs.evolve` is no way around the rules."""
    with pytest.raises(ConfigError, match="max_deliveries"):
        attrs.evolve(Config(), max_deliveries=0)


FORMS = '"amqp://user:password@host:port/virtual_host", "amqps://…", "sqlite:PATH" or "memory:"'


@pytest.mark.parametrize(
    ("broker", "value"),
    [
        ("sqlite:roger.db", SqliteConfig(path="roger.db")),
        ("sqlite:/var/lib/roger.db", SqliteConfig(path="/var/lib/roger.db")),
        ("memory:", MemoryConfig()),
        ("amqp://", AmqpConfig()),
        ("AMQP://rabbit", AmqpConfig(host="rabbit")),
        (AmqpConfig(port=1), AmqpConfig(port=1)),
        (MemoryConfig(), MemoryConfig()),
    ],
)
def test_a_broker_is_text_or_a_value(broker: Any, value: object) -> None:
    """Each text form is resolved into its value class; a value stays what it is."""
    assert Config(broker=broker).broker_config() == value


@pytest.mark.parametrize(
    ("broker", "message"),
    [
        ("rabbit", f"broker: expected {FORMS}, got 'rabbit'"),
        ("", f"broker: expected {FORMS}, got ''"),
        ("amqp", f"broker: expected {FORMS}, got 'amqp'"),
        ("memory:x", f"broker: expected {FORMS}, got 'memory:x'"),
        ("http://u:secret@host/", f"broker: expected {FORMS}, got 'http://***@host/'"),
        ("redis:u:secret@host", f"broker: expected {FORMS}, got 'redis:***@host'"),
        (7, f"broker: expected AmqpConfig(...) or {FORMS}, got a value of type int"),
        (
            b"amqp://u:secret@host",
            f"broker: expected AmqpConfig(...) or {FORMS}, got a value of type bytes",
        ),
        ("sqlite:", "broker: expected sqlite: to be followed by the path of a file, got ''"),
        (
            "sqlite:a\0",
            r"broker: expected sqlite: to be followed by the path of a file, got 'a\x00'",
        ),
        (
            "sqlite:///roger.db",
            (
                "broker: expected sqlite:PATH, or memory: for a broker without a file, "
                "got 'sqlite:///roger.db'"
            ),
        ),
        (
            "sqlite::memory:",
            (
                "broker: expected sqlite:PATH, or memory: for a broker without a file, "
                "got 'sqlite::memory:'"
            ),
        ),
    ],
)
def test_any_other_broker_is_refused(broker: object, message: str) -> None:
    """The error lists the forms there are."""
    assert refused(broker=broker) == message


@pytest.mark.parametrize("broker", ["sqlite:roger.db", "memory:"])
def test_an_embedded_broker_shows_itself_as_it_is_written(broker: str) -> None:
    """`display` is what `Config.broker` takes."""
    assert parse_broker(broker).display == broker


def test_a_node_without_a_name_gets_one_of_its_own() -> None:
    """The name is host, pid and something random, new each time."""
    first, second = Config().make_node_name(), default_node_name()
    assert first != second
    assert re.fullmatch(rf".+-{os.getpid()}-[0-9a-f]{{8}}", first)
    assert Config(node_name=first).make_node_name() == first
