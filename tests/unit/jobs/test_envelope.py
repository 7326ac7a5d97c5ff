"""Envelopes: jobs with their bookkeeping."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import orjson
import pytest

from roger_trio._errors import InvalidJob, UnknownJob
from roger_trio._jobs.codec import encode_args
from roger_trio._jobs.envelope import Envelope, JobError
from roger_trio._jobs.job import Job

NOW = datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC)


class Login(Job):
    user: str
    password: str

    async def perform(self) -> None: ...


def envelope_of(job: Job) -> Envelope:
    """Make an envelope around a job."""
    return Envelope(
        id="1",
        name=job.options.name,
        args=encode_args(job),
        partition="myapp",
        queue="default",
        queued_at=NOW,
    )


ENVELOPE = envelope_of(Login("ada", "secret"))


def test_load_makes_the_job_again() -> None:
    """The job of an envelope equals the job it was made of."""
    assert ENVELOPE.load() == Login("ada", "secret")


def test_load_of_an_unknown_name_says_so() -> None:
    """A name that nobody registered is UnknownJob."""
    with pytest.raises(UnknownJob, match="'os:system'"):
        attrs.evolve(ENVELOPE, name="os:system").load()


def test_load_of_wrong_arguments_says_so() -> None:
    """Arguments that do not fit are InvalidJob."""
    with pytest.raises(InvalidJob, match="user: expected text, got 5"):
        attrs.evolve(ENVELOPE, args={"user": 5, "password": "secret"}).load()


def test_repr_does_not_show_arguments() -> None:
    """Arguments may be private, so an envelope can be logged without them."""
    assert repr(ENVELOPE) == f"<Envelope {__name__}:Login 1 in myapp/default, retry 0>"


def test_envelopes_are_frozen_and_hashable() -> None:
    """An envelope can be a key, and nobody changes it under us."""
    assert hash(ENVELOPE) == hash(attrs.evolve(ENVELOPE))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ENVELOPE.retry_count = 1  # type: ignore[misc]


def test_as_json_has_everything() -> None:
    """The JSON form shows every field, times as text, and can be written as it is."""
    error = JobError(type="ValueError", message="no", traceback="…", buried_at=NOW)
    shown = attrs.evolve(ENVELOPE, started_at=NOW, error=error).as_json()

    assert orjson.loads(orjson.dumps(shown, option=orjson.OPT_PASSTHROUGH_DATETIME)) == shown
    assert shown.keys() == {field.name for field in attrs.fields(Envelope)}
    assert shown["args"] == {"user": "ada", "password": "secret"}
    assert shown["started_at"] == "2024-12-31T23:59:59+00:00"
    assert shown["error"]["buried_at"] == "2024-12-31T23:59:59+00:00"
    assert ENVELOPE.as_json()["started_at"] is ENVELOPE.as_json()["error"] is None
