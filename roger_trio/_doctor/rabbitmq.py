"""What the facts about a RabbitMQ mean for a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Final

import attrs

from .._brokers.rabbitmq.facts import RabbitFacts, Refusal
from .._brokers.rabbitmq.versions import (
    DEFAULT_CONSUMER_TIMEOUT,
    HEEDS_QUEUE_TIMEOUT,
    OLDEST,
    TIMEOUT_CANCELS,
    TIMEOUT_WANTED_MS,
)
from .findings import ByHand, Finding, counted, error, listed, ok, size, warning

_CLOCK_TOLERANCE: Final = 5.0
"""Seconds that clocks may differ."""
_MOST_HEARTBEAT: Final = 300
"""Seconds above which a dead connection is noticed late."""
_SPARE_CHANNELS: Final = 4
"""Channels of a connection that no queue consumes on: control, what is heard, looks at queues."""
_HANDLES_EACH: Final = 3
"""File handles that RabbitMQ keeps for a quorum queue."""


@attrs.frozen(kw_only=True)
class Need:
    """What a configuration asks of its broker."""

    virtual_host: str
    username: str
    prefix: str
    queues: int
    """Queues that one node consumes."""
    partitions: int
    """Partitions that it hosts."""


def judge(facts: RabbitFacts, need: Need) -> list[Finding]:
    """Judge all facts.

    Args:
        facts: What was found out.
        need: What the configuration asks for.
    """
    return [
        _version(facts),
        _consumer_timeout(facts),
        _heartbeat(facts),
        _channels(facts, need),
        _message_size(facts),
        _alarm(facts),
        _clock(facts),
        _permissions(facts.refusals, need),
        *_topology(facts),
        *_undeliverable(facts),
    ]


def by_hand(facts: RabbitFacts, need: Need) -> list[ByHand]:
    """Say what AMQP does not show, and what does."""
    vhost = quote(need.virtual_host)
    handles = _HANDLES_EACH * len(facts.queues)
    found = [
        ByHand(
            "broker.policies",
            "no policy or operator policy that sets max-length, max-length-bytes, message-ttl, "
            "expires, delivery-limit, consumer-timeout or overflow may apply to these queues",
            f"rabbitmqctl list_queues -p {vhost} name policy operator_policy "
            "effective_policy_definition",
        ),
        ByHand(
            "broker.file_handles",
            f"the limit should be 65536; the {len(facts.queues)} quorum queues of this "
            f"configuration alone need about {handles}",
            "rabbitmq-diagnostics status",
        ),
        ByHand(
            "broker.message_size",
            f"max_message_size is {size(facts.server.default_message_size)} by default; a larger "
            "job is refused with InvalidJob",
            "rabbitmqctl environment",
        ),
    ]
    if not facts.server.heeds_queue_timeout:
        found.append(
            ByHand(
                "broker.consumer_timeout",
                f"consumer_timeout should be {TIMEOUT_WANTED_MS} (milliseconds), or at least "
                "longer than the longest job",
                "rabbitmqctl environment",
            )
        )
    return found


def _version(facts: RabbitFacts) -> Finding:
    server, oldest = facts.server, ".".join(map(str, OLDEST))
    where = f"{server}, cluster {server.cluster!r}" if server.cluster else str(server)
    if server.release is None:
        return warning(
            "broker.version",
            f"{where}: not a RabbitMQ whose version is understood",
            f"expected RabbitMQ {oldest} up to 4.x; with another broker nothing is promised",
        )
    if not server.has(OLDEST):
        return error(
            "broker.version",
            f"{where}: without at-least-once dead-lettering, delayed jobs and retries can be lost",
            f"upgrade to RabbitMQ {oldest} or later",
        )
    return ok("broker.version", where)


def _consumer_timeout(facts: RabbitFacts) -> Finding:
    server, id = facts.server, "broker.consumer_timeout"
    if server.heeds_queue_timeout:
        how = (
            "its consumer is cancelled"
            if server.has(TIMEOUT_CANCELS)
            else "the channel of its queue is closed"
        )
        return ok(
            id,
            f"a job may run for {TIMEOUT_WANTED_MS / 86_400_000:g} days, unless a policy sets a "
            f"shorter consumer-timeout; then {how}, and it is delivered once more",
        )
    return warning(
        id,
        f"{server} ignores the consumer timeout that queues ask for: a job that runs longer than "
        f"its consumer_timeout, {DEFAULT_CONSUMER_TIMEOUT / 60:g} minutes by default, goes on, but "
        "the channel of its queue is closed each time, and all that it brought delivered anew",
        f"set consumer_timeout = {TIMEOUT_WANTED_MS} in rabbitmq.conf and restart the broker, or "
        f"upgrade to {'.'.join(map(str, HEEDS_QUEUE_TIMEOUT))} or later",
    )


def _heartbeat(facts: RabbitFacts) -> Finding:
    id, seconds = "broker.heartbeat", facts.heartbeat
    if not seconds:
        return warning(
            id,
            "heartbeats are off: a connection that died silently is noticed by nobody",
            "leave AmqpConfig.heartbeat at 60, and the broker's own above 0",
        )
    if seconds > _MOST_HEARTBEAT:
        return warning(
            id,
            f"every {seconds} s: a dead connection is noticed after {2 * seconds} s, and its jobs "
            "wait for that long",
            "set AmqpConfig.heartbeat to 60 or less",
        )
    return ok(id, f"every {seconds} s; a dead connection is noticed within {2 * seconds} s")


def _channels(facts: RabbitFacts, need: Need) -> Finding:
    id, most = "broker.channels", facts.channel_max
    needed = max(need.queues, need.partitions) + _SPARE_CHANNELS
    if most and needed > most:
        return error(
            id,
            f"a connection may have {counted(most, 'channel')}, and a node of this configuration "
            f"needs {needed}: not all queues can be consumed",
            "raise channel_max in rabbitmq.conf and in AmqpConfig, or spread the partitions over "
            "more nodes",
        )
    limit = f"up to {most}" if most else "any number"
    frame = f"frames up to {size(facts.frame_max)}"
    return ok(id, f"{limit} on a connection, {needed} needed; {frame}")


def _message_size(facts: RabbitFacts) -> Finding:
    largest = size(facts.server.default_message_size)
    return ok("broker.message_size", f"a job may have {largest}, unless max_message_size differs")


def _alarm(facts: RabbitFacts) -> Finding:
    id = "broker.alarm"
    if facts.blocked:
        return error(
            id,
            f"the broker takes no messages: {facts.blocked}",
            "free memory or disk on the broker's machines, or raise its watermarks: `rabbitmqctl "
            "eval 'rabbit_alarm:get_alarms().'` shows which one it is; nothing is lost meanwhile, "
            "and enqueue raises BrokerUnavailable",
        )
    if facts.unconfirmed:
        return error(
            id,
            f"a message was not confirmed: {facts.unconfirmed}",
            "look into the broker's log, and at its load",
        )
    return ok(id, "none; a message was confirmed")


def _clock(facts: RabbitFacts) -> Finding:
    id, skew = "broker.clock", facts.clock_ahead
    if skew is None:
        return ok(id, "not compared: no message could be sent through the broker")
    if abs(skew) > _CLOCK_TOLERANCE:
        return warning(
            id,
            f"the broker's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} "
            "this machine's",
            "let both follow a time server: `at=` and times in logs go by the clock of the machine",
        )
    return ok(id, "agrees with this machine's")


def _permissions(refusals: Sequence[Refusal], need: Need) -> Finding:
    id = "broker.permissions"
    if not refusals:
        return ok(id, f"user {need.username!r} may configure, write and read all that is needed")
    found = "; ".join(
        f"{permission}: {listed(names)}" for permission, names in _by_permission(refusals)
    )
    return error(
        id,
        f"user {need.username!r} lacks permissions on virtual host {need.virtual_host!r}: {found}",
        f"run: {_set_permissions(need)}",
    )


def _by_permission(refusals: Iterable[Refusal]) -> Iterable[tuple[str, list[str]]]:
    for permission in ("configure", "write", "read"):
        names = [each.name for each in refusals if each.permission == permission]
        if names:
            yield permission, names


def _set_permissions(need: Need) -> str:
    """Write the command that gives what is needed, and no more where names have a prefix."""
    start = f"rabbitmqctl set_permissions -p {quote(need.virtual_host)} {quote(need.username)} "
    if not need.prefix:
        return start + "'.*' '.*' '.*'"
    ours = "".join(f"\\{each}" if each == "." else each for each in need.prefix)
    return start + " ".join(
        quote(each)
        for each in (
            f"^({ours}|amq\\.gen)",
            f"^({ours}|amq\\.gen|amq\\.default$)",
            f"^({ours}|amq\\.gen)",
        )
    )


def _topology(facts: RabbitFacts) -> list[Finding]:
    id = "broker.topology"
    every = (*facts.queues, *facts.exchanges)
    differing = [
        error(
            id,
            f"{each.name!r} is not as roger_trio declares it: {each.difference}",
            "delete or rename what is there, or choose another prefix; drain a queue first if jobs "
            "are in it",
        )
        for each in every
        if each.difference
    ]
    missing = [each.name for each in every if not each.exists]
    if len(missing) == len(every):
        note = ok(id, "no queue or exchange is there yet; the first node makes them")
    elif missing:
        note = ok(id, f"not there yet, and made when they are needed: {listed(missing)}")
    elif differing:
        return differing
    else:
        count = f"{len(facts.queues)} queues and {len(facts.exchanges)} exchanges"
        note = ok(id, f"{count} are as they should be")
    return [*differing, note]


def _undeliverable(facts: RabbitFacts) -> list[Finding]:
    return [
        warning(
            "broker.undeliverable",
            f"{each.messages} delayed jobs are in {each.name!r}: their queues were deleted before "
            "their time came",
            "look at them on the management page; purge them, or move them with a shovel",
        )
        for each in facts.queues
        if each.name.endswith("roger.delay.unroutable") and each.messages
    ]
