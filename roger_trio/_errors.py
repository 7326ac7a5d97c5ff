"""The errors a user of roger_trio can meet.

::

    RogerError
     ├─ ConfigError           the configuration is wrong; nothing was started
     ├─ InvalidJob            a job or its arguments break a rule; nothing was enqueued
     ├─ UnknownJob            no job of this name is registered in this process
     ├─ DuplicateJob          the job's queue key is taken
     ├─ PartitionNotRunning   no node (or not this one) runs the partition
     ├─ PersisterError        a partition's state cannot be loaded or saved
     ├─ BrokerUnavailable     the broker cannot be reached or did not confirm in time
     ├─ JobTimeout            a job ran longer than its ``max_execution_time``
     └─ JobCrashed            a job took its worker process with it (``process=True``)
"""

from __future__ import annotations

import signal


class RogerError(Exception):
    """The root of all errors that roger_trio raises on purpose."""


class ConfigError(RogerError):
    """The configuration is wrong; nothing was started.

    The message names the key, the rule and the value.
    """


class InvalidJob(RogerError):
    """A job breaks a rule: an argument does not fit its annotation, a payload is too large.

    Raised in the caller, before anything is enqueued. The message names the field, the rule and
    the value.
    """


class UnknownJob(RogerError):
    """No job of this name is registered in this process.

    Args:
        name: The name (or alias) that was looked up.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no job is registered under the name {name!r}; "
            "import the module that defines it, or add the old name to its aliases"
        )
        self.name = name


class DuplicateJob(RogerError):
    """A queued or running job already holds this job's queue key; nothing was enqueued.

    Args:
        key: The queue key.
        job_id: The id of the job that holds it.
    """

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(f"queue key {key!r} is held by job {job_id}")
        self.key = key
        self.job_id = job_id


class PartitionNotRunning(RogerError):
    """The partition does not run on this node, or on no node that answers.

    Args:
        partition: The partition's name.
    """

    def __init__(self, partition: str, detail: str = "") -> None:
        super().__init__(f"partition {partition!r} is not running{detail and ': ' + detail}")
        self.partition = partition


class PersisterError(RogerError):
    """The state of a partition cannot be loaded or saved.

    The message names the place, the rule and what to do.
    """


class BrokerUnavailable(RogerError):
    """The broker cannot be reached, refuses us, or did not confirm in time.

    After this error of `Client.enqueue` the job may or may not be in the broker: a confirmation
    can be lost on its way. Enqueueing again with the same ``id`` is safe where the job is
    idempotent.
    """


class JobTimeout(RogerError):
    """A job ran longer than its ``max_execution_time``.

    Args:
        seconds: The limit that was exceeded, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"exceeded its max_execution_time of {seconds:g} s")
        self.seconds = seconds


class JobCrashed(RogerError):
    """The worker process of a job with ``process=True`` ended before the job did.

    The job did that itself (``os._exit``, a fault in a C library), or it was killed from outside.
    It is one failed attempt like any other: retried if the job is ``retryable``. The node and its
    other jobs go on.

    Args:
        exitcode: As ``multiprocessing`` has it: the exit status, or the negative number of the
            signal that killed it. None: not known.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"its worker process {_end_of_process(exitcode)}")
        self.exitcode: int | None = exitcode


def _end_of_process(exitcode: int | None) -> str:
    """Say how a process ended."""
    if exitcode is None:
        return "ended"
    if exitcode >= 0:
        return f"ended with exit status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
