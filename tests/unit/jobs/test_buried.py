"""What is kept beside a buried job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import NoReturn

import orjson
import pytest
from hypothesis import given, strategies as st

import roger_trio as roger
from roger_trio._jobs import buried, wire
from roger_trio._jobs.envelope import Envelope, JobError

NOW = datetime(2024, 12, 31, 23, 59, 59, 500000, UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]))
errors = st.builds(JobError, type=texts, message=texts, traceback=texts, buried_at=moments)


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> NoReturn:
        raise RuntimeError("not even this")


def raised(exc: BaseException) -> BaseException:
    """Raise an exception, so that it has a traceback."""
    try:
        raise exc  # noqa: TRY301
    except BaseException as error:  # noqa: BLE001
        return error


# Describing an exception...


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ValueError("no"), "ValueError"),
        (SystemExit(3), "SystemExit"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup"),
        (Mute(), f"{__name__}:Mute"),
        (roger.JobTimeout(60), "roger_trio:JobTimeout"),
        (type("Inner", (Exception,), {"__qualname__": "Outer.Inner"})(), f"{__name__}:Outer.Inner"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_type_is_named_with_its_module_unless_it_is_built_in(
    exc: BaseException, kind: str
) -> None:
    """As jobs are: module, colon, qualified name."""
    assert buried.error_of(exc).type == kind


def test_text_traceback_and_time_are_kept() -> None:
    """The traceback is the whole chain of causes; the time is aware."""
    error = raised(ValueError("no such user"))
    error.__cause__ = raised(LookupError("no row"))
    before = datetime.now(UTC)

    found = buried.error_of(error)

    assert found.message == "no such user"
    assert "LookupError: no row" in found.traceback
    assert found.traceback.endswith("ValueError: no such user\n")
    assert before <= found.buried_at <= datetime.now(UTC)


def test_what_was_never_raised_has_no_traceback() -> None:
    """But a cause is shown, as that of a timeout."""
    timeout = roger.JobTimeout(1)
    assert buried.error_of(timeout).traceback == ""
    timeout.__cause__ = raised(ValueError("in cleanup"))
    assert "ValueError: in cleanup" in buried.error_of(timeout).traceback


def test_of_a_long_message_the_beginning_is_kept() -> None:
    """It travels in a header, beside the job."""
    found = buried.error_of(ValueError("start" + "x" * 1_000_000))
    assert found.message.startswith("startx")
    assert len(found.message) == 2_000


def test_of_a_long_traceback_the_end_is_kept() -> None:
    """There is where the error happened."""
    error: BaseException = ValueError("at the bottom")
    for number in range(200):
        above = raised(ValueError(str(number)))
        above.__cause__ = error
        error = above

    found = buried.error_of(error)

    assert len(found.traceback) == 16_000
    assert found.traceback.endswith("ValueError: 199\n")


def test_text_that_is_no_unicode_is_escaped() -> None:
    """Half a surrogate pair, such as the name of an undecodable file, can be written."""
    found = buried.error_of(raised(ValueError("file \udcff\x00\x01 ü")))
    assert found.message == "file \\udcff\x00\x01 ü"
    assert "\\udcff" in found.traceback
    assert buried.load_error(buried.headers_of(found)) == found


def test_an_exception_that_cannot_say_what_it_is_is_described_all_the_same() -> None:
    """Its ``__str__`` is user code, and may fail."""
    found = buried.error_of(raised(Mute()))
    assert found.message == "<its text cannot be had: RuntimeError>"
    assert "raise exc" in found.traceback


@given(st.text(max_size=3000))
def test_any_text_of_an_exception_can_be_written_and_read(text: str) -> None:
    """In the full form, and in one that fits into the smallest of frames."""
    for error in buried.errors_of(ValueError(text)):
        assert buried.load_error(buried.headers_of(error)) == error
    assert len(buried.dump_error(buried.errors_of(ValueError(text))[1]).encode()) < 3000


def test_the_short_form_keeps_what_matters() -> None:
    """Type and the beginning of the message; it is of the same moment."""
    full, short = buried.errors_of(raised(ValueError("start" + "x" * 1000)))
    assert (short.type, short.traceback) == ("ValueError", "")
    assert short.message == full.message[:200]
    assert short.buried_at == full.buried_at


# The header...


@given(errors)
def test_an_error_comes_back_equal(error: JobError) -> None:
    """Whatever is written is read again."""
    headers = buried.headers_of(error)
    assert list(headers) == ["roger-error"]
    assert buried.load_error(headers) == error


def test_the_header_is_as_documented() -> None:
    """Any AMQP tool may read it: these bytes are a promise."""
    error = JobError(type="ValueError", message="ü", traceback="", buried_at=NOW)
    assert buried.dump_error(error) == (
        '{"type":"ValueError","message":"ü","traceback":"",'
        '"buried_at":"2024-12-31T23:59:59.500000+00:00"}'
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.one_of(
        texts,
        st.binary(),
        st.none(),
        json_values.map(lambda value: orjson.dumps(value).decode()),
        st.fixed_dictionaries(
            dict.fromkeys(("type", "message", "traceback", "buried_at"), json_values)
        ).map(lambda value: orjson.dumps(value).decode()),
    )
)
def test_any_other_header_is_no_error_and_no_trouble(value: object) -> None:
    """It may be anybody's; reading it never raises."""
    assert isinstance(buried.load_error({"roger-error": value}), JobError)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "no error was kept with it"),
        ({"roger-error": "{"}, "no error was kept with it"),
        ({"x-first-death-reason": "delivery_limit"}, "the broker moved it here: delivery_limit"),
    ],
)
def test_what_roger_did_not_bury_says_so(headers: dict[str, object], message: str) -> None:
    """The broker's own delivery limit, or a person, left no error."""
    assert buried.load_error(headers) == JobError(
        type="", message=message, traceback="", buried_at=EPOCH
    )


# Reading a buried message...


def test_a_buried_job_is_read_with_its_error() -> None:
    """All else is as it was before the burial."""
    envelope = Envelope(
        id="1", name="app:f", args={"a": 1}, partition="myapp", queue="mail", queued_at=NOW,
        retry_count=3,
    )  # fmt: skip
    error = JobError(type="ValueError", message="no", traceback="…", buried_at=NOW)

    found = buried.read(
        wire.dump(envelope), "other", buried.headers_of(error), partition="myapp", queue="mail"
    )

    assert found.error == error
    assert (found.id, found.args, found.retry_count) == ("1", {"a": 1}, 3)
    assert (found.partition, found.queue) == ("myapp", "mail")


@given(body=st.binary(), message_id=st.text("abc", max_size=3))
def test_a_payload_that_is_no_job_is_read_as_one_without_a_name(
    body: bytes, message_id: str
) -> None:
    """It has the message's id, or a new one, and can be listed."""
    found = buried.read(body, message_id, {}, partition="myapp", queue="mail")

    assert (found.name, found.args) == ("", {})
    assert found.id == message_id if message_id else len(found.id) == 32
    assert (found.partition, found.queue) == ("myapp", "mail")
    assert found.error is not None


def test_foreign_payloads_without_an_id_are_told_apart() -> None:
    """Each gets an id of its own."""
    ids = {buried.foreign("", partition="p", queue="q").id for _ in range(100)}
    assert len(ids) == 100
