"""The engine's SQL: against single expectations, and against a model made of lists."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roger_trio._brokers.base import (
    ConnectionLost,
    Message,
    PublishRefused,
    QueueMissing,
    QueueRefused,
    QueueSpec,
)
from roger_trio._brokers.embedded.database import open_memory
from roger_trio._brokers.embedded.engine import Engine
from roger_trio._brokers.embedded.values import News


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """Yield an empty database."""
    connection = open_memory()
    yield connection
    connection.close()


@pytest.fixture
def engine(database: sqlite3.Connection) -> Engine:
    """Return an engine with queue ``q`` and the single-active queue ``single``."""
    engine = Engine(database)
    engine.declare(
        [
            QueueSpec(name="q", takes_delayed=True),
            QueueSpec(name="single", single_active=True, takes_delayed=True),
            QueueSpec(name="plain"),
        ]
    )
    return engine


def publish(engine: Engine, queue: str, *bodies: bytes, due: float | None = None) -> None:
    """Publish bodies."""
    engine.publish(queue, [Message(body) for body in bodies], due)


def consume(engine: Engine, channel: int, queue: str, process: str = "p") -> int:
    """Open a channel that consumes; return the queue's number."""
    engine.open_channel(channel, process)
    return engine.consume(channel, queue)


def bodies(engine: Engine, channel: int, queue: int, limit: int = 100) -> list[bytes]:
    """Claim, and return the bodies."""
    return [row.body for row in engine.claim(channel, queue, limit)]


def test_declaring_again_changes_nothing(engine: Engine) -> None:
    """The same declaration twice is no error; whether it takes delayed messages is no property."""
    engine.declare([QueueSpec(name="q"), QueueSpec(name="q", takes_delayed=True)])


@pytest.mark.parametrize(
    "other", [QueueSpec(name="q", single_active=True), QueueSpec(name="q", dead_letter="d")]
)
def test_another_declaration_is_refused(engine: Engine, other: QueueSpec) -> None:
    """A queue declared with other properties is refused, and both sides are named."""
    with pytest.raises(QueueRefused, match=r"'q'.*declared with \{\}.*declares it with \{\""):
        engine.declare([other])


def test_a_declaration_tells_what_it_made(engine: Engine) -> None:
    """The queues that were not there are named, once; one that is refused makes none of them."""
    new = QueueSpec(name="new", single_active=True)
    with pytest.raises(QueueRefused, match="'q'"):
        engine.declare([new, QueueSpec(name="q", forwards=True)])
    with pytest.raises(QueueRefused, match="'new'"):
        engine.declare([new, QueueSpec(name="new")])
    assert engine.declare([QueueSpec(name="q"), new, new]) == {"new"}
    assert engine.declare([new]) == frozenset()


def forwarding(engine: Engine, *onward: str) -> int:
    """Declare queue ``f``, which forwards; put one message there for each; return its number."""
    engine.declare([QueueSpec(name="f", forwards=True)])
    engine.publish("f", [Message(b"x", name, {"for": name}, name) for name in onward], None)
    return engine.queue_id("f")


def test_forwarding_moves_to_the_tail_as_new(engine: Engine) -> None:
    """A message that is sent on is the target's last, has all it came with, and counts as new."""
    queue = forwarding(engine, "q")
    publish(engine, "q", b"first")
    consume(engine, 1, "f")
    for _ in range(2):
        [row] = engine.claim(1, queue, 9)
        engine.settle(1, [], [row.id])
    [row] = engine.claim(1, queue, 9)
    assert row.deliveries == 3
    assert engine.forward(2, [row.id]) == [], "it is not the other channel's to send on"
    assert engine.forward(1, [row.id, row.id]) == []
    assert engine.count("f").messages == 0
    first, moved = engine.claim(3, consume(engine, 3, "q"), 9)
    assert first.body == b"first"
    assert (moved.body, moved.message_id, moved.headers) == (b"x", "q", '{"for": "q"}')
    assert moved.deliveries == 1


def test_forwarding_to_a_queue_that_is_not_there(engine: Engine) -> None:
    """It stays on loan; when the queue is there it can go on; and it comes back if it does not."""
    queue = forwarding(engine, "later", "q")
    consume(engine, 1, "f")
    rows = engine.claim(1, queue, 9)
    assert engine.forward(1, [row.id for row in rows]) == [(rows[0].id, "later")]
    assert (engine.count("f").messages, engine.count("q").messages) == (0, 1)
    engine.close_channel(1)
    assert engine.count("f").messages == 1
    consume(engine, 2, "f")
    [row] = engine.claim(2, queue, 9)
    engine.declare([QueueSpec(name="later")])
    assert engine.forward(2, [row.id]) == []
    assert engine.count("later").messages == 1


