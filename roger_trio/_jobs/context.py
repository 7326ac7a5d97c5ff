"""What surrounds the code that runs now: the job being performed, and the client to enqueue with.

Both are context variables: child tasks and Trio worker threads started from a job inherit them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from .._errors import RogerError

if TYPE_CHECKING:  # Envelope and Job stand on this module
    from .envelope import Envelope
    from .job import Job


class AmbientClient(Protocol):
    """What `Job.enqueue` needs of a client."""

    def enqueue(
        self,
        job: Job,
        partition: str,
        *,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        id: str | None = None,
    ) -> Awaitable[Envelope]:
        """Publish the job; see `Client.enqueue`."""
        ...


current_envelope: Final[ContextVar[Envelope | None]] = ContextVar("current_envelope", default=None)
"""The job being performed; set by its worker."""

current_client: Final[ContextVar[AmbientClient | None]] = ContextVar("current_client", default=None)
"""The client of ``Job.enqueue``; set by workers and by ``connect``."""


def current_job() -> Envelope:
    """Return the job that is being performed here, with its bookkeeping.

    Works in ``perform``, in tasks it starts, in functions it runs in Trio worker threads, and in
    plain (not async) jobs, also in worker processes.

    Returns:
        The envelope; its arguments are those of this job.

    Raises:
        RogerError: Nothing is being performed here.
    """
    envelope = current_envelope.get()
    if envelope is None:
        raise RogerError("current_job() was called outside a job; call it inside perform")
    return envelope


def ambient_client() -> AmbientClient:
    """Return the client that ``Job.enqueue`` uses here.

    Raises:
        RogerError: There is none.
    """
    client = current_client.get()
    if client is None:
        raise RogerError(
            "Job.enqueue() found no client; call it inside a job (not one in a worker process) "
            "or inside `async with roger.connect(...)`"
        )
    return client
