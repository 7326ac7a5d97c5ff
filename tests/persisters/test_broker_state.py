"""State in a broker's queue: what interrupted saves, repeated messages and lost connections do."""

from __future__ import annotations

import random

import attrs
import pytest
import trio

from roger_trio._brokers.base import Message
from roger_trio._errors import PersisterError
from roger_trio._persisters import BrokerPersister
from roger_trio._state.broker_state import BrokerState
from roger_trio._state.entries import Entry, Found, Version, assemble, is_obsolete
from tests.conformance.kit import PATIENCE, settles_at
from tests.persisters.conftest import Place

OLD, NEW = Version(3, "b", 7), Version(3, "b", 8)
STATE = [
    Entry("mark", Version(0, "x")),
    Entry("claim", Version(3, "b")),
    Entry("save", OLD, 0, 2, b"ol"),
    Entry("save", OLD, 1, 2, b"d,"),
    *(Entry("append", OLD, number, 0, b"%d" % number) for number in range(1, 12)),
    Entry("save", NEW, 0, 3, b"n"),
    Entry("save", NEW, 2, 3, b"w"),
]
LAST = Entry("save", NEW, 1, 3, b"e")


def state_of(place: Place) -> BrokerState:
    """Open a place that is a broker."""
    state = place.open()
    assert isinstance(state, BrokerState)
    return state


def queue_of(place: Place) -> str:
    """Return the queue of a place that is a broker."""
    return f"{state_of(place)._prefix}{place.partition}-.state"


async def ready(place: Place) -> int:
    """Count the messages of the state."""
    return (await place.broker.count(queue_of(place))).messages


def test_an_interrupted_save_leaves_the_older_one() -> None:
    """Its pieces count for nothing until all of them are there."""
    assert assemble(STATE) == Found(b"old,1234567891011", OLD, 3, 0)
    assert assemble([*STATE, LAST]) == Found(b"new", NEW, 3, 0)


def test_the_order_does_not_matter() -> None:
    """A broker may hand messages out in another order, and more than once."""
    shuffler = random.Random(7)
    for _ in range(100):
        entries = STATE * 2
        shuffler.shuffle(entries)
        assert assemble(entries) == assemble(STATE)


def test_a_stale_process_counts_for_nothing() -> None:
    """What it writes in its old term does not matter once there is a save of a later one."""
    later = Version(4, "a", 1)
    stale = [
        Entry("append", NEW, 1, 0, b"!"),
        Entry("save", Version(3, "b", 9), 0, 1, b"stale"),
    ]
    entries = [*STATE, LAST, Entry("save", later, 0, 1, b"successor"), *stale]
    assert assemble(entries).data == b"successor"
    assert all(is_obsolete(entry, later) for entry in [*STATE, LAST, *stale])


def test_an_append_that_did_not_get_through_leaves_no_gap() -> None:
    """It was reported as failed; those after it count."""
    entries = [Entry("save", OLD, 0, 1, b""), *(Entry("append", OLD, n, 0, b"x") for n in (1, 3))]
    assert assemble(entries).data == b"xx"


def test_what_lacks_its_save_is_lost_and_told() -> None:
    """Changes that belong to a save that is gone are counted."""
    assert assemble([Entry("append", OLD, 1, 0, b"x")]) == Found(None, Version(0, ""), 3, 1)
    entries = [Entry("save", OLD, 0, 1, b"old"), Entry("append", NEW, 1, 0, b"x")]
    assert assemble(entries) == Found(b"old", OLD, 3, 1)


