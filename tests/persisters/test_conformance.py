"""What every persister must do, and what those must that can append."""

from __future__ import annotations

import pytest
import trio

from roger_trio._errors import PersisterError
from roger_trio._persisters import JournalPersister
from roger_trio._state.broker_state import CHUNK
from tests.conformance.kit import PATIENCE
from tests.persisters.conftest import OwnPersister, Place

LARGE = b"0123456789abcdef" * (CHUNK // 8) + b"end"


async def test_nothing_is_kept_at_first(place: Place) -> None:
    """A partition that was never saved has no state."""
    with trio.fail_after(PATIENCE):
        assert await place.open().load(place.partition) is None
        assert await place.open().load(place.partition) is None


@pytest.mark.parametrize("data", [b"", b"x", b"a\nb\0\xff", LARGE], ids=["0", "1", "odd", "large"])
async def test_what_is_saved_is_loaded(place: Place, data: bytes) -> None:
    """Any bytes, by the one who saved them and by others, as often as they like."""
    with trio.fail_after(PATIENCE):
        first = place.open()
        await first.load(place.partition)
        await first.save(place.partition, b"before" * 100)
        await first.save(place.partition, data)
        assert await first.load(place.partition) == data
        assert await place.open().load(place.partition) == data
        assert await place.open().load(place.partition) == data


async def test_loading_again_makes_it_ones_own_again(place: Place) -> None:
    """Two take turns: whoever loads goes on from what the other one saved."""
    with trio.fail_after(PATIENCE):
        one, two = place.open(), place.open()
        kept = b""
        for number, persister in enumerate([one, two, one, two]):
            assert (await persister.load(place.partition) or b"") == kept
            kept += b"%d" % number
            await persister.save(place.partition, kept)


async def test_partitions_are_kept_apart(place: Place) -> None:
    """However alike their names are."""
    names = [f"{place.partition}{end}" for end in ("", "/", "_", ".", "..")]
    if place.kit is not None:
        names = names[:2]  # queues, not files
    with trio.fail_after(PATIENCE):
        persister = place.open()
        for name in names:
            assert await persister.load(name) is None
            await persister.save(name, name.encode())
        for name in names:
            assert await place.open().load(name) == name.encode()


async def test_what_is_appended_follows(place: Place) -> None:
    """In order, behind what was saved last; a save replaces it."""
    with trio.fail_after(PATIENCE):
        persister = place.open()
        if not isinstance(persister, JournalPersister):
            assert isinstance(persister, OwnPersister)
            return
        await persister.load(place.partition)
        await persister.save(place.partition, b"<")
        for number in range(30):
            await persister.append(place.partition, b"%d," % number)
        expected = b"<" + b"".join(b"%d," % number for number in range(30))
        other = place.open()
        assert await other.load(place.partition) == expected
        assert isinstance(other, JournalPersister)
        await other.save(place.partition, b">")
        assert await place.open().load(place.partition) == b">"
        third = place.open()
        assert isinstance(third, JournalPersister)
        await third.load(place.partition)
        await third.save(place.partition, b">>")
        await third.append(place.partition, b"")
        await third.append(place.partition, b"!")
        assert await place.open().load(place.partition) == b">>!"


async def test_who_was_superseded_changes_nothing(place: Place) -> None:
    """A process that was frozen, and goes on after another one took over, is found out."""
    with trio.fail_after(PATIENCE):
        stale, successor = place.open(), place.open()
        if place.kit is None and not hasattr(stale, "set_aside"):
            return  # kept in memory: there are no two processes
        await stale.load(place.partition)
        await stale.save(place.partition, b"old")
        assert await successor.load(place.partition) == b"old"
        await successor.save(place.partition, b"new")
        assert isinstance(stale, JournalPersister)
        if place.kit is None:
            with pytest.raises(PersisterError, match="taken over by another process"):
                await stale.append(place.partition, b" and more")
        else:
            await stale.append(place.partition, b" and more")  # it counts for nothing
        with pytest.raises(PersisterError, match="taken over by another process"):
            await stale.save(place.partition, b"stale")
        assert await place.open().load(place.partition) == b"new"


async def test_who_was_superseded_is_void_before_the_first_save(place: Place) -> None:
    """Loading takes over: it needs no save to keep the former one out."""
    with trio.fail_after(PATIENCE):
        stale, successor = place.open(), place.open()
        if place.kit is None and not hasattr(stale, "set_aside"):
            return  # kept in memory: there are no two processes
        await stale.load(place.partition)
        await stale.save(place.partition, b"old")
        await successor.load(place.partition)
        with pytest.raises(PersisterError, match="taken over by another process"):
            await stale.save(place.partition, b"stale")
        await successor.save(place.partition, b"new")
        assert await place.open().load(place.partition) == b"new"


async def test_a_cancelled_save_leaves_one_or_the_other(place: Place) -> None:
    """However early it is cancelled, what is loaded then is whole, and saving goes on."""
    old, new = b"old" * 1000, b"new" * (CHUNK // 2)
    with trio.fail_after(60):
        for milliseconds in (0, 1, 3, 8, 20):
            persister = place.open()
            await persister.load(place.partition)
            await persister.save(place.partition, old)
            with trio.move_on_after(milliseconds / 1000):
                await persister.save(place.partition, new)
            assert await place.open().load(place.partition) in {old, new}
            again = place.open()
            await again.load(place.partition)
            await again.save(place.partition, old)
            assert await place.open().load(place.partition) == old
