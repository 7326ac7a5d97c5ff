"""From ``app:config`` to a configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from roger_trio import Config, ConfigError
from roger_trio._cli.errors import Refused
from roger_trio._cli.loading import load_config

Write = Callable[[str], str]

CONFIG = 'config = roger.Config(broker="amqp://u:s3cret@localhost", prefix="x")'


def test_a_config(module: Write) -> None:
    """The attribute of a module in the current folder is found and taken as it is."""
    config = load_config(f"{module(CONFIG)}:config")
    assert config.prefix == "x"
    assert sys.path[0] == str(Path.cwd())


def test_an_attribute_of_an_attribute(module: Write) -> None:
    """The attribute may be a dotted path."""
    name = module('class settings:\n    config = roger.Config(prefix="y")')
    assert load_config(f"{name}:settings.config").prefix == "y"


def test_a_function(module: Write) -> None:
    """A function that returns a configuration is called."""
    name = module('def make():\n    return roger.Config(prefix="z")')
    assert load_config(f"{name}:make").prefix == "z"


def test_a_file(tmp_path: Path) -> None:
    """A TOML file stands for a configuration, and may name callbacks in the current folder."""
    (tmp_path / "hooks_of_test.py").write_text(
        "import roger_trio as roger\nclass Mine(roger.Callbacks): ..."
    )
    (tmp_path / "roger.toml").write_text('prefix = "t"\ncallbacks = "hooks_of_test:Mine"')
    config = load_config("roger.toml")
    assert config.prefix == "t"
    assert type(config.callbacks).__name__ == "Mine"


def test_further_modules(module: Write) -> None:
    """Modules named by --import are imported."""
    name, other = module(CONFIG), module("there = True")
    load_config(f"{name}:config", [other])
    assert sys.modules[other].there


def test_the_environment(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROGER_BROKER overrides the broker."""
    monkeypatch.setenv("ROGER_BROKER", "amqp://elsewhere")
    assert "elsewhere" in load_config(f"{module(CONFIG)}:config").broker_config().display


def test_the_environment_is_wrong(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong ROGER_BROKER is refused by its name and without its password."""
    monkeypatch.setenv("ROGER_BROKER", "amqp://u:s3cret@localhost:99999")
    with pytest.raises(ConfigError, match=r"^ROGER_BROKER: ") as caught:
        load_config(f"{module(CONFIG)}:config")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("app", "expected module:attribute, or the path of a .toml file, got 'app'"),
        ("app:", "expected module:attribute"),
        (":config", "expected module:attribute"),
        ("", "expected module:attribute"),
        ("no.toml", "there is no file 'no.toml'"),
        ("no_such_module:config", "there is no module 'no_such_module' in "),
        ("no_such.module:config", "there is no module 'no_such' in "),
        ("os.no_such:config", "there is no module 'os.no_such' in "),
        (".app:config", "expected the name of a module, got '.app'"),
        ("os:nothing", "module 'os' has no 'nothing'"),
        ("os:sep", "expected 'os:sep' to be a roger.Config, or a function that returns one"),
        ("os:getpid", "got int"),
        ("roger_trio:Config", "got the class Config"),
        ("os://u:s3cret@localhost", "expected module:attribute, or the path of a .toml file"),
    ],
)  # fmt: skip
def test_nothing_of_the_kind(app: str, message: str) -> None:
    """What does not lead to a configuration is wrong usage, and the message says what is there."""
    with pytest.raises(typer.BadParameter) as caught:
        load_config(app)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_candidates(module: Write) -> None:
    """A module with other configurations is asked for by a wrong name: they are listed."""
    name = module("one, two = roger.Config(), roger.Config()")
    with pytest.raises(typer.BadParameter, match=f"; it has {name}:one, {name}:two"):
        load_config(f"{name}:three")


def test_no_module_to_import(module: Write) -> None:
    """A wrong --import is wrong usage too."""
    with pytest.raises(typer.BadParameter) as caught:
        load_config(f"{module(CONFIG)}:config", ["no_such_module"])
    assert caught.value.param_hint == "--import"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("roger.Config(broker='amqp://u:s3cret@localhost', foo=1)", "TypeError: "),
        ("raise ValueError('amqp://u:s3cret@localhost')", "ValueError: amqp://***@localhost"),
    ],
)
def test_a_module_that_fails(module: Write, source: str, reason: str) -> None:
    """Where the module itself fails, the place is shown, but no source: it may hold a password."""
    name = module(source)
    with pytest.raises(Refused) as caught:
        load_config(f"{name}:config")
    assert str(caught.value).startswith(f"module {name!r} cannot be imported: {reason}")
    file = os.path.join(os.getcwd(), f"{name}.py")  # noqa: PTH109, PTH118
    assert caught.value.details.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{file}", line 2, in <module>',
    ]
    assert "s3cret" not in f"{caught.value}{caught.value.details}"


def test_a_module_that_is_no_python(module: Write) -> None:
    """A syntax error is told with its place, and without the line."""
    name = module("password = 's3cret' oops")
    with pytest.raises(Refused, match=rf"SyntaxError: .*{name}\.py, line 2") as caught:
        load_config(f"{name}:config")
    assert "s3cret" not in f"{caught.value}{caught.value.details}"


def test_a_wrong_configuration(module: Write) -> None:
    """What the module's configuration breaks is said as it is, without a traceback."""
    name = module("config = roger.Config(max_deliveries=0)")
    with pytest.raises(ConfigError, match="max_deliveries: expected"):
        load_config(f"{name}:config")


def test_a_function_that_fails(module: Write) -> None:
    """A function that raises is shown with its place."""
    name = module("def make():\n    raise KeyError('MAIL_HOST')")
    with pytest.raises(Refused, match=f"{name}:make failed: KeyError: 'MAIL_HOST'") as caught:
        load_config(f"{name}:make")
    assert "line 3, in make" in caught.value.details


def test_it_is_a_config(module: Write) -> None:
    """What comes out is a `Config`, unchanged where nothing overrides it."""
    name = module(CONFIG)
    config = load_config(f"{name}:config")
    assert isinstance(config, Config)
    assert config is sys.modules[name].config