async def test_a_purged_queue_is_an_error_in_the_log(
    in_broker: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is loaded, and an ERROR tells the queue and how much is lost."""
    with trio.fail_after(PATIENCE):
        state = state_of(in_broker)
        await state.load(in_broker.partition)
        await state.save(in_broker.partition, b"x")
        await settles_at(1, lambda: ready(in_broker))
        await in_broker.broker.purge(queue_of(in_broker))
        await state.append(in_broker.partition, b"y")
        assert await state.load(in_broker.partition) is None
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert queue_of(in_broker) in record.getMessage()


async def test_the_queue_does_not_grow(in_broker: Place) -> None:
    """A save removes what it replaces; loading leaves but its claim."""
    with trio.fail_after(60):
        for _ in range(3):
            state = state_of(in_broker)
            await state.load(in_broker.partition)
            await state.save(in_broker.partition, b"x")
            for number in range(200):
                await state.append(in_broker.partition, b"%d" % number)
            await state.save(in_broker.partition, b"y")
            await settles_at(1, lambda: ready(in_broker))
        await state_of(in_broker).load(in_broker.partition)
        await state_of(in_broker).load(in_broker.partition)
        await settles_at(3, lambda: ready(in_broker))  # and two claims


async def test_foreign_messages_are_dropped(
    in_broker: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """With an ERROR; the state stays."""
    foreign = [
        Message(b"hello"),
        Message(b"x", headers={"roger-state": "sav"}),
        Message(b"x", headers={"roger-state": 7}),
        Message(b"x", headers={"roger-state": "claim", "term": 2**63 - 1}),
        Message(b"x", headers={"roger-state": "save", "term": 9, "parts": -1}),
    ]
    with trio.fail_after(PATIENCE):
        state = state_of(in_broker)
        await state.load(in_broker.partition)
        await state.save(in_broker.partition, b"x")
        await in_broker.broker.publish_many(queue_of(in_broker), foreign)
        odd = Message(b"x", headers={"roger-state": "save", "term": "9", "parts": 2**53})
        await in_broker.broker.publish(queue_of(in_broker), odd)
        assert await state_of(in_broker).load(in_broker.partition) == b"x"
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == len(foreign)


async def test_a_term_that_has_no_successor_does_not_end_all_saving(in_broker: Place) -> None:
    """Anybody may say that it is the highest there is; the state is saved and loaded all the same.

    The one after it could not be written into a header, so no load would ever end well again.
    """
    with trio.fail_after(PATIENCE):
        await state_of(in_broker).load(in_broker.partition)
        last = Message(b"", headers={"roger-state": "claim", "term": 2**63 - 1, "token": "a"})
        await in_broker.broker.publish(queue_of(in_broker), last)
        state = state_of(in_broker)
        await state.load(in_broker.partition)
        await state.save(in_broker.partition, b"x")
        assert await state_of(in_broker).load(in_broker.partition) == b"x"


def test_a_save_of_very_many_pieces_is_just_not_complete() -> None:
    """That there are so many is said in a header; it costs neither time nor memory."""
    assert assemble([*STATE, Entry("save", Version(9, "z", 1), 0, 2**53, b"x")]).version == OLD


async def test_lost_connections_lose_nothing(in_broker: Place) -> None:
    """Whatever goes on while they are lost comes to its end once they are back."""
    is_over = trio.Event()

    async def cut() -> None:
        assert in_broker.kit is not None
        for _ in range(3):
            await trio.sleep(0.2)  # somewhere in the middle
            await in_broker.kit.lose_connection()
            await in_broker.broker.wait_connected()
        is_over.set()

    with trio.fail_after(90):
        await state_of(in_broker).load(in_broker.partition)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            kept, number = b"", 0
            while not is_over.is_set():
                state = state_of(in_broker)
                assert (await state.load(in_broker.partition) or b"") == kept
                await state.save(in_broker.partition, kept)
                for _ in range(5):
                    more = b"%d " % (number := number + 1)
                    await state.append(in_broker.partition, more)
                    kept += more
        assert await state_of(in_broker).load(in_broker.partition) == kept


async def test_many_can_load_at_once(in_broker: Place) -> None:
    """One after the other: each begins a term of its own, and the last one may save."""
    states = [state_of(in_broker) for _ in range(5)]
    with trio.fail_after(60):
        await states[0].load(in_broker.partition)
        await states[0].save(in_broker.partition, b"x")
        async with trio.open_nursery() as nursery:
            for state in states:
                nursery.start_soon(state.load, in_broker.partition)
        terms = sorted(state._held[in_broker.partition].version.term for state in states)
        assert terms == [2, 3, 4, 5, 6]
        for state in states:
            if state._held[in_broker.partition].version.term == 6:
                await state.save(in_broker.partition, b"last")
            else:
                with pytest.raises(PersisterError, match="taken over"):
                    await state.save(in_broker.partition, b"stale")
        assert await state_of(in_broker).load(in_broker.partition) == b"last"


async def test_the_order_of_use_is_checked(in_broker: Place) -> None:
    """Saving needs a load, and adding a save: errors in the caller, told at once."""
    state = state_of(in_broker)
    with trio.fail_after(PATIENCE):
        with pytest.raises(PersisterError, match="load its state before"):
            await state.save(in_broker.partition, b"")
        await state.load(in_broker.partition)
        with pytest.raises(PersisterError, match="save the state before"):
            await state.append(in_broker.partition, b"")


async def test_the_marker_itself_keeps_nothing() -> None:
    """Used outside a node it says what to do with it."""
    with pytest.raises(RuntimeError, match=r"give it to Config\(persister=...\)"):
        await BrokerPersister().load("p")
    with pytest.raises(RuntimeError, match=r"give it to Config\(persister=...\)"):
        await BrokerPersister().save("p", b"")


def test_versions_are_ordered_as_written() -> None:
    """By term first."""
    assert Version(1, "z", 9) < Version(2, "a", 1) < Version(2, "a", 2)
    assert attrs.evolve(NEW, number=7) == OLD
