"""What a partition remembers, loaded and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from roger_trio._brokers.embedded.open import open_memory_broker
from roger_trio._config import AmqpConfig, Config
from roger_trio._errors import PersisterError
from roger_trio._persisters import (
    BrokerPersister,
    FilePersister,
    JournalPersister,
    MemoryPersister,
    Persister,
)
from roger_trio._state import operations as o
from roger_trio._state.binding import bind_persister, cluster_name
from roger_trio._state.broker_state import BrokerState
from roger_trio._state.ledger import Ledger
from roger_trio._state.store import Store

MIB = 1024 * 1024


class Plain:
    """A user's persister: nothing but the two methods."""

    def __init__(self, kept: bytes | None = None) -> None:
        self.kept = kept
        self.calls: list[tuple[str, int]] = []
        self.fails = False

    async def load(self, partition: str) -> bytes | None:
        return self.kept

    async def save(self, partition: str, data: bytes) -> None:
        self.calls.append(("save", len(data)))
        if self.fails:
            raise OSError("no")
        self.kept = data


class Journal(Plain):
    """One that can append."""

    async def append(self, partition: str, data: bytes) -> None:
        self.calls.append(("append", len(data)))
        if self.fails:
            raise OSError("no")
        assert self.kept is not None
        self.kept += data


async def claim(store: Store, ledger: Ledger, number: int, size: int = 0) -> None:
    """Hold one more key, and save."""
    key = f"key {number}".ljust(size, "x")
    decision = ledger.handle(o.Claim(f"job {number}", key, "default", f"n{number}", "inbox"), 1.0)
    assert decision.answer == o.Claimed()
    await store.save(ledger, decision.changes)


def with_keys(count: int) -> Ledger:
    """Make a ledger that holds so many keys, none of them saved."""
    ledger = Ledger()
    for number in range(count):
        operation = o.Claim(f"job {number}", f"key {number}", "default", f"n{number}", "inbox")
        ledger.handle(operation, 1.0)
        ledger.handle(o.Published(f"job {number}", f"n{number}"), 1.0)
    return ledger


@pytest.mark.parametrize("make", [Plain, Journal, MemoryPersister])
async def test_what_is_saved_is_loaded(make: type[Plain]) -> None:
    """By any persister, over any number of lives."""
    persister = make()
    number = 0
    for _ in range(3):
        store = Store(persister, "p")
        ledger = await store.load()
        for _ in range(20):
            await claim(store, ledger, number := number + 1)
        assert await Store(persister, "p").load() == ledger


async def test_a_new_term_begins_with_the_whole() -> None:
    """Then changes are appended: what they cost does not depend on what is held."""
    persister = Journal()
    store = Store(persister, "p")
    ledger = with_keys(10_000)
    await claim(store, ledger, 10_001)
    await claim(store, ledger, 10_002)
    (first, whole), (second, one) = persister.calls
    assert (first, second) == ("save", "append")
    assert whole > 300_000
    few = Journal()
    small, store = with_keys(0), Store(few, "p")
    await claim(store, small, 10_001)
    await claim(store, small, 10_002)
    assert few.calls[1] == ("append", one)
    assert await Store(persister, "p").load() == ledger


async def test_the_journal_does_not_grow_without_end() -> None:
    """Beyond a size the whole is written again; that is the rarer the more there is."""
    persister = Journal()
    store = Store(persister, "p")
    ledger = await store.load()
    for number in range(2000):
        await claim(store, ledger, number, size=2000)
        if number >= 20:
            withdraw = o.Withdraw(f"job {number - 20}", f"n{number - 20}")
            await store.save(ledger, ledger.handle(withdraw, 2.0).changes)
    assert persister.kept is not None
    assert len(persister.kept) < 2 * MIB
    assert 1 < [kind for kind, _ in persister.calls].count("save") < 12
    assert await Store(persister, "p").load() == ledger


async def test_a_persister_may_limit_its_appends() -> None:
    """As the broker does, where each of them is a message."""
    persister = Journal()
    persister.most_appends = 5  # type: ignore[attr-defined]
    store = Store(persister, "p")
    ledger = await store.load()
    for number in range(13):
        await claim(store, ledger, number)
    kinds = [kind for kind, _ in persister.calls]
    assert kinds == ["save", *["append"] * 5, "save", *["append"] * 5, "save"]


