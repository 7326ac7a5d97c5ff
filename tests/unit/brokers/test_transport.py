"""The frame splitter, and what the transport notices by itself."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from pamqp import commands

from roger_trio._brokers.base import ConnectionLost
from roger_trio._brokers.rabbitmq import frames
from roger_trio._brokers.rabbitmq.channels import Channel
from roger_trio._brokers.rabbitmq.consuming import ConsumeChannel
from roger_trio._brokers.rabbitmq.getting import GetChannel
from roger_trio._brokers.rabbitmq.publishing import PublishChannel
from roger_trio._brokers.rabbitmq.transport import Limits, NotAmqp, Transport
from tests.unit.brokers import wire

DATA, OTHER = 1, 2

some_frames = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([DATA, OTHER]), st.binary(max_size=50))
    | st.just((8, 0, b""))
)


def pack(kind: int, number: int, payload: bytes) -> bytes:
    """Make a frame of anything."""
    return frames.frame_head.pack(kind, number, len(payload)) + payload + b"\xce"


def feed(transport: Transport, data: bytes, cuts: list[int]) -> bytes:
    """Give `data` to the splitter, cut at the places named; return what it left over."""
    rest, start = b"", 0
    for stop in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        rest = transport._split(rest + data[start:stop])
        start = stop
    return rest


@given(some_frames, st.lists(st.integers(0, 600), max_size=30), st.binary(max_size=4))
async def test_any_chunking_gives_the_same_frames(
    sent: list[tuple[int, int, bytes]], cuts: list[int], tail: bytes
) -> None:
    """However the bytes arrive: data frames go to their channel, all others to aiormq, whole."""
    transport, recorder = wire.make_transport(), wire.Recorder()
    transport.attach(DATA, recorder)
    tail = b"\x01" + tail  # the beginning of a frame
    rest = feed(transport, b"".join(pack(*each) for each in sent) + tail, cuts)
    assert rest == tail
    assert recorder.frames == [(kind, payload) for kind, number, payload in sent if number == DATA]
    others = b"".join(pack(*each) for each in sent if each[1] != DATA)
    assert wire.left_to_aiormq(transport) == others


def attach_real_channels(transport: Transport) -> None:
    """Attach one channel of each kind, each with something under way."""
    consuming = ConsumeChannel(transport, 1)
    consuming.add("1", "queue", 10, lambda _: None)
    kinds: list[Channel] = [
        consuming,
        GetChannel(transport, 2),
        PublishChannel(transport, 3, wire.FRAME_MAX),
    ]
    for each in kinds:
        transport.attach(each.number, each)


methods = st.sampled_from(
    [value for name, value in vars(frames).items() if name.startswith(("BASIC_", "CHANNEL_CLOSE"))]
    + [frames.CONNECTION_TUNE, frames.CONNECTION_CLOSE, frames.CONNECTION_BLOCKED]
)
payloads = st.binary(max_size=40) | st.builds(
    lambda method, rest: frames.method_id.pack(method) + rest, methods, st.binary(max_size=40)
)
malformed = st.lists(
    st.builds(pack, st.sampled_from([1, 2, 3, 8]), st.integers(0, 4), payloads)
    | st.binary(max_size=12),
    max_size=12,
)


@given(malformed)
async def test_malformed_bytes_end_the_connection_at_most(sent: list[bytes]) -> None:
    """Whatever a peer sends, the splitter raises nothing but that the connection is lost."""
    transport = wire.make_transport()
    attach_real_channels(transport)
    with contextlib.suppress(ConnectionLost):
        feed(transport, b"".join(sent), [])


async def test_a_confirm_for_all_there_ever_was_is_bounded() -> None:
    """A confirm of a number far above those sent does not keep us busy for years."""
    transport = wire.make_transport()
    attach_real_channels(transport)
    transport._split(wire.frame(commands.Basic.Ack(2**62, multiple=True), 3))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak AMQP"),
        (b"AMQP\x00\x00\x09\x01", "does not speak AMQP"),
        (pack(1, 0, b"abcd")[:-1] + b"!", "no AMQP 0-9-1 frame"),
        (pack(1, 0, b""), "no AMQP 0-9-1 frame"),
        (b"\x01\x00\x00\xff\xff\xff\xff!", "a frame of 4294967295 bytes"),
    ],
)
async def test_other_protocols_are_recognised(data: bytes, complaint: str) -> None:
    """What is no AMQP is said to be none; a gigantic frame is not waited for."""
    with pytest.raises(NotAmqp, match=complaint):
        wire.make_transport()._split(data)


async def test_our_frame_limit_counts_once_tuned() -> None:
    """After the tuning, aiormq sees our limits, and a larger frame ends the connection."""
    transport = wire.make_transport(Limits(channel_max=5, frame_max=4096))
    transport._split(wire.frame(commands.Connection.Tune(2047, 131072, 60), 0))
    [(_, tune)] = wire.unmarshal_all(wire.left_to_aiormq(transport))
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (5, 4096, 60)
    with pytest.raises(NotAmqp, match="a frame of 5000 bytes"):
        transport._split(frames.frame_head.pack(3, 1, 5000) + b"x")


async def test_a_close_by_the_broker_is_answered_and_kept() -> None:
    """Once established, the broker's close is answered by us; aiormq sees a heartbeat instead."""
    transport = wire.make_transport()
    transport._split(wire.frame(commands.Connection.OpenOk(), 0))
    seen = wire.left_to_aiormq(transport)
    transport._split(wire.frame(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0))
    assert wire.written(transport) == wire.frame(commands.Connection.CloseOk(), 0)
    assert wire.left_to_aiormq(transport) == seen + wire.HEARTBEAT
    assert str(transport.close_reason) == "320 CONNECTION_FORCED"
    assert transport.is_closing


