"""A TCP stream with fewer turns of the loop is still a stream."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from roger_trio._brokers.rabbitmq.quick import QuickStream

MUCH = 8 * 1024 * 1024
"""Bytes that the kernel does not take at once."""


async def pair() -> tuple[QuickStream, trio.SocketStream]:
    """Connect over TCP."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.testing.open_stream_to_socket_listener(listeners[0])
    server = await listeners[0].accept()
    await listeners[0].aclose()
    return QuickStream(client), server


async def test_bytes_pass_both_ways() -> None:
    """What is sent arrives."""
    quick, other = await pair()
    with trio.fail_after(5):
        await quick.send_all(b"there")
        assert await other.receive_some() == b"there"
        await other.send_all(b"and back")
        assert await quick.receive_some(3) == b"and"
        assert await quick.receive_some(100) == b" back"
        await other.aclose()
        assert await quick.receive_some(100) == b""
        await quick.aclose()


async def test_more_than_the_kernel_takes_at_once_is_sent_whole() -> None:
    """The rest follows as there is room."""
    quick, other = await pair()
    data = bytes(range(256)) * (MUCH // 256)
    got = bytearray()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick.send_all, data)
            await trio.testing.wait_all_tasks_blocked()
            while len(got) < MUCH:
                got += await other.receive_some()
    assert got == data
    await quick.aclose()
    await other.aclose()


async def test_reading_can_be_cancelled_and_goes_on() -> None:
    """Nothing is lost by a wait that was given up."""
    quick, other = await pair()
    with trio.move_on_after(0):
        await quick.receive_some(10)
    await other.send_all(b"later")
    with trio.fail_after(5):
        assert await quick.receive_some(10) == b"later"
    await quick.aclose()
    await other.aclose()


async def test_a_peer_that_resets_breaks_the_stream() -> None:
    """Reading and writing end with Trio's error for it."""
    quick, other = await pair()
    other.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await other.aclose()
    with trio.fail_after(5):
        with pytest.raises(trio.BrokenResourceError):
            await quick.receive_some(10)
        with pytest.raises(trio.BrokenResourceError):
            await quick.send_all(b"x")
    await quick.aclose()


async def test_a_closed_stream_says_so() -> None:
    """Also to who waits on it."""
    quick, other = await pair()

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await quick.receive_some(10)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await quick.aclose()
        for use in (partial(quick.receive_some, 1), partial(quick.send_all, b"x")):
            with pytest.raises(trio.ClosedResourceError):
                await use()
    await other.aclose()
