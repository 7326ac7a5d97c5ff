"""What a partition's coordinator can be asked, and what it answers. Values only.

A key is held by a job id: every operation names the job, so all of them are idempotent, and a
repeated or late one never frees what another job holds.
"""

from __future__ import annotations

import attrs

# Asked by who enqueues...


@attrs.frozen
class Claim:
    """Hold a queue key for a job that is about to be published. → `Claimed` | `HeldBy`."""

    job: str
    key: str
    queue: str
    nonce: str
    """Unlike in any other claim; the same when this one is sent again."""
    inbox: str
    """Who will publish the job; if it dies before `Published`, the claim is void."""


@attrs.frozen
class Published:
    """The broker has confirmed the jobs of these claims. No answer."""

    job: str
    nonce: str


@attrs.frozen
class Withdraw:
    """The publish of a claimed job was not confirmed: it gives up its key. No answer.

    Changes nothing once that claim is published, or is another one.
    """

    job: str
    nonce: str


# Asked by who performs...


@attrs.frozen
class Start:
    """May a delivery of a job be started on this node?

    Asked for jobs with a key, and for jobs whose cancellation is known.
    → `Run` | `Wait` | `Cancelled` | `Finished` | `Duplicate` | `Elsewhere`
    """

    job: str
    queue: str
    queue_key: str | None
    execution_key: str | None
    node: str
    inbox: str
    instead_of: str = ""
    """The attempt that, as was found, does not run any more: what `Elsewhere` named."""
    attempt: str = ""
    """Unlike for any other delivery; the same when this one is sent again.

    It tells a late `Requeue` or `Release` of an earlier attempt from one of this attempt.
    """
    born: float = 0.0
    """When the job was enqueued: it tells a copy of an ended job from a new one with its id."""
    to_forget: bool = False
    """Not to run it, as this copy of it has ended, but to take over, and so be able to free, what
    the attempt took that was started last. Where none was: `Finished`, and nobody's turn changes.
    """


@attrs.frozen
class Requeue:
    """An attempt has ended, and the job comes back: its execution key is free. No answer.

    Changes nothing unless the job has been started, and by this attempt if one is named.
    """

    job: str
    attempt: str = ""
    """As in its `Start`; empty: whichever."""


@attrs.frozen
class Release:
    """A job is over for good: all its keys are free, and it never starts again. No answer.

    Its remembered cancellation is forgotten. Changes nothing while another attempt of the job is
    the one that has been started.
    """

    job: str
    attempt: str = ""
    """As in its `Start`; empty: whichever."""
    born: float = 0.0
    """As in its `Start`; 0: whichever job with this id."""


@attrs.frozen
class Conclude:
    """A cancelled job has been met or has ended: all its keys are free. → `First`."""

    job: str
    inbox: str
    nonce: str
    """Unlike in any other conclusion from this inbox; the same when this one is sent again."""
    born: float = 0.0
    """As in its `Start`; 0: whichever job with this id."""


# Asked by who controls: sent again, none of these undoes what came after it...


@attrs.frozen
class Cancel:
    """Never start this job again; nodes that run it stop it. → `Recorded` | `Finished`.

    Every node of the partition answers `request` at `inbox`.
    """

    job: str
    inbox: str
    request: int
    """Unlike in any other operation of this kind from this inbox; the same when sent again."""


@attrs.frozen
class Pause:
    """Start no job of a queue on any node. → `Recorded`; nodes answer `request` at `inbox`."""

    queue: str
    inbox: str
    request: int


@attrs.frozen
class Resume:
    """Start jobs of a queue again. → `Recorded`; nodes answer `request` at `inbox`."""

    queue: str
    inbox: str
    request: int


@attrs.frozen
class ListPaused:
    """Which queues are paused? → `PausedQueues`."""


@attrs.frozen
class ListKeys:
    """Who holds which key? → `Keys`: the oldest, as many as go into one message."""

    after: float = -1.0
    """Only keys that were taken later than this."""


@attrs.frozen
class FreeKey:
    """Free a key, whichever kind it is, whoever holds it. → `Keys`: what was freed."""

    key: str
    inbox: str
    request: int
    """As in `Cancel`: sent again, it does not free what another job has taken since."""


@attrs.frozen
class PurgeKeyless:
    """Purge a queue if no job of it holds a key or waits for one. → `Purged`.

    The coordinator does it itself, between two commands, so that no job is claimed meanwhile, and
    only while whoever asked waits for it: what is enqueued after that must stay.
    """

    queue: str
    inbox: str
    request: int
    """As in `Cancel`; `inbox` says whether it is still wanted."""


@attrs.frozen
class PurgeWaiting:
    """Delete the jobs of a queue that wait for an execution key. → `Purged`: how many.

    Only while whoever asked waits for it, as `PurgeKeyless`.
    """

    queue: str
    inbox: str
    request: int
    """As in `PurgeKeyless`."""