async def test_a_detached_channel_leaves_its_successor_alone() -> None:
    """A channel that ends late does not take the frames of the next one of its number."""
    transport, old, new = wire.make_transport(), wire.Recorder(), wire.Recorder()
    transport.attach(DATA, old)
    transport.attach(DATA, new)
    transport.detach(DATA, old)
    transport._split(pack(1, DATA, b"payload"))
    assert new.frames == [(1, b"payload")]
    transport.detach(DATA, new)
    transport._split(pack(1, DATA, b"payload"))
    assert wire.left_to_aiormq(transport) == pack(1, DATA, b"payload")


async def test_flush_waits_for_what_was_written_before_it_only() -> None:
    """While others keep writing, flush returns as soon as what it is about has been sent."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    transport = Transport(ours, wire.NoLoop(), limits=Limits(), silence_limit=None)  # type: ignore[arg-type]
    flushed = trio.Event()

    async def flush() -> None:
        await transport.flush()
        flushed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run)
        transport.write(b"first")
        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        assert not flushed.is_set()
        transport.write(b"second")
        with trio.fail_after(5):
            assert await theirs.receive_some(5) == b"first"
            await flushed.wait()
        transport.abort("the test is over")


async def test_the_end_reaches_everybody() -> None:
    """When the peer goes, channels, flushers and writers learn why, and nobody hangs."""
    ours, theirs = trio.testing.memory_stream_pair()
    transport = Transport(ours, wire.NoLoop(), limits=Limits(), silence_limit=None)  # type: ignore[arg-type]
    recorder = wire.Recorder()
    transport.attach(DATA, recorder)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.run)
            await theirs.aclose()
            lost = await transport.wait_ended()
            await transport.flush()
            await transport.wait_room()
            await transport.wait_unblocked()
    assert recorder.lost is lost
    assert "ended the connection" in str(lost)
    with pytest.raises(ConnectionLost, match="ended the connection"):
        transport.write(b"late")


async def test_silence_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that says nothing for the silence limit, and the time to look, is lost."""
    ours, _theirs = trio.testing.memory_stream_pair()
    transport = Transport(ours, wire.NoLoop(), limits=Limits(), silence_limit=4.0)  # type: ignore[arg-type]
    began = trio.current_time()
    await transport.run()
    assert 4.0 <= trio.current_time() - began <= 6.0
    assert "silent for 4 s" in str(transport.lost)


async def test_aiormq_is_shown_life_while_only_data_flows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With nothing but data arriving, aiormq is given a heartbeat about once a second."""
    ours, theirs = trio.testing.memory_stream_pair()
    transport = Transport(ours, wire.NoLoop(), limits=Limits(), silence_limit=None)  # type: ignore[arg-type]
    transport.attach(DATA, wire.Recorder())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run)
        for _ in range(50):
            await theirs.send_all(pack(3, DATA, b"data"))
            await trio.sleep(0.1)
        transport.abort("the test is over")
    count, rest = divmod(len(wire.left_to_aiormq(transport)), len(wire.HEARTBEAT))
    assert rest == 0
    assert 4 <= count <= 5
