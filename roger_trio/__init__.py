"""Background jobs for Trio, in a file on one machine or on RabbitMQ.

::

    import roger_trio as roger

    @roger.job(retryable=True)
    async def send_mail(to: str) -> None: ...

    config = roger.Config(partitions={"myapp": {"default": 10}})
"""

# General layout, highest first; a module imports only from its own line and from lower ones,
# and tests/test_layering.py keeps it so.
#   _cli                     what an operator types
#   _demo                    the run that `roger demo` shows
#   _doctor                  what is found out for `roger doctor`, and what it means
#   _processes               several nodes, each in a process, under a supervisor
#   _tree                    serve -> node -> partition -> consumer -> session -> worker
#   _client                  enqueue and control
#   _messages                from a job to a message and back
#   _topology                the broker queues behind a queue
#   _brokers                 bytes in, bytes out
#   _config                  how all of it is set up
#   _persisters              where a partition's state is kept
#   _jobs                    what a job is, its wire form, its outcomes
#   _errors, _info, _logs    values

from __future__ import annotations

from ._client import Client as Client, connect as connect
from ._config import AmqpConfig as AmqpConfig, Config as Config, SslOptions as SslOptions
from ._errors import (
    BrokerUnavailable as BrokerUnavailable,
    ConfigError as ConfigError,
    DuplicateJob as DuplicateJob,
    InvalidJob as InvalidJob,
    JobCrashed as JobCrashed,
    JobTimeout as JobTimeout,
    PartitionNotRunning as PartitionNotRunning,
    PersisterError as PersisterError,
    RogerError as RogerError,
    UnknownJob as UnknownJob,
)
from ._info import (
    VERSION,
    Answers as Answers,
    CancelResult as CancelResult,
    Health as Health,
    KeyInfo as KeyInfo,
    NodeInfo as NodeInfo,
    QueueInfo as QueueInfo,
)
from ._jobs.callbacks import Callbacks as Callbacks
from ._jobs.context import current_job as current_job
from ._jobs.envelope import Envelope as Envelope, JobError as JobError
from ._jobs.function import JobFunction as JobFunction, job as job
from ._jobs.job import Job as Job, JobOptions as JobOptions
from ._jobs.outcome import WorkerDied as WorkerDied
from ._jobs.signals import Bury as Bury, Discard as Discard, Retry as Retry, Snooze as Snooze
from ._persisters import (
    BrokerPersister as BrokerPersister,
    FilePersister as FilePersister,
    JournalPersister as JournalPersister,
    MemoryPersister as MemoryPersister,
    Persister as Persister,
)
from ._tree.node import Node as Node
from ._tree.serve import serve as serve

__version__ = VERSION
