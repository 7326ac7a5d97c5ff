"""No password is in any output, whatever it looks like and however wrong the rest is."""

from __future__ import annotations

import traceback
from urllib.parse import quote

import pytest
from hypothesis import assume, given, strategies as st

from roger_trio._config import AmqpConfig, Config
from roger_trio._errors import ConfigError

# Long enough, and with characters of its own, so that no message contains one by chance.
SECRET = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=8, max_size=40
).map(lambda text: f"xq{text}zj")
# What stands in front of a password's / ? # would be taken for the host, and the rest for a path.
WRONG = [
    "amqp://guest:{}@localhost:badport/",
    "amqp://guest:{}@localhost:99999/",
    "amqp://guest:{}@local host/",
    "amqp://guest:{}@[::1/",
    "amqp://guest:{}@localhost/a/b",
    "amqp://guest:{}@localhost/#fragment",
    "amqp://guest:{}@localhost/?heartbeat=soon",
    "amqp://guest:{}@localhost/?nonsense=1",
    "amqp://guest:{}@localhost/?heartbeat=1&heartbeat=2",
    "amqp://guest:{}@localhost/%ff",
    "amqps://guest:{}@localhost/?verify=perhaps",
    "amqps://guest:{}@localhost/?certfile=a&keyfile_password={}&keyfile_password=",
    "amqps://h/?keyfile_password={}",
    "amqp://h/?keyfile_password={}",
    "amqps://h/?keyfile_pasword={}",
    "http://guest:{}@localhost/",
    "amqp:guest:{}@localhost",
    "guest:{}@localhost:5672",
    "{}@localhost",
    "amqp://guest:{}",
]


def outputs(error: BaseException) -> str:
    """Give all that an error can print, its causes included."""
    return "\n".join([str(error), repr(error), *traceback.format_exception_only(error)]) + (
        outputs(error.__cause__) if error.__cause__ is not None else ""
    )


def everything(config: Config) -> str:
    """Give all the text there is of a configuration."""
    broker = config.broker_config()
    return "\n".join([repr(config), str(config), repr(broker), str(broker), broker.display])


def hidden(secret: str, text: str) -> bool:
    """Tell whether the text has the secret neither plain, nor escaped, nor percent-encoded."""
    forms = {secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote(secret, safe="")}
    return not any(form in text for form in forms)


@given(secret=SECRET)
def test_a_configuration_shows_no_password(secret: str) -> None:
    """Neither as a URL nor as a value does it print the password, of the key neither."""
    options = {"certfile": "c", "password": secret}
    value = AmqpConfig(username="ada", password=secret, ssl_options=options)
    encoded = quote(secret, safe="")
    url = f"amqps://ada:{encoded}@localhost/?certfile=c&keyfile_password={encoded}"
    for config in (Config(broker=value), Config(broker=url)):
        assert hidden(secret, everything(config))
    assert "broker='amqps://ada:***@localhost:5671/'" in repr(Config(broker=url))
    assert value.password == secret


@pytest.mark.parametrize("form", WRONG)
@given(secret=SECRET)
def test_an_error_shows_no_password(form: str, secret: str) -> None:
    """Not even where the password is not encoded and so cuts the URL to pieces."""
    for text in (secret, quote(secret, safe="")):
        url = form.replace("{}", text)
        with pytest.raises(ConfigError) as caught:
            Config(broker=url)
        assert hidden(secret, outputs(caught.value))
        with pytest.raises(ConfigError) as caught:
            AmqpConfig.from_url(url)
        assert hidden(secret, outputs(caught.value))


@given(secret=SECRET)
def test_no_piece_of_an_unencoded_password_is_shown(secret: str) -> None:
    """A / ? # or @ in it is refused without showing what stands on either side."""
    half = f"xqleft{secret}/?#@rightzj"
    assume("left" not in secret)
    with pytest.raises(ConfigError) as caught:
        Config(broker=f"amqp://guest:{half}@localhost/")
    assert "xqleft" not in str(caught.value)
    assert "rightzj" not in str(caught.value)


@given(secret=SECRET)
def test_a_wrong_type_shows_no_password(secret: str) -> None:
    """A value of another type is named by its type where it may hold a password."""
    wrongs: list[dict[str, object]] = [
        {"password": [secret]},
        {"host": f"amqp://guest:{secret}@localhost"},
        {"ssl_options": secret},
        {"ssl_options": {"password": [secret]}},
        {"client_properties": secret},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError) as caught:
            AmqpConfig(**wrong)  # type: ignore[arg-type]
        assert hidden(secret, outputs(caught.value))
    with pytest.raises(ConfigError) as caught:
        Config(broker=[f"amqp://guest:{secret}@localhost"])  # type: ignore[arg-type]
    assert hidden(secret, outputs(caught.value))
