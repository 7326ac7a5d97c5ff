"""What the pump does for one channel does not depend on how many others there are."""

from __future__ import annotations

from contextlib import AsyncExitStack, closing

import pytest
import trio
import trio.testing

from roger_trio._brokers.base import QueueSpec
from roger_trio._brokers.embedded import channels
from roger_trio._brokers.embedded.channels import EmbeddedChannel, Pile, Subscription
from roger_trio._brokers.embedded.database import open_memory
from roger_trio._brokers.embedded.engine import Engine
from roger_trio._brokers.embedded.open import open_memory_broker
from roger_trio._brokers.embedded.pump import Settlements, _settle
from roger_trio._brokers.embedded.values import Broadcast
from tests.conformance.kit import Inbox, messages

QUEUES = [f"q{number}" for number in range(50)]


async def test_a_job_stirs_the_consumers_of_its_queue_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Channels that have nothing to do are not even looked at."""
    looked_at: set[str] = set()

    class Watched(Subscription):
        @property
        def room(self) -> int:
            looked_at.add(self.queue)
            return super().room

    monkeypatch.setattr(channels, "Subscription", Watched)
    broker, inbox = open_memory_broker(), Inbox(ack=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run)
            await broker.declare([QueueSpec(name=each) for each in QUEUES])
            async with AsyncExitStack() as stack:
                for each in QUEUES:
                    channel = await stack.enter_async_context(broker.open_channel())
                    await channel.subscribe(each, prefetch=10, on_delivery=inbox.put)
                await trio.testing.wait_all_tasks_blocked()
                looked_at.clear()
                await broker.publish_many(QUEUES[7], messages(3))
                await trio.testing.wait_all_tasks_blocked()
                assert len(inbox.deliveries) == 3
                assert looked_at == {QUEUES[7]}
            assert not broker._pump._consuming
            assert not broker._pump._channels
            nursery.cancel_scope.cancel()


async def test_what_a_channel_says_that_was_taken_back_is_not_heard() -> None:
    """Whether it is there is asked in the transaction in which it speaks."""
    channel = EmbeddedChannel(open_memory_broker())
    with closing(open_memory()) as database:
        engine = Engine(database)
        engine.post.listen(["t"], "hearer")

        def say(body: bytes) -> None:
            pile = Pile(said=[Broadcast("t", body)])
            _settle(engine, [Settlements(channel, pile, is_last=False)])

        engine.open_channel(channel.number, "speaker")
        say(b"heard")
        engine.close_process("speaker")
        say(b"not heard")
        assert engine.post.collect("hearer") == [("t", b"heard")]
