"""Promise 14: payloads are data; no name from the wire makes anything be imported."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import trio

import roger_trio as roger
from tests.promises.support import (
    Hub,
    Outsider,
    Setup,
    eventually,
    note,
    on_every_broker,
    serving,
)

TRAP = "roger_trap_for_imports"
NAMES = (
    "os:system",
    "os.system",
    "builtins:eval",
    "json.tool:main",
    "antigravity:x",
    "this:s",
    "turtle:Turtle.forward",
    "__main__:main",
    "roger_trio._cli:main",
    "tests.unit.jobs.sample_types:Sample",
    f"{TRAP}:run",
    TRAP,
    f"./{TRAP}.py:run",
    "/etc/passwd",
    "..:..",
    ":",
    "a:b:c",
    "a\x00b:c",
    "__import__('os').system('true')",
    "{0.__class__}",
    "%s%n",
    "note",
    "\N{GREEK SMALL LETTER OMICRON}s:system",
)


def _wire(name: str, args: dict[str, object] | None = None) -> bytes:
    return json.dumps({"roger": 1, "id": f"id {name}", "name": name, "args": args or {}}).encode()


def _kind(envelope: roger.Envelope) -> str:
    assert envelope.error is not None
    return envelope.error.type.rpartition(":")[2]


async def _buried(outsider: Outsider, setup: Setup, count: int) -> bool:
    return (await outsider.count(setup.names()[2])).messages == count


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trio.Path:
    """Put a module on the path that leaves a file behind when it is imported."""
    sprung = tmp_path / "sprung"
    text = f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\n\ndef run(): pass\n"
    (tmp_path / f"{TRAP}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return trio.Path(sprung)


@on_every_broker
async def test_names_from_the_wire_import_nothing_and_end_as_unknown(
    setup: Setup, outsider: Outsider, trap: trio.Path
) -> None:
    """Names of modules, paths and code are looked up, not found, retried, buried, and replayed."""
    work, _, _ = setup.names()
    async with serving(setup.config(retry_levels=(0,))) as node:
        # What a burial itself needs is imported now.
        await outsider.publish(work, _wire("nobody:knows"))
        await eventually(lambda: _buried(outsider, setup, 1))
        await node.purge_buried(setup.partition, "default")
        before = set(sys.modules)
        for name in NAMES:
            await outsider.publish(work, _wire(name))
        await eventually(lambda: _buried(outsider, setup, len(NAMES)))
        found = await node.buried_jobs(setup.partition, "default")
        for each in found:
            with pytest.raises(roger.UnknownJob):
                each.load()
        await eventually(lambda: _buried(outsider, setup, len(NAMES)))  # The look has ended.
        with trio.fail_after(20):
            assert await node.replay_buried(setup.partition, "default") == len(NAMES)
        await eventually(lambda: _buried(outsider, setup, len(NAMES)))
        assert set(sys.modules) == before
    assert {each.name for each in found} == set(NAMES)
    assert {_kind(each) for each in found} == {"UnknownJob"}
    assert all(each.error and repr(each.name) in each.error.message for each in found)
    assert {each.retry_count for each in found} == {1}
    assert not await trap.exists()


class Explosive:
    """Unpickled, it would import the trap."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__, (TRAP,)


@on_every_broker
async def test_arguments_and_payloads_that_other_readers_would_execute_are_data(
    setup: Setup, hub: Hub, outsider: Outsider, trap: trio.Path
) -> None:
    """A pickle is no job, and objects with the magic words of other formats do not fit."""
    work, _, _ = setup.names()
    magic: dict[str, object] = {
        "__class__": f"{TRAP}.run",
        "py/object": f"{TRAP}.run",
        "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["true"]}],
        "!!python/object/apply": f"{TRAP}.run",
        "$type": TRAP,
    }
    fits = f"!!python/object/apply:{TRAP}.run []"
    async with serving(setup.config(retry_levels=())) as node:
        await outsider.publish(work, b"no job")
        await outsider.publish(work, _wire(note.options.name, {"hub": 1}))
        await eventually(lambda: _buried(outsider, setup, 2))
        await node.purge_buried(setup.partition, "default")
        before = set(sys.modules)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            await outsider.publish(work, pickle.dumps(Explosive(), protocol))
        await outsider.publish(work, _wire(note.options.name, {"hub": magic}))
        await outsider.publish(work, _wire(note.options.name, {"hub": hub.name, **magic}))
        await outsider.publish(work, _wire(note.options.name, {"hub": hub.name, "tag": fits}))
        await eventually(lambda: _buried(outsider, setup, pickle.HIGHEST_PROTOCOL + 3))
        with trio.fail_after(10):
            await hub.wait("ran", tag=fits)
        assert set(sys.modules) == before
        found = await node.buried_jobs(setup.partition, "default")
    assert [each.name for each in found].count("") == pickle.HIGHEST_PROTOCOL + 1
    assert [_kind(each) for each in found if each.name] == ["InvalidJob"] * 2
    assert not await trap.exists()