async def test_a_plain_persister_gets_the_whole_each_time() -> None:
    """Which is what it can do."""
    persister = Plain()
    store = Store(persister, "p")
    ledger = await store.load()
    for number in range(3):
        await claim(store, ledger, number)
    assert [kind for kind, _ in persister.calls] == ["save"] * 3


async def test_no_change_costs_nothing() -> None:
    """Nothing is written for it."""
    persister = Journal()
    store = Store(persister, "p")
    await store.save(await store.load(), [])
    assert persister.calls == []


@pytest.mark.parametrize("make", [Plain, Journal])
async def test_after_a_failure_the_whole_is_saved(make: type[Plain]) -> None:
    """What may or may not have been written is made up for, even without another change."""
    persister = make()
    store = Store(persister, "p")
    ledger = await store.load()
    await claim(store, ledger, 1)
    persister.fails = True
    for number in (2, 3):
        with pytest.raises(OSError, match="no"):
            await claim(store, ledger, number)
    persister.fails = False
    await store.save(ledger, [])
    assert persister.calls[-1][0] == "save"
    assert await Store(persister, "p").load() == ledger
    count = len(persister.calls)
    await store.save(ledger, [])
    assert len(persister.calls) == count


async def test_torn_at_every_byte_nothing_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A torn end is left out with no more than a WARNING; all saves before it are there."""
    persister = Journal()
    store = Store(persister, "p")
    ledger = await store.load()
    ends: list[int] = []
    for number in range(4):
        await claim(store, ledger, number)
        assert persister.kept is not None
        ends.append(len(persister.kept))
    assert persister.kept is not None
    for length in range(len(persister.kept)):
        found = await Store(Plain(persister.kept[:length]), "p").load()
        keys = found.handle(o.ListKeys(), 1.0).answer
        assert isinstance(keys, o.Keys)
        assert len(keys.keys) == sum(end <= length for end in ends)
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("damage", ["middle", "foreign", "newer"])
async def test_damage_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """With an ERROR that tells where; what stands before it is used, and the node goes on."""
    persister = FilePersister(tmp_path)
    store = Store(persister, "p")
    ledger = await store.load()
    for number in range(4):
        await claim(store, ledger, number)
    store.close()
    [path] = _files(tmp_path, "*.state")
    data = path.read_bytes()
    if damage == "middle":
        data = data.replace(b"key 2", b"key 7")
    elif damage == "foreign":
        data = b"\x80\x04 a pickle"
    else:
        data = data.replace(b"state 1", b"state 2")
    path.write_bytes(data)
    store = Store(FilePersister(tmp_path), "p")
    found = await store.load()
    [record] = caplog.records
    [kept] = _files(tmp_path, "*.damaged-*")
    assert record.levelname == "ERROR"
    assert str(kept) in record.getMessage()
    assert "'p'" in record.getMessage()
    assert kept.read_bytes() == data
    keys = found.handle(o.ListKeys(), 1.0).answer
    assert isinstance(keys, o.Keys)
    assert [key.key for key in keys.keys] == (["key 0", "key 1"] if damage == "middle" else [])
    await claim(store, found, 9)
    assert await Store(FilePersister(tmp_path), "p").load() == found
    assert len(caplog.records) == 1


async def test_damage_is_not_set_aside_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next save repairs it, also where nothing has changed: a partition may be idle."""
    store = Store(FilePersister(tmp_path), "p")
    await claim(store, await store.load(), 1)
    store.close()
    [path] = _files(tmp_path, "*.state")
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    for _ in range(3):
        store = Store(FilePersister(tmp_path), "p")
        await store.save(await store.load(), ())
        store.close()
    assert len(caplog.records) == 1
    assert len(_files(tmp_path, "*.damaged-*")) == 1


async def test_damage_that_cannot_be_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    """The ERROR tells how much of it there was."""
    assert await Store(Plain(b"\x00" * 1234), "p").load() == Ledger()
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "1234 bytes" in record.getMessage()