def test_only_a_queue_that_forwards_takes_what_goes_on(engine: Engine) -> None:
    """A message says where it goes on to if its queue forwards, and only then; or none is kept."""
    forwarding(engine)
    for queue, message in (("f", Message(b"x")), ("q", Message(b"x", onward="q"))):
        for due in (None, 1.0):
            with pytest.raises(PublishRefused, match=f"'{queue}'"):
                engine.publish(queue, [message], due)
    with pytest.raises(PublishRefused):
        engine.publish("f", [Message(b"x", onward="q"), Message(b"x")], None)
    assert (engine.count("f").messages, engine.count("q").messages) == (0, 0)


def test_a_queue_that_forwards_is_known_without_being_declared_here(
    engine: Engine, database: sqlite3.Connection
) -> None:
    """Another process finds it in the database."""
    forwarding(engine)
    with pytest.raises(PublishRefused, match="'f' forwards, and the message does not say where"):
        publish(Engine(database), "f", b"x")


def test_one_taken_for_dead_gets_nothing_more_of_a_single_active_queue(engine: Engine) -> None:
    """Its channel is not open, and is lent nothing, whether or not another has taken over."""
    queue = consume(engine, 1, "single", "a")
    publish(engine, "single", b"1", b"2")
    assert engine.is_open(1)
    assert bodies(engine, 1, queue, 1) == [b"1"]
    engine.close_process("a")
    assert not engine.is_open(1)
    assert bodies(engine, 1, queue) == []
    consume(engine, 2, "single", "b")
    assert bodies(engine, 1, queue) == []
    assert bodies(engine, 2, queue) == [b"1", b"2"]


def test_nothing_is_lent_to_a_channel_that_is_not_there(engine: Engine) -> None:
    """What it borrowed, nobody would take back when its process dies: it gets nothing."""
    queue = consume(engine, 1, "q", "a")
    publish(engine, "q", b"1")
    engine.close_process("a")
    assert bodies(engine, 1, queue) == []
    with pytest.raises(ConnectionLost, match="taken for dead"):
        engine.take(1, queue, 9)
    with pytest.raises(ConnectionLost, match="taken for dead"):
        engine.consume(1, "q")
    count = engine.count("q")
    assert (count.messages, count.consumers) == (1, 0)


def test_what_channels_have_that_are_not_there_is_taken_back(
    engine: Engine, database: sqlite3.Connection
) -> None:
    """A loan, and a place in a queue, whose channel nobody knows any more: both are undone."""
    queue = consume(engine, 1, "q", "a")
    single = consume(engine, 2, "single", "b")
    consume(engine, 3, "single", "c")
    publish(engine, "q", b"1")
    publish(engine, "single", b"2")
    assert (bodies(engine, 1, queue), bodies(engine, 3, single)) == ([b"1"], [])
    database.execute("DELETE FROM channels WHERE id < 3")
    assert engine.close_strays() == 2
    assert engine.count("q").messages == 1
    assert bodies(engine, 3, single) == [b"2"]
    assert engine.close_strays() == 0


def test_a_missing_queue_is_missing_for_every_verb(engine: Engine) -> None:
    """Each verb that names a queue names it when it is not there."""
    engine.open_channel(1, "p")
    for verb in (
        lambda: engine.count("nope"),
        lambda: engine.purge("nope", 1),
        lambda: publish(engine, "nope", b"x"),
        lambda: engine.consume(1, "nope"),
    ):
        with pytest.raises(QueueMissing, match="'nope'"):
            verb()


def test_a_queue_rolled_back_is_not_remembered(database: sqlite3.Connection) -> None:
    """A queue's number that was read in a transaction that failed is not used after it."""
    engine = Engine(database)
    engine.begin()
    engine.declare([QueueSpec(name="q")])
    engine.queue_id("q")
    engine.roll_back()
    with pytest.raises(QueueMissing):
        engine.queue_id("q")


def test_a_message_keeps_all_it_came_with(engine: Engine) -> None:
    """Body, id and headers come out as they went in, of a delayed message too."""
    message = Message(b"\0\xff", "id", {"a": "b", "n": 1})
    engine.publish("q", [message], None)
    engine.publish("q", [message], 1.0)
    engine.promote(1.0)
    queue = consume(engine, 1, "q")
    for row in engine.claim(1, queue, 2):
        assert (row.body, row.message_id, row.headers) == (b"\0\xff", "id", '{"a": "b", "n": 1}')


