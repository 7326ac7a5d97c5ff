"""Declaring queues: what is there already, and what is made."""

from __future__ import annotations

import pytest
import trio

from roger_trio._brokers.base import Broker, QueueRefused, QueueSpec
from tests.conformance.kit import PATIENCE, Kit


def _specs(kit: Kit) -> list[QueueSpec]:
    """Name a queue of each kind; the dead-letter target comes first."""
    target = QueueSpec(name=kit.new_name())
    return [
        target,
        QueueSpec(name=kit.new_name(), dead_letter=target.name, takes_delayed=True),
        QueueSpec(name=kit.new_name(), single_active=True),
        QueueSpec(name=kit.new_name(), forwards=True),
    ]


async def test_the_new_ones_are_named_once(kit: Kit) -> None:
    """Only the call that makes a queue names it; no later one does, nor another broker's."""
    specs = _specs(kit)
    with trio.fail_after(PATIENCE):
        assert await kit.broker.declare([]) == frozenset()
        assert await kit.broker.declare(specs[:1]) == {specs[0].name}
        assert await kit.broker.declare(specs) == {each.name for each in specs[1:]}
        assert await kit.broker.declare(specs) == frozenset()
        assert await kit.broker.declare(specs, afresh=True) == frozenset()
        async with kit.other_broker() as other:
            assert await other.declare(specs) == frozenset()


async def test_a_lost_connection_makes_nothing_new(kit: Kit) -> None:
    """Queues are not taken for new because the connection is."""
    specs = _specs(kit)
    with trio.fail_after(PATIENCE):
        await kit.broker.declare(specs)
        await kit.lose_connection()
        assert await kit.broker.declare(specs, afresh=True) == frozenset()


async def test_of_two_at_once_somebody_makes_it(kit: Kit) -> None:
    """However many declare a queue at the same moment, at least one of them is told."""
    specs = _specs(kit)
    made: list[str] = []

    async def declare(broker: Broker) -> None:
        made.extend(await broker.declare(specs))

    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other, trio.open_nursery() as nursery:
            for broker in (kit.broker, other, kit.broker, other):
                nursery.start_soon(declare, broker)
    assert set(made) == {each.name for each in specs}


async def test_one_that_was_deleted_is_new_again(kit: Kit) -> None:
    """A queue that was deleted behind our back is made anew, if asked to look."""
    specs = _specs(kit)
    with trio.fail_after(PATIENCE):
        await kit.broker.declare(specs)
        await kit.delete_queue(specs[2].name)
        assert await kit.broker.declare(specs) == frozenset()
        assert await kit.broker.declare(specs, afresh=True) == {specs[2].name}


async def test_those_before_a_refused_one_are_named_by_the_next_call(kit: Kit) -> None:
    """A call that fails half way names nothing; the next one says what that had made."""
    first, plain = QueueSpec(name=kit.new_name()), QueueSpec(name=kit.new_name())
    otherwise = QueueSpec(name=plain.name, single_active=True)
    with trio.fail_after(PATIENCE):
        async with kit.other_broker() as other:
            await other.declare([plain])
        with pytest.raises(QueueRefused, match=plain.name):
            await kit.broker.declare([first, otherwise])
        assert await kit.broker.declare([first, plain]) == {first.name}