async def test_what_databases_return_for_bytes() -> None:
    """A buffer is as good as bytes; anything else is an error that names it."""
    persister = Journal()
    store = Store(persister, "p")
    ledger = await store.load()
    await claim(store, ledger, 1)
    assert persister.kept is not None
    for kept in (memoryview(persister.kept), bytearray(persister.kept)):
        assert await Store(Plain(kept), "p").load() == ledger  # type: ignore[arg-type]
    with pytest.raises(PersisterError, match=r"Plain.load must return bytes or None, got .* str"):
        await Store(Plain("text"), "p").load()  # type: ignore[arg-type]


async def test_damage_and_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    """Even then the node starts, and says so."""

    class Full(Plain):
        async def set_aside(self, partition: str, data: bytes) -> str:
            raise PersisterError("no room")

    assert await Store(Full(b"???"), "p").load() == Ledger()
    assert "nowhere, as that failed: no room" in caplog.text


async def test_100_000_keys_are_loaded_in_seconds(tmp_path: Path) -> None:
    """In under 3 s on an idle machine; other partitions go on meanwhile."""
    store = Store(FilePersister(tmp_path), "p")
    await store.load()
    ledger = with_keys(100_000)
    await claim(store, ledger, 100_001)
    store.close()
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = trio.current_time()
            await trio.lowlevel.checkpoint()
            longest = max(longest, trio.current_time() - before)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            found = await Store(FilePersister(tmp_path), "p").load()
            nursery.cancel_scope.cancel()
    assert found == ledger
    assert longest < 2


# Where it is kept...


def bind(persister: Persister, **config: object) -> Persister:
    """Bind a persister to a configuration; the broker is one in memory."""
    return bind_persister(persister, Config(**config), open_memory_broker())  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["memory:", "sqlite:x.db"])
async def test_an_embedded_broker_keeps_the_state_itself(address: str) -> None:
    """Unless a place is named."""
    assert isinstance(bind(FilePersister(), broker=address), BrokerState)
    assert isinstance(bind(FilePersister("state"), broker=address), FilePersister)


async def test_with_rabbitmq_each_cluster_has_a_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same for all its nodes, whatever user they connect as."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    addresses = [
        ("amqp://rabbit", ""),
        ("amqp://ada:secret@RABBIT/?heartbeat=5", ""),
        ("amqp://rabbit/other", ""),
        ("amqp://rabbit:5673", ""),
        ("amqp://elsewhere", ""),
        ("amqp://rabbit", "a-"),
    ]
    paths: list[Path] = []
    for address, prefix in addresses:
        bound = bind(FilePersister(), broker=address, prefix=prefix)
        assert isinstance(bound, FilePersister)
        assert bound.path is not None
        assert "secret" not in str(bound.path)
        paths.append(bound.path)
    assert paths[0] == paths[1]
    assert len(set(paths)) == len(paths) - 1
    assert paths[0].name == cluster_name(AmqpConfig(host="rabbit"), "")
    assert cluster_name(AmqpConfig(), "") == cluster_name(AmqpConfig(host="127.0.0.1"), "")


async def test_prefixes_are_kept_apart(tmp_path: Path) -> None:
    """Two clusters that share a directory, or an object, do not share a state."""
    for persister in (FilePersister(tmp_path), MemoryPersister()):
        one, two = bind(persister, prefix="one"), bind(persister, prefix="two")
        await one.load("p")
        await one.save("p", b"1")
        assert await two.load("p") is None
        assert await bind(persister, prefix="one").load("p") == b"1"


async def test_the_marker_and_a_users_own() -> None:
    """`BrokerPersister` becomes the broker's; a user's object stays what it is."""
    own = Plain()
    assert bind(own) is own
    assert isinstance(bind(BrokerPersister()), BrokerState)


async def test_what_is_told_of_persisters() -> None:
    """Which of them other hosts cannot reach, and which can append."""
    own = Plain()
    found = {
        type(bound).__name__: (Store(bound, "p").stays_on_host, isinstance(bound, JournalPersister))
        for bound in [
            bind(FilePersister("x")),
            bind(MemoryPersister()),
            bind(BrokerPersister()),
            bind(own),
        ]
    }
    assert found == {
        "FilePersister": (True, True),
        "MemoryPersister": (True, True),
        "BrokerState": (False, True),
        "Plain": (False, False),
    }


def _files(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))
