"""The bus: who is there, who answers, who does not, and what is no message of ours."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from roger_trio._brokers.base import Broker, PublishRefused
from roger_trio._control import wire
from roger_trio._control.bus import Bus
from roger_trio._control.gathering import Asker, NobodyListens, NoReply
from roger_trio._state.operations import QueuePaused
from roger_trio._topology import NODES_TOPIC
from roger_trio.testing._wrapping import WrappingBroker

from .fakes import controls, identity, memory_broker, node_bus, replying

QUESTION = {"ask": "how"}


@contextlib.asynccontextmanager
async def client_bus(broker: Broker) -> AsyncGenerator[Bus]:
    """Run a client's bus."""
    async with controls(broker) as here:
        yield here.bus


def _introduce(name: str, question: Mapping[str, Any]) -> dict[str, object]:
    return {"I am": name, "to": question["ask"]}


async def test_without_nodes_nobody_is_waited_for() -> None:
    """At once, and nobody is told not to answer."""
    with trio.fail_after(1):
        async with memory_broker() as broker, client_bus(broker) as client:
            found = await client.ask_nodes(QUESTION)
            assert (found.replies, found.not_answering) == ({}, {})


async def test_a_client_waits_for_all_nodes_and_no_longer() -> None:
    """It learns from the first reply who else there is; well within the deadline."""
    with trio.fail_after(1.9):
        async with memory_broker() as broker, contextlib.AsyncExitStack() as stack:
            for name in "abc":
                bus = await stack.enter_async_context(node_bus(broker, name))
                replying(bus, functools.partial(_introduce, name))
            client = await stack.enter_async_context(client_bus(broker))
            found = await client.ask_nodes(QUESTION)
    assert found.replies == {name: {"I am": name, "to": "how"} for name in "abc"}
    assert found.not_answering == {}


async def test_a_node_asks_the_others_and_not_itself() -> None:
    """Alone it has nobody to wait for."""
    with trio.fail_after(1.9):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            replying(a, lambda _: {})
            assert (await a.ask_nodes(QUESTION)).replies == {}
            async with node_bus(broker, "b") as b:
                replying(b, lambda _: {"I am": "b"})
                assert (await a.ask_nodes(QUESTION)).replies == {"b": {"I am": "b"}}
                assert (await b.ask_nodes(QUESTION)).replies == {"a": {}}
                await b.say_bye()
            await wait_all_tasks_blocked()
            assert not a.roster.cards


async def test_a_node_that_listens_and_does_not_answer_is_named(autojump_clock: MockClock) -> None:
    """With what it last told of itself; the others' answers are there."""
    with trio.fail_after(60):
        async with (
            memory_broker() as broker,
            node_bus(broker, "a") as a,
            node_bus(broker, "frozen", pid=99) as frozen,
        ):
            frozen.partitions = lambda: {"p": {"default": 3}}
            frozen.hello_soon()
            await wait_all_tasks_blocked()
            replying(a, lambda _: {})
            async with client_bus(broker) as client:
                began = trio.current_time()
                found = await client.ask_nodes(QUESTION, deadline=2.0)
                assert trio.current_time() - began == pytest.approx(2.0)
    assert set(found.replies) == {"a"}
    assert set(found.not_answering) == {"frozen"}
    card = found.not_answering["frozen"]
    assert card.identity.pid == 99
    assert card.partitions == {"p": {"default": 3}}


async def test_a_node_that_died_is_forgotten(autojump_clock: MockClock) -> None:
    """It said no bye; nobody listens at its inbox, so it is not waited for until the deadline."""
    with trio.fail_after(60):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            replying(a, lambda _: {})
            async with node_bus(broker, "b"):
                await wait_all_tasks_blocked()
            assert [card.identity.name for card in a.roster.cards] == ["b"]
            async with client_bus(broker) as client:
                began = trio.current_time()
                found = await client.ask_nodes(QUESTION)
                assert trio.current_time() - began < 1
    assert (set(found.replies), found.not_answering) == ({"a"}, {})


async def test_the_second_node_of_a_name_learns_who_has_it() -> None:
    """The first one goes on."""
    with trio.fail_after(5):
        async with memory_broker() as broker, node_bus(broker, "twin", pid=1) as first:
            second = Bus(broker, identity("twin", 2))
            async with trio.open_nursery() as nursery:
                await nursery.start(second.run)
                card = await second.join()
                nursery.cancel_scope.cancel()
            assert card is not None
            assert (card.identity.pid, card.inbox) == (1, first.inbox)