def test_deliveries_count_and_looks_do_not(engine: Engine) -> None:
    """A message counts how often it was delivered; a look at it is none."""
    queue = consume(engine, 1, "q")
    publish(engine, "q", b"a")
    for deliveries in (1, 2, 3):
        [row] = engine.claim(1, queue, 1)
        assert row.deliveries == deliveries
        engine.settle(1, [], [row.id])
        [looked] = engine.take(1, queue, 1)
        assert looked.deliveries == deliveries
        engine.settle(1, [], [looked.id])


def test_only_the_borrower_settles(engine: Engine) -> None:
    """A settlement by a channel that does not have the message on loan does nothing."""
    queue = consume(engine, 1, "q")
    publish(engine, "q", b"a")
    [row] = engine.claim(1, queue, 1)
    engine.settle(2, [row.id], [row.id])
    engine.settle(1, [], [row.id])
    engine.settle(1, [row.id], [])
    assert bodies(engine, 1, queue) == [b"a"]


def test_a_queue_that_takes_no_delayed_messages(engine: Engine) -> None:
    """Delayed messages are refused where they were not declared, until they are."""
    with pytest.raises(PublishRefused, match="'plain' is not one that takes delayed"):
        publish(engine, "plain", b"x", due=1.0)
    engine.declare([QueueSpec(name="plain", takes_delayed=True)])
    engine.declare([QueueSpec(name="plain")])
    publish(engine, "plain", b"x", due=1.0)


def test_promotion_keeps_the_order_of_time(engine: Engine) -> None:
    """Delayed messages come in order of their time, those of one time in order of arrival."""
    for due, body in ((3.0, b"c"), (1.0, b"a"), (3.0, b"d"), (2.0, b"b"), (9.0, b"e")):
        publish(engine, "q", body, due=due)
    assert engine.promote(0.5) == 1.0
    assert engine.count("q").messages == 0
    assert engine.promote(3.0) == 9.0
    assert bodies(engine, 1, consume(engine, 1, "q")) == [b"a", b"b", b"c", b"d"]


def test_more_due_than_one_transaction_moves(engine: Engine) -> None:
    """When more is due than is moved at once, the next time is in the past."""
    publish(engine, "q", *[b"x"] * 1500, due=1.0)
    assert engine.promote(2.0) == 1.0
    assert engine.promote(2.0) is None
    assert engine.count("q").messages == 1500


def test_a_single_active_consumer_fails_over(engine: Engine) -> None:
    """The first consumer gets all until it stops, closes or its process dies; then the next."""
    queue = consume(engine, 30, "single", "a")
    for channel, process in ((10, "b"), (20, "c"), (5, "d")):
        consume(engine, channel, "single", process)
    publish(engine, "single", b"1", b"2", b"3", b"4")
    assert [bodies(engine, each, queue, 1) for each in (10, 20, 5, 30)] == [[], [], [], [b"1"]]
    engine.close_channel(30)
    assert [bodies(engine, each, queue, 2) for each in (20, 10)] == [[], [b"1", b"2"]]
    engine.stop_consuming(10)
    assert [bodies(engine, each, queue, 1) for each in (10, 20)] == [[], [b"3"]]
    assert engine.close_process("c") == 1
    assert bodies(engine, 5, queue) == [b"3", b"4"]


def test_news_name_queues_and_who_consumes_them(engine: Engine) -> None:
    """A commit tells which queues got something, and which processes consume those."""
    engine.begin()
    one, other = consume(engine, 1, "q", "a"), consume(engine, 2, "single", "b")
    assert engine.commit() == News()
    engine.begin()
    publish(engine, "q", b"x")
    assert engine.commit() == News(frozenset([one]), frozenset(["a"]))
    engine.begin()
    engine.claim(1, one, 1)
    assert engine.commit() == News()
    engine.begin()
    engine.close_process("a")
    assert engine.commit() == News(frozenset([one]), frozenset())
    engine.begin()
    publish(engine, "single", b"x", due=5.0)
    assert engine.commit() == News(frozenset([other]), frozenset("b"))
    engine.begin()
    publish(engine, "single", b"x")
    engine.roll_back()
    engine.begin()
    assert engine.commit() == News()


