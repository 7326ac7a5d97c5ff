"""The current job and the ambient client."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from roger_trio._errors import RogerError
from roger_trio._jobs.context import (
    ambient_client,
    current_client,
    current_envelope,
    current_job,
)
from roger_trio._jobs.envelope import Envelope
from roger_trio._jobs.job import Job

ENVELOPE = Envelope(
    id="1", name="a:b", args={}, partition="p", queue="q", queued_at=datetime.now(UTC)
)


class Ping(Job):
    async def perform(self) -> None: ...


class Recorder:
    """A client that keeps what it is asked to enqueue."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def enqueue(self, job: Job, partition: str, **options: Any) -> Envelope:
        await trio.lowlevel.checkpoint()
        self.calls.append((job, partition, options))
        return ENVELOPE


async def test_current_job_is_the_envelope_in_tasks_and_threads() -> None:
    """Child tasks and worker threads of a job know the job."""
    seen: list[Envelope] = []

    async def look() -> None:
        seen.append(current_job())
        seen.append(await trio.to_thread.run_sync(current_job))

    token = current_envelope.set(ENVELOPE)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
    finally:
        current_envelope.reset(token)

    assert seen == [ENVELOPE, ENVELOPE]


def test_current_job_outside_a_job_is_an_error() -> None:
    """The message says where to call it."""
    with pytest.raises(RogerError, match="outside a job; call it inside perform"):
        current_job()


async def test_enqueue_goes_through_the_ambient_client() -> None:
    """The options reach the client as they are, and its envelope comes back."""
    client, at = Recorder(), datetime.now(UTC)
    token = current_client.set(client)
    try:
        assert ambient_client() is client
        assert await Ping().enqueue("p", queue="q", at=at, id="7") is ENVELOPE
    finally:
        current_client.reset(token)

    assert client.calls == [(Ping(), "p", {"queue": "q", "delay": None, "at": at, "id": "7"})]


async def test_enqueue_without_a_client_is_an_error() -> None:
    """The message says how to get one."""
    with pytest.raises(RogerError, match=r"inside `async with roger\.connect\(\.\.\.\)`"):
        await Ping().enqueue("p")