async def test_a_name_is_free_once_its_node_died(autojump_clock: MockClock) -> None:
    """Also if another node still knows of the dead one."""
    with trio.fail_after(60):
        async with memory_broker() as broker, node_bus(broker, "other"):
            async with node_bus(broker, "twin"):
                await wait_all_tasks_blocked()
            async with node_bus(broker, "twin"):  # Asserts that it may join.
                pass


async def test_two_nodes_of_a_name_that_meet_later_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, with host and process of the other."""
    with trio.fail_after(5):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            card = {**a.card.as_json(), "inbox": "inbox.other", "pid": 12}
            question = {"ask": "hello", "card": card, "roster": True}
            for _ in range(2):
                body = wire.encode(wire.Question("inbox.other", 0, question))
                await broker.broadcast(NODES_TOPIC, body)
            await wait_all_tasks_blocked()
    [record] = caplog.records
    assert "process 12 on host 'host'" in record.getMessage()


async def test_one_inbox_is_asked(autojump_clock: MockClock) -> None:
    """It replies; or listens without a reply; or is dead, which is known at once."""
    with trio.fail_after(60):
        async with memory_broker() as broker, client_bus(broker) as client:
            async with node_bus(broker, "a") as a:
                with pytest.raises(NoReply):
                    await client.ask_inbox(a.inbox, QUESTION, timeout=1)
                replying(a, lambda _: {"fine": True})
                found = await client.ask_inbox(a.inbox, QUESTION, timeout=1)
                assert found == {"fine": True}
                assert await client.is_heard(a.inbox)
            began = trio.current_time()
            with pytest.raises(NobodyListens):
                await client.ask_inbox(a.inbox, QUESTION, timeout=1)
            assert not await client.is_heard(a.inbox)
            assert trio.current_time() == began


async def test_a_node_that_did_not_answer_is_silent_until_it_is_heard(
    autojump_clock: MockClock,
) -> None:
    """Whatever it says: a late answer, as it was frozen, or that it is there again."""
    async with memory_broker() as broker, node_bus(broker, "a") as a, node_bus(broker, "b") as b:
        replying(b, lambda _: {})
        for speak in (b.hello_soon, lambda: b.reply_soon(Asker(a.inbox, 10**6), {})):
            a.note_silence(b.inbox, 10)
            assert a.is_silent(b.inbox)
            speak()
            await trio.sleep(1)
            assert not a.is_silent(b.inbox)
        a.note_silence(b.inbox, 10)
        await trio.sleep(11)
        assert not a.is_silent(b.inbox)


async def test_a_question_whose_reply_was_lost_is_asked_again(autojump_clock: MockClock) -> None:
    """Both to one inbox and to all."""
    asked: list[str] = []

    def third_time(question: object) -> dict[str, bool] | None:
        asked.append(str(question))
        return {"fine": True} if len(asked) % 3 == 0 else None

    with trio.fail_after(60):
        async with (
            memory_broker() as broker,
            client_bus(broker) as client,
            node_bus(broker, "a") as a,
            node_bus(broker, "b") as b,
        ):
            replying(a, third_time)
            replying(b, lambda _: {})
            await client.ask_inbox(a.inbox, QUESTION, timeout=5)
            assert set((await client.ask_nodes(QUESTION, deadline=5)).replies) == {"a", "b"}
    assert len(asked) == 6


async def test_members_are_gathered_until_one_is_telling(autojump_clock: MockClock) -> None:
    """Members reply, are gone, or silent; a telling reply ends the wait."""
    with trio.fail_after(60):
        async with (
            memory_broker() as broker,
            client_bus(broker) as client,
            node_bus(broker, "a") as a,
            node_bus(broker, "b") as b,
        ):
            replying(a, lambda question: {"found": question["what"]})
            members = [("a", a.inbox), ("b", b.inbox), ("c", "inbox.nobody")]
            with client.expect() as gathering:
                found = await client.gather_from(
                    gathering, members, {"ask": "x", "what": "absent"}, timeout=3
                )
            assert found.replies == {"a": {"found": "absent"}}
            assert (set(found.silent), set(found.gone)) == ({"b"}, {"c"})
            with client.expect() as gathering:
                a.reply_soon(Asker(client.inbox, gathering.request), {"found": "stopped"})
                began = trio.current_time()
                found = await client.gather_from(
                    gathering,
                    members,
                    {"ask": "x"},
                    timeout=3,
                    until=lambda reply: reply["found"] == "stopped",
                )
                assert trio.current_time() == began
            assert set(found.replies) == {"a"}


async def test_events_are_handed_on_and_a_handler_that_fails_makes_nobody_deaf(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next event is heard."""
    heard: list[tuple[str, object]] = []

    def take(partition: str, event: object) -> None:
        heard.append((partition, event))
        if len(heard) == 1:
            raise ZeroDivisionError

    with trio.fail_after(5):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            a.on_event = take
            for version in (1, 2):
                event = QueuePaused(version, "default")
                await broker.broadcast(NODES_TOPIC, wire.encode(wire.EventMessage("p", event)))
            await wait_all_tasks_blocked()
    assert heard == [("p", QueuePaused(1, "default")), ("p", QueuePaused(2, "default"))]
    [record] = caplog.records
    assert record.exc_info is not None


