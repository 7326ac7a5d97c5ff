"""What RabbitMQ's versions do differently, as data: the one place that knows.

Each row is a difference that concerns roger_trio. The documentation shows the same rows (its
test compares them); `roger doctor` says which of them apply to the broker at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

Release = tuple[int, int]
"""Major and minor version."""

OLDEST: Final[Release] = (3, 10)
"""The first one with at-least-once dead-lettering, without which delays would lose jobs."""
HEEDS_QUEUE_TIMEOUT: Final[Release] = (3, 12)
"""The first one that heeds the queue argument ``x-consumer-timeout``."""
TIMEOUT_CANCELS: Final[Release] = (4, 3)
"""The first one that ends the late consumer alone, where older ones close its channel."""
TELLS_CONSUMERS: Final[Release] = (4, 0)
"""The first one known to tell consumers of a queue that was deleted and made anew at once."""
SMALL_MESSAGES: Final[Release] = (4, 0)
"""The first one whose default ``max_message_size`` is 16 MiB."""
DEFAULT_CONSUMER_TIMEOUT: Final = 1800.0
"""Seconds: the default of ``consumer_timeout``."""
TIMEOUT_WANTED_MS: Final = 365 * 24 * 3600 * 1000
"""Milliseconds that a job may run before RabbitMQ takes its consumer for stuck: a year. What our
queues ask for, and what to set where that is not heeded."""


@attrs.frozen(kw_only=True)
class Difference:
    """One thing that a release changed."""

    since: Release
    """The first release that does it the new way."""
    what: str
    """What it is about."""
    before: str
    """What older releases do."""
    after: str
    """What this one and later ones do."""
    here: str
    """What follows for roger_trio."""


DIFFERENCES: Final = (
    Difference(
        since=HEEDS_QUEUE_TIMEOUT,
        what="consumer timeout of a queue",
        before="`x-consumer-timeout` is ignored; only `consumer_timeout` in `rabbitmq.conf` counts",
        after="`x-consumer-timeout` of the queue counts, or a policy's, whichever is shorter",
        here="queues ask for a year; where that is ignored, a WARNING at the start and `roger "
        "doctor` say so",
    ),
    Difference(
        since=TIMEOUT_CANCELS,
        what="a consumer timeout that is exceeded",
        before="the channel is closed (406), and all that was delivered on it comes back",
        after="the consumer is cancelled, and what is late comes back",
        here="the job goes on, and its node gets the delivery back",
    ),
    Difference(
        since=(4, 0),
        what="default delivery limit of quorum queues",
        before="none",
        after="20, then the message is dropped or dead-lettered",
        here="queues are declared with a limit of their own, so large that it is never met",
    ),
    Difference(
        since=(4, 0),
        what="delivery limit of -1",
        before="taken for 0: a message is gone when it first comes back",
        after="no limit",
        here="never used",
    ),
    Difference(
        since=SMALL_MESSAGES,
        what="default `max_message_size`",
        before="128 MiB",
        after="16 MiB",
        here="a larger job is refused with `InvalidJob`",
    ),
    Difference(
        since=(4, 0),
        what="`x-death` that a publisher sends along",
        before="counted on",
        after="ignored",
        here="attempts are counted in the job itself",
    ),
    Difference(
        since=(4, 0),
        what="length of a quorum queue, as it is told",
        before="at once",
        after="may lag behind by some seconds",
        here="purging looks until nothing more is found",
    ),
    Difference(
        since=TELLS_CONSUMERS,
        what="a queue that is deleted and made anew at once",
        before="its consumers seem to consume the new one, and get nothing",
        after="its consumers are cancelled",
        here="a missing queue is made anew after half a second, and a consumer that got nothing "
        "for five minutes is renewed",
    ),
    Difference(
        since=(4, 3),
        what="queues that are neither durable nor exclusive",
        before="allowed; 4.0 and later log that they are deprecated",
        after="refused, unless an operator permits them",
        here="never used: what nodes listen to is exclusive, all else is durable",
    ),
)
"""In the order in which a reader of the documentation meets them."""

_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


@attrs.frozen(kw_only=True)
class Server:
    """What a broker tells of itself when a connection is opened."""

    product: str
    """``RabbitMQ``."""
    version: str
    """As it says: ``3.10.8``."""
    cluster: str = ""
    """The cluster's name."""

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Server:
        """Read it from the ``server_properties`` of a connection; what is missing is ''."""
        return cls(
            product=str(properties.get("product", "")),
            version=str(properties.get("version", "")),
            cluster=str(properties.get("cluster_name", "")),
        )

    def __str__(self) -> str:
        return f"{self.product or 'a broker without a name'} {self.version}".rstrip()

    @property
    def release(self) -> Release | None:
        """Its release; None: it is not RabbitMQ, or says no version that we understand."""
        found = _VERSION.match(self.version) if self.product == "RabbitMQ" else None
        return None if found is None else (int(found[1]), int(found[2]))

    def has(self, since: Release) -> bool:
        """Tell whether it is of a release, or of a later one; an unknown one counts as older."""
        return self.release is not None and self.release >= since

    @property
    def heeds_queue_timeout(self) -> bool:
        """Whether our queues' own consumer timeout counts."""
        return self.has(HEEDS_QUEUE_TIMEOUT)

    @property
    def tells_consumers(self) -> bool:
        """Whether consumers hear that their queue was deleted though it is there again."""
        return self.has(TELLS_CONSUMERS)

    @property
    def default_message_size(self) -> int:
        """The largest message in bytes, unless its operator chose another size."""
        return (16 if self.has(SMALL_MESSAGES) else 128) * 1024 * 1024


def timeout_warning(server: Server) -> str:
    """Say what a node should know about long jobs on this broker; '' if there is nothing."""
    if server.heeds_queue_timeout:
        return ""
    needed = ".".join(map(str, HEEDS_QUEUE_TIMEOUT))
    return (
        f"{server} does not heed the consumer timeout that queues ask for ({needed} does): its own "
        f"consumer_timeout, {DEFAULT_CONSUMER_TIMEOUT / 60:g} minutes unless it was raised, closes "
        "the channel of a job that runs longer, which goes on while its delivery, and those beside "
        "it, take a roundabout way; to spare the broker that, set "
        f"consumer_timeout = {TIMEOUT_WANTED_MS} in rabbitmq.conf"
    )