def test_broadcasts_reach_those_who_listen_now(engine: Engine) -> None:
    """Every process that listens collects a broadcast once, in order; nobody else does."""
    assert engine.post.broadcast("t", b"nobody") == ([], [])
    for topic, process in (("t", "a"), ("t", "b"), ("u", "c"), ("t", "a")):
        engine.post.listen([topic], process)
    engine.post.broadcast("t", b"1")
    engine.post.broadcast("t", b"2")
    assert engine.post.collect("a") == [("t", b"1"), ("t", b"2")]
    assert engine.post.collect("a") == []
    assert engine.post.collect("c") == []
    engine.post.stop_listening(["t"], "a")
    engine.post.broadcast("t", b"3")
    assert engine.post.collect("a") == []
    engine.close_process("b")
    assert engine.post.collect("b") == []
    assert engine.processes() == frozenset("c")


def test_broadcasts_for_one_who_collects_nothing_are_bounded(engine: Engine) -> None:
    """A process that is stopped for long does not make the file grow: it loses the newest."""
    engine.post.listen(["t"], "a")
    assert all(engine.post.broadcast("t", b"%d" % each) == (["a"], []) for each in range(1000))
    assert engine.post.broadcast("t", b"late") == (["a"], ["a"])
    assert [each.body for each in engine.post.collect("a")] == [
        b"%d" % each for each in range(1000)
    ]


# --- against a model ------------------------------------------------------------------------------


@attrs.define
class Item:
    """A message of the model."""

    body: bytes
    onward: str = ""
    deliveries: int = 0
    channel: int | None = None


QUEUES = ("first", "second", "single", "on")
ONWARDS = ("first", "single")
CHANNELS = (11, 22, 33)
queues = st.sampled_from(QUEUES)
onwards = st.sampled_from(ONWARDS)
channels = st.sampled_from(CHANNELS)