FOREIGN = {
    "no JSON": b"\xff\x00",
    "nothing": b"",
    "a later version": b'{"roger":99,"kind":"question"}',
    "an unknown kind": b'{"roger":1,"kind":"dance"}',
    "commands": wire.encode(wire.Commands("inbox.x", 1, [])),
    "an unknown event": b'{"roger":1,"kind":"event","partition":"p","event":["Exploded",1]}',
    "a hello without a card": wire.encode(wire.Question("inbox.x", 1, {"ask": "hello"})),
    "a reply without an answer": wire.encode(wire.Reply("x", "inbox.x", 1, {})),
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_foreign_bytes_are_logged_once_and_ignored(
    caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Whatever is said on the topics, the bus goes on."""
    caplog.set_level(logging.INFO)
    with trio.fail_after(5):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            replying(a, lambda _: {})
            for _ in range(5):
                await broker.broadcast(NODES_TOPIC, FOREIGN[what])
                await broker.broadcast(a.inbox, FOREIGN[what])
            await wait_all_tasks_blocked()
            async with client_bus(broker) as client:
                assert set((await client.ask_nodes(QUESTION)).replies) == {"a"}
    records = [each for each in caplog.records if each.name.startswith("roger_trio._control")]
    assert len(records) == 1


async def test_a_lone_node_that_asks_before_it_has_joined_waits_for_nobody(
    autojump_clock: MockClock,
) -> None:
    """Once it knows that there are no others, its question is over."""
    with trio.fail_after(60):
        async with memory_broker() as broker, trio.open_nursery() as nursery:
            bus = Bus(broker, identity("a"))
            await nursery.start(bus.run)
            began = trio.current_time()
            async with trio.open_nursery() as asking:
                asking.start_soon(bus.ask_nodes, QUESTION)
                await wait_all_tasks_blocked()
                assert await bus.join() is None
            assert trio.current_time() - began < 0.1
            nursery.cancel_scope.cancel()


class Full(WrappingBroker):
    """A broker that cannot keep some broadcasts, as its disk is full."""

    refusals = 3

    async def broadcast(self, topic: str, body: bytes) -> bool:
        """Refuse the first ones."""
        if self.refusals:
            self.refusals -= 1
            raise PublishRefused("the database cannot keep it: disk I/O error")
        return await super().broadcast(topic, body)


async def test_a_node_that_cannot_introduce_itself_goes_on_trying(
    autojump_clock: MockClock,
) -> None:
    """A full disk ends no node while it starts; the others learn of it as soon as that is over."""
    with trio.fail_after(60):
        async with memory_broker() as broker, node_bus(broker, "a") as other:
            full = Full(broker)
            async with trio.open_nursery() as nursery:
                bus = Bus(full, identity("b"))
                await nursery.start(bus.run)
                assert await bus.join() is None
                assert full.refusals == 0
                assert bus.inbox in other.roster.inboxes
                nursery.cancel_scope.cancel()


async def test_reasons_for_complaints_do_not_pile_up(caplog: pytest.LogCaptureFixture) -> None:
    """Who sends ever new rubbish fills no log."""
    with trio.fail_after(5):
        async with memory_broker() as broker, node_bus(broker, "a") as a:
            for number in range(500):
                a.complain(f"reason {number}")
    assert len(caplog.records) == 100