@attrs.frozen
class ReplayClaim:
    """Hold the queue key of a buried job that is about to be replayed; forget that it ended.

    → `Claimed` | `HeldBy`. Like `Claim`, but also for jobs without a key (None).
    """

    job: str
    key: str | None
    queue: str
    nonce: str
    inbox: str


# Asked by nodes...


@attrs.frozen
class Sync:
    """A node is about to start jobs of the partition. → `Synced`. It is a member from now on."""

    node: str
    inbox: str
    host: str


@attrs.frozen
class Leave:
    """A node runs the partition no more. No answer."""

    inbox: str


@attrs.frozen
class Gone:
    """Nobody listens at an inbox any more: that node or client is dead. No answer."""

    inbox: str


@attrs.frozen
class Fresh:
    """The queue of commands was made anew, so the broker was empty: older keys are void. No answer.

    Whoever claimed a key since the queue is there holds it, even if that is handled first.
    """

    before: float
    """Seconds since the epoch, as of just before the queue was made."""


Operation = (
    Claim
    | Published
    | Withdraw
    | Start
    | Requeue
    | Release
    | Conclude
    | Cancel
    | Pause
    | Resume
    | ListPaused
    | ListKeys
    | FreeKey
    | PurgeKeyless
    | PurgeWaiting
    | ReplayClaim
    | Sync
    | Leave
    | Gone
    | Fresh
)

# Answers...


@attrs.frozen
class Claimed:
    """The job holds the key."""


@attrs.frozen
class HeldBy:
    """Another job holds the key."""

    job: str


@attrs.frozen
class Run:
    """Start it: it holds its keys."""


@attrs.frozen
class Wait:
    """Another job holds the execution key: publish it to the waiting ones, and settle."""


@attrs.frozen
class Cancelled:
    """It was cancelled: do not start it, `Conclude` it."""


@attrs.frozen
class Finished:
    """It is over already: this is a copy, to be settled and forgotten."""


@attrs.frozen
class Duplicate:
    """Its queue key went to another job meanwhile: bury it.

    Its own publish was never confirmed, or the state was lost in which it held the key.
    """

    job: str


@attrs.frozen
class Elsewhere:
    """Another delivery of the same job was started: find out at its node whether it still runs.

    That may be the node that asks: two copies of a job can be in the broker.
    """

    node: str
    inbox: str
    attempt: str


@attrs.frozen
class First:
    """Whether this is the first to conclude the cancelled job: then `on_cancel` is due."""

    is_first: bool


@attrs.frozen
class Recorded:
    """It is saved."""

    members: tuple[tuple[str, str], ...]
    """Name and inbox of each node that runs the partition and has been told."""


@attrs.frozen
class PausedQueues:
    """The paused queues."""

    queues: tuple[str, ...]


@attrs.frozen
class HeldKey:
    """One key that a job holds."""

    key: str
    kind: str
    """``queue`` or ``execution``."""
    job: str
    queue: str
    since: float
    """When it was taken, in seconds since the epoch."""
    node: str | None
    """Where the job was started last."""
    waiting: int
    """Jobs that wait for it."""


@attrs.frozen
class Keys:
    """Held keys, the oldest first."""

    keys: tuple[HeldKey, ...]
    is_all: bool = True
    """Whether no later one was left out."""


@attrs.frozen
class Purged:
    """How many were purged; None: nothing was done.

    Because jobs of the queue hold keys, or as it was done before, or nobody waits for it any more.
    """

    count: int | None


@attrs.frozen
class Synced:
    """What a node must know before it starts a job."""

    version: int
    """Counts the changes that are told to nodes."""
    paused: tuple[str, ...]
    cancelled: tuple[str, ...]


Answer = (
    Claimed
    | HeldBy
    | Run
    | Wait
    | Cancelled
    | Finished
    | Duplicate
    | Elsewhere
    | First
    | Recorded
    | PausedQueues
    | Keys
    | Purged
    | Synced
)

ONE_WAY = (Published, Withdraw, Requeue, Release, Leave, Gone, Fresh)
"""Operations without an answer: the sender is done once the broker keeps them."""


# What the coordinator tells all nodes of the partition...


@attrs.frozen
class JobCancelled:
    """Never start this job; stop it if it runs here; answer `request` at `inbox` if given."""

    version: int
    job: str
    inbox: str = ""
    request: int = 0


@attrs.frozen
class JobForgotten:
    """A cancellation need not be remembered any more."""

    version: int
    job: str


@attrs.frozen
class QueuePaused:
    """Start no job of this queue; answer once none can be started any more."""

    version: int
    queue: str
    inbox: str = ""
    request: int = 0


@attrs.frozen
class QueueResumed:
    """Start jobs of this queue again; answer."""

    version: int
    queue: str
    inbox: str = ""
    request: int = 0


Event = JobCancelled | JobForgotten | QueuePaused | QueueResumed
