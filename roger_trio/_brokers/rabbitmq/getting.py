"""Taking single messages from the head of a queue, to look at them or to move them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final, Protocol

import trio

from ..base import BrokerError, ConnectionLost, TooManyMessages
from . import frames
from .channels import Channel, RabbitDelivery
from .transport import Transport

_GET_TIMEOUT: Final = 30.0
PAGE: Final = 32
"""Messages that one channel takes at most."""


class TakenDelivery(RabbitDelivery):
    """A message that was taken; what is decided about it is sent by `Browse.settle`."""

    settlement: Callable[[int, int], bytes] = staticmethod(frames.nack)
    """What makes the frame that settles it."""

    @property
    def goes_back(self) -> bool:
        """Whether it is put back where it was."""
        return self.settlement is frames.nack

    def _settle(self, make: Callable[[int, int], bytes]) -> None:
        self._channel.check_open()
        self.mark_settled()
        self.settlement = make


class GetChannel(Channel):
    """Takes messages from the head of a queue by pipelined ``basic.get``."""

    def __init__(self, transport: Transport, number: int) -> None:
        super().__init__(transport, number)
        self._queue = ""
        self._awaited = 0
        self._taken: list[TakenDelivery] = []
        self._answered = trio.Event()

    async def take(self, queue: str, limit: int) -> list[TakenDelivery]:
        """Take up to `limit` messages, at least 1; fewer when the queue has no more ready."""
        self._queue, self._awaited, self._taken = queue, limit, []
        self._answered = trio.Event()
        self.write(frames.get(self.number, queue) * limit)
        # To the end even when cancelled: what is given back by closing the channel under it
        # would change its place in the queue.
        with trio.move_on_after(_GET_TIMEOUT, shield=True):
            await self._answered.wait()
        if self.closed is not None:
            raise self.closed
        if self._awaited:
            raise ConnectionLost(f"the broker did not answer within {_GET_TIMEOUT:g} s")
        return self._taken

    def on_method(self, method: int, payload: bytes) -> bool:
        """Take the answers to a get."""
        if method == frames.BASIC_GET_OK:
            self.expect_content(payload)
            return True
        if method == frames.BASIC_GET_EMPTY:
            self._count()
            return True
        return False

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Keep a message that was got."""
        number, redelivered = frames.tag_and_flag.unpack_from(method, 4)
        self._taken.append(
            TakenDelivery(self, number, self._queue, bool(redelivered & 1), method, header, body)
        )
        self._count()

    def on_end(self, error: BrokerError) -> None:
        """Wake who waits for answers."""
        self._answered.set()

    def _count(self) -> None:
        self._awaited -= 1
        if self._awaited == 0:
            self._answered.set()

    def settle(self, taken: Sequence[TakenDelivery]) -> int:
        """Settle what was taken as was decided, and give the rest back in order.

        Returns:
            How many were given back.
        """
        if self.closed is not None:
            return 0
        for each in taken:
            self.write(each.settlement(self.number, each.tag))
        return sum(each.goes_back for each in taken)


class Getters(Protocol):
    """What channels to take messages on come from: a connection."""

    @property
    def room_to_get(self) -> int:
        """How many messages a look may ask for now, at `PAGE` on a channel."""
        ...

    @property
    def may_get_more(self) -> bool:
        """Whether a look may take a page that nobody asked it for."""
        ...

    def open_getter(self) -> AbstractAsyncContextManager[GetChannel]:
        """Open a channel to take single messages on; at exit its unsettled ones go back."""
        ...


class Browse:
    """Messages taken from the head of a queue, a page of them on each channel.

    To a quorum queue each message that was got is a matter of its own, and a channel has 32
    settlements on their way at most; the others wait, lose their order, and are lost when the
    channel is closed. So a channel never holds more, and is closed before the next one settles.

    Args:
        getters: Opens channels.
        queue: The queue.
        given_back: How many messages the last look at this queue gave back.
    """

    def __init__(self, getters: Getters, queue: str, given_back: int) -> None:
        self._getters = getters
        self._queue = queue
        self._given_back = given_back
        self._pages: list[tuple[AsyncExitStack, GetChannel, list[TakenDelivery]]] = []

    @property
    def taken(self) -> list[TakenDelivery]:
        """What was taken, from the head on."""
        return [each for _, _, page in self._pages for each in page]

    async def take(self, limit: int) -> None:
        """Take `limit` messages, if there are so many.

        More, while the last one has been handed out before: what is given back goes behind all
        else that was given back, so to keep the order all of that has to be taken. Where there is
        no room for that, the order is lost rather than the look.

        Raises:
            TooManyMessages: There is no room for `limit`; nothing was taken.
            QueueMissing: There is no such queue.
            ConnectionLost: The connection is gone.
        """
        room = self._getters.room_to_get
        if limit > room:
            text = f"queue {self._queue!r}: {limit} messages cannot be held at a time, but {room} "
            text += f"can: {PAGE} on each of half the channels (channel_max); ask for fewer"
            raise TooManyMessages(text)
        count = 0
        while wanted := self._wanted(limit, count):
            page = await self._take_page(wanted)
            count += page
            if page < wanted:
                return

    def _wanted(self, limit: int, count: int) -> int:
        """Say how many to take next, now that `count` are taken."""
        if count < limit:
            return min(limit - count, PAGE)
        if not (self._pages and self._pages[-1][2][-1].redelivered and self._getters.may_get_more):
            return 0
        # No more than needed: the next look will have to take all of these.
        if count < self._given_back:
            return min(self._given_back - count, PAGE)
        return PAGE if count > max(limit, self._given_back) else 1

    async def _take_page(self, size: int) -> int:
        stack = AsyncExitStack()
        getter = await stack.enter_async_context(self._getters.open_getter())
        try:
            page = await getter.take(self._queue, size)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stack.aclose()
            raise
        if page:
            self._pages.append((stack, getter, page))
        else:
            await stack.aclose()
        return len(page)

    async def settle(self) -> int:
        """Settle page by page, from the head on; return how many messages went back."""
        returned = 0
        for stack, getter, page in self._pages:
            with suppress(ConnectionLost):  # Then all comes back by itself.
                returned += getter.settle(page)
            await stack.aclose()
        return returned