class EngineMachine(RuleBasedStateMachine):
    """Runs the engine beside a model in which a queue is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.database = open_memory()
        self.engine = Engine(self.database)
        self.engine.declare(
            [
                QueueSpec(
                    name=name,
                    single_active=name == "single",
                    takes_delayed=True,
                    forwards=name == "on",
                )
                for name in QUEUES
            ]
        )
        self.items: dict[str, list[Item]] = {name: [] for name in QUEUES}
        self.delayed: list[tuple[float, int, str, Message]] = []
        self.consumers: dict[str, list[int]] = {name: [] for name in QUEUES}
        self.open: set[int] = set()
        self.ids: dict[int, tuple[str, Item]] = {}
        self.said = 0
        self.now = 0.0

    def teardown(self) -> None:
        """Close the database, which is whole."""
        [(check,)] = self.database.execute("PRAGMA integrity_check").fetchall()
        assert check == "ok"
        self.database.close()

    def next_body(self) -> bytes:
        """Return a body that no other message has."""
        self.said += 1
        return b"%d" % self.said

    def next_message(self, queue: str, onward: str) -> Message:
        """Return a message, which goes onward if its queue forwards."""
        return Message(self.next_body(), onward=onward if queue == "on" else "")

    @rule(queue=queues, onward=onwards, count=st.integers(1, 4))
    def publish(self, queue: str, onward: str, count: int) -> None:
        """Publish some at once."""
        new = [self.next_message(queue, onward) for _ in range(count)]
        self.engine.publish(queue, new, None)
        self.items[queue] += [Item(each.body, each.onward) for each in new]

    @rule(queue=queues, onward=onwards, delay=st.integers(1, 5))
    def publish_delayed(self, queue: str, onward: str, delay: int) -> None:
        """Publish one for later."""
        message, due = self.next_message(queue, onward), self.now + delay
        self.engine.publish(queue, [message], due)
        self.delayed.append((due, self.said, queue, message))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), channel=channels)
    def forward(self, data: st.DataObject, channel: int) -> None:
        """Send on anything that was ever lent: only the borrower's word counts."""
        number = data.draw(st.sampled_from(sorted(self.ids)))
        queue, item = self.ids[number]
        if not item.onward:
            return
        assert self.engine.forward(channel, [number]) == []
        if item.channel == channel:
            item.channel = None
            self.items[queue].remove(item)
            self.items[item.onward].append(Item(item.body))

    @rule(seconds=st.integers(0, 4))
    def promote(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds
        next_due = self.engine.promote(self.now)
        for due, _, queue, message in sorted(self.delayed, key=lambda each: each[:2]):
            if due <= self.now:
                self.items[queue].append(Item(message.body, message.onward))
        self.delayed = [each for each in self.delayed if each[0] > self.now]
        assert next_due == min((due for due, *_ in self.delayed), default=None)

    @rule(channel=channels, queue=queues)
    def subscribe(self, channel: int, queue: str) -> None:
        """Consume a queue, on a channel that is opened if it is not."""
        if channel not in self.open:
            self.engine.open_channel(channel, f"process of {channel}")
            self.open.add(channel)
        self.engine.consume(channel, queue)
        if channel not in self.consumers[queue]:
            self.consumers[queue].append(channel)

    def lend(self, queue: str, channel: int, limit: int, deliveries: int) -> list[Item]:
        """Lend in the model."""
        lent = [item for item in self.items[queue] if item.channel is None][:limit]
        for item in lent:
            item.channel, item.deliveries = channel, item.deliveries + deliveries
        return lent

    @precondition(lambda self: self.open)
    @rule(data=st.data(), queue=queues, limit=st.integers(1, 5))
    def claim(self, data: st.DataObject, queue: str, limit: int) -> None:
        """Deliver to a consumer; of the single-active queue only to the first."""
        consumers = self.consumers[queue]
        if not consumers:
            return
        channel = data.draw(st.sampled_from(consumers))
        rows = self.engine.claim(channel, self.engine.queue_id(queue), limit)
        is_active = queue != "single" or consumers[0] == channel
        lent = self.lend(queue, channel, limit, 1) if is_active else []
        found = [(row.body, row.deliveries) for row in rows]
        assert found == [(item.body, item.deliveries) for item in lent]
        self.ids |= {row.id: (queue, item) for row, item in zip(rows, lent, strict=True)}

    @precondition(lambda self: self.open)
    @rule(data=st.data(), queue=queues, limit=st.integers(0, 5))
    def take(self, data: st.DataObject, queue: str, limit: int) -> None:
        """Look at the head of a queue."""
        channel = data.draw(st.sampled_from(sorted(self.open)))
        rows = self.engine.take(channel, self.engine.queue_id(queue), limit)
        lent = self.lend(queue, channel, limit, 0)
        assert [row.body for row in rows] == [item.body for item in lent]
        self.ids |= {row.id: (queue, item) for row, item in zip(rows, lent, strict=True)}

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), channel=channels, ack=st.booleans())
    def settle(self, data: st.DataObject, channel: int, ack: bool) -> None:
        """Settle anything that was ever lent, on any channel: only the borrower's word counts."""
        number = data.draw(st.sampled_from(sorted(self.ids)))
        self.engine.settle(channel, [number] if ack else [], [] if ack else [number])
        queue, item = self.ids[number]
        if item.channel == channel:
            item.channel = None
            if ack:
                self.items[queue].remove(item)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), process_dies=st.booleans())
    def close(self, data: st.DataObject, process_dies: bool) -> None:
        """Close a channel, or have its process die."""
        channel = data.draw(st.sampled_from(sorted(self.open)))
        if process_dies:
            self.engine.close_process(f"process of {channel}")
        else:
            self.engine.close_channel(channel)
        self.open.remove(channel)
        for queue in QUEUES:
            self.consumers[queue] = [each for each in self.consumers[queue] if each != channel]
            for item in self.items[queue]:
                if item.channel == channel:
                    item.channel = None

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        """Consume nothing any more; what is on loan stays on loan."""
        channel = data.draw(st.sampled_from(sorted(self.open)))
        self.engine.stop_consuming(channel)
        for queue in QUEUES:
            self.consumers[queue] = [each for each in self.consumers[queue] if each != channel]

    @rule(queue=queues, limit=st.integers(1, 6))
    def purge(self, queue: str, limit: int) -> None:
        """Delete what is ready, at most so many."""
        ready = [item for item in self.items[queue] if item.channel is None][:limit]
        assert self.engine.purge(queue, limit) == len(ready)
        self.items[queue] = [item for item in self.items[queue] if item not in ready]

    @invariant()
    def counts_agree(self) -> None:
        """Ready messages and consumers are as many as in the model."""
        for queue in QUEUES:
            count = self.engine.count(queue)
            ready = sum(item.channel is None for item in self.items[queue])
            consumers = len(self.consumers[queue])
            active = min(1, consumers) if queue == "single" else consumers
            assert (count.messages, count.consumers) == (ready, active)


TestEngineAgainstModel = EngineMachine.TestCase
TestEngineAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
