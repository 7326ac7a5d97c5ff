"""What can be found out about a RabbitMQ over AMQP alone: plain values, judged elsewhere."""

from __future__ import annotations

import attrs

from .versions import Server


@attrs.frozen(kw_only=True)
class Declared:
    """A queue or an exchange that we need."""

    name: str
    exists: bool
    messages: int = 0
    """Ready in it, if it is a queue."""
    difference: str = ""
    """How it differs from what we declare, both sides named; '' if it does not."""


@attrs.frozen
class Refusal:
    """Something that this user is not allowed to do."""

    permission: str
    """``configure``, ``write`` or ``read``."""
    name: str
    """Of what, as `rabbitmqctl set_permissions` matches it."""
    words: str
    """The broker's."""


@attrs.frozen(kw_only=True)
class RabbitFacts:
    """A broker, as one connection sees it."""

    server: Server
    channel_max: int
    """Channels that one connection may have; 0: as many as it likes."""
    frame_max: int
    """Bytes of the largest frame."""
    heartbeat: int
    """Seconds that were agreed upon; 0: none."""
    queues: tuple[Declared, ...] = ()
    exchanges: tuple[Declared, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    blocked: str = ""
    """Why it takes no messages now, in its words: an alarm."""
    unconfirmed: str = ""
    """Why a message was not confirmed for another reason."""
    clock_ahead: float | None = None
    """Seconds its clock is ahead of ours, as far as can be told to a second; None: not at all."""


@attrs.frozen
class Unreachable:
    """There is no connection to be had."""

    reason: str
    is_refusal: bool
    """Whether the broker answered, and will not have us."""
