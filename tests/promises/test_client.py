"""The client: what it refuses, with which words, and what it does for tasks that come at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import attrs
import pytest
import trio

import roger_trio as roger
from tests.promises.support import HUBS, Hub, Setup, Witness, serving
from tests.rabbitmq import free_port


@roger.job(name="client:say")
async def say(text: str = "", hub: str = "") -> None:
    """Tell the hub."""
    HUBS[hub].tell("said", text)


@roger.job(name="client:pass_on")
async def pass_on(text: str, hub: str) -> None:
    """Enqueue another job through the ambient client."""
    await say.job(text, hub).enqueue(roger.current_job().partition)


class ResizeImage(roger.Job, name="client:ResizeImage"):
    """A job that is a class."""

    path: str

    async def perform(self) -> None:
        """Do nothing."""


class Keyed(roger.Job, name="client:Keyed"):
    """A job with keys."""

    which: str
    key: str

    def queue_key(self) -> str | None:
        """Give the key, or None."""
        return self.key if self.which == "queue_key" else None

    def execution_key(self) -> str | None:
        """Give the key, or None."""
        return self.key if self.which == "execution_key" else None

    async def perform(self) -> None:
        """Do nothing."""


class BadKey(roger.Job, name="client:BadKey"):
    """A job with a key that is none."""

    which: str

    def queue_key(self) -> str | None:
        """Give what is no key."""
        if self.which == "fail":
            raise ZeroDivisionError("oh")
        bad: Any = {"number": 7, "half": "\ud800"}[self.which]
        return cast("str", bad)

    async def perform(self) -> None:
        """Do nothing."""


class Anywhere(roger.Job, name="client:Anywhere"):
    """A job that chooses its queue, or something that is none."""

    where: str

    def queue_type(self) -> str:
        """Give the queue, or what is behind a name of `BAD_QUEUES`."""
        bad: str = BAD_QUEUES.get(self.where, self.where)
        return bad

    async def perform(self) -> None:
        """Do nothing."""


class Count(roger.Job, name="client:Count"):
    """A job with a number."""

    number: int

    async def perform(self) -> None:
        """Do nothing."""


DAY = timedelta(days=1)
LONGEST = float(2**28 - 1)

REFUSED: dict[str, tuple[object, dict[str, Any], str]] = {
    "a function": (print, {}, "job: expected a job, such as"),
    "a decorated function": (say, {}, "job: expected a job, such as"),
    "a class": (ResizeImage, {}, "job: expected a job, such as"),
    "None": (None, {}, "got None"),
    "a name": ("client:say", {}, "got 'client:say'"),
    "a coroutine's result": ({"text": "x"}, {}, "got {'text': 'x'}"),
    "a negative delay": (say.job(), {"delay": -0.001}, "delay: expected seconds from 0 to"),
    "a nan delay": (say.job(), {"delay": float("nan")}, "delay: expected seconds .* got nan"),
    "an endless delay": (say.job(), {"delay": float("inf")}, "delay: expected seconds .* got inf"),
    "a bool delay": (say.job(), {"delay": True}, "delay: expected seconds .* got True"),
    "a delay in words": (say.job(), {"delay": "5"}, "delay: expected seconds .* got '5'"),
    "a timedelta": (say.job(), {"delay": DAY}, "delay: expected seconds"),
    "a delay too long": (say.job(), {"delay": LONGEST + 1}, "delay: expected seconds .* 268435456"),
    "a naive at": (say.job(), {"at": datetime(2099, 1, 1)}, "at: expected an aware datetime"),  # noqa: DTZ001
    "an at in words": (say.job(), {"at": "tomorrow"}, "at: expected an aware .* got 'tomorrow'"),
    "an at too late": (say.job(), {"at": datetime.max.replace(tzinfo=UTC)}, "expected"),
    "delay and at": (say.job(), {"delay": 1, "at": datetime.now(UTC)}, "at: expected no `at`"),
    "an argument that does not fit": (say.job(5), {}, "client:say: text: expected text, got 5"),  # type: ignore[arg-type]
    "an int beyond JSON's": (Count(2**64), {}, "client:Count: number: "),
    "half a character": (say.job("\ud800"), {}, "client:say: "),
    "an empty queue key": (Keyed("queue_key", ""), {}, "Keyed: queue_key: expected None or .*''"),
    "an empty execution key": (Keyed("execution_key", ""), {}, "Keyed: execution_key: expected"),
    "a key too long": (Keyed("queue_key", "k" * 1001), {}, "queue_key: .*1 to 1000 bytes"),
    "a key too long in UTF-8": (Keyed("queue_key", "\N{SNOWMAN}" * 334), {}, "1 to 1000 bytes"),
    "a key that is a number": (BadKey("number"), {}, "BadKey: queue_key: expected None or.*got 7"),
    "half a character as a key": (BadKey("half"), {}, "BadKey: queue_key: expected None or"),
    "a key that fails": (BadKey("fail"), {}, "BadKey: queue_key: .* got ZeroDivisionError: oh"),
}
BAD_IDS: dict[str, Any] = {
    "empty": "",
    "too long": "i" * 201,
    "too long in UTF-8": "\N{SNOWMAN}" * 67,
    "a number": 1,
    "bytes": b"id",
    "a list": [],
    "half a character": "\ud800",
}
BAD_PARTITIONS: dict[str, Any] = {
    "empty": "",
    "only spaces": "  ",
    "too long": "p" * 121,
    "too long in UTF-8": "\N{SNOWMAN}" * 41,
    "a line break": "a\nb",
    "None": None,
    "a number": 1,
    "bytes": b"myapp",
    "a list": ["myapp"],
    "half a character": "\ud800",
}
BAD_QUEUES: dict[str, Any] = {
    "empty": "",
    "too long": "q" * 65,
    "a dash": "a-b",
    "a dot": "a.buried",
    "a line break": "a\n",
    "a letter that is not a to z": "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "a number": 1,
    "bytes": b"default",
    "a list": ["default"],
}


@attrs.frozen
class Untouched:
    """Checks that a partition has no job on the broker."""

    client: roger.Client
    partition: str

    async def check(self) -> None:
        """Look into its queue, which was never declared or is empty."""
        with trio.fail_after(10):
            await self.client.enqueue(say.job("only"), self.partition)
            [found] = await self.client.queued_jobs(self.partition, "default")
        assert found.args["text"] == "only"


@pytest.mark.parametrize("what", REFUSED)
async def test_enqueue_refuses_with_the_field_the_rule_and_the_value(
    setup: Setup, what: str
) -> None:
    """Jobs, delays, times, arguments and keys that break a rule are `InvalidJob`."""
    job, options, text = REFUSED[what]
    wrong: Any = job
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(10):
            with pytest.raises(roger.InvalidJob, match=text):
                await client.enqueue(wrong, setup.partition, **options)
            with pytest.raises(roger.InvalidJob, match=text):
                await client.enqueue_many([say.job(), wrong], setup.partition, **options)
        await Untouched(client, setup.partition).check()


async def test_ids_and_names_that_break_a_rule_are_refused(setup: Setup) -> None:
    """An id is `InvalidJob`, the name of a partition or queue `ConfigError`, of any type."""
    partition = setup.partition
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(20):
            for bad in BAD_IDS.values():
                with pytest.raises(roger.InvalidJob):
                    await client.enqueue(say.job(), partition, id=bad)
            for bad in BAD_PARTITIONS.values():
                with pytest.raises(roger.ConfigError, match="partition: expected printable text"):
                    await client.enqueue(say.job(), bad)
                with pytest.raises(roger.ConfigError, match="partition: expected printable text"):
                    await client.enqueue_many([say.job()], bad)
                with pytest.raises(roger.ConfigError, match="partition: expected printable text"):
                    await client.buried_jobs(bad, "default")
            for what, bad in BAD_QUEUES.items():
                with pytest.raises(roger.ConfigError, match="queue: expected a queue name"):
                    await client.enqueue(say.job(), partition, queue=bad)
                with pytest.raises(roger.ConfigError, match="queue: expected a queue name"):
                    await client.enqueue(Anywhere(what), partition)
                with pytest.raises(roger.ConfigError, match="queue: expected a queue name"):
                    await client.purge(partition, bad)
        await Untouched(client, partition).check()


@pytest.mark.parametrize("text", ["", "x" * 201, 7])
async def test_the_rule_of_an_id_is_named(setup: Setup, text: Any) -> None:
    """The message names the key, the rule and the value."""
    async with roger.connect(setup.config()) as client:
        rule = f"id: expected text of 1 to 200 bytes, got {text!r}"
        with pytest.raises(roger.InvalidJob, match=re.escape(rule)):
            await client.enqueue(say.job(), setup.partition, id=text)


async def test_an_id_of_the_longest_kind_is_kept(setup: Setup) -> None:
    """200 bytes of any text come back as they are."""
    longest = "\N{SNOWMAN}" * 66 + "\n\x00"
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(10):
            sent = await client.enqueue(say.job(), setup.partition, id=longest)
            [found] = await client.queued_jobs(setup.partition, "default")
    assert sent.id == found.id == longest


async def test_one_invalid_job_keeps_the_others_from_being_enqueued(setup: Setup) -> None:
    """Also the 600th of 601, after other tasks had their turn."""
    jobs: list[Any] = [say.job(str(n)) for n in range(599)]
    async with roger.connect(setup.config()) as client:
        for wrong in (say, say.job(5)):  # type: ignore[arg-type]
            with pytest.raises(roger.InvalidJob):
                await client.enqueue_many([*jobs, wrong, say.job()], setup.partition)  # type: ignore[list-item]
        await Untouched(client, setup.partition).check()


async def test_enqueue_many_keeps_the_order(setup: Setup, witness: Witness) -> None:
    """Of 5,500 jobs, more than are published at once; and each envelope is its job's."""
    total = 5500
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(60):
            sent = await client.enqueue_many(
                (say.job(str(n)) for n in range(total)), setup.partition
            )
            found = await client.queued_jobs(setup.partition, "default", total + 1)
            assert await client.enqueue_many([], setup.partition) == []
    assert [each.args["text"] for each in found] == [str(n) for n in range(total)]
    assert [each.id for each in found] == [
        each.id for each in sent if isinstance(each, roger.Envelope)
    ]


async def test_enqueue_many_sends_each_job_to_its_queue(setup: Setup) -> None:
    """Jobs that choose their queue keep their order within it; `queue` overrides."""
    setup.created_queues.update((*setup.names("a"), *setup.names("b")))
    jobs = [Anywhere("ab"[n % 2]) for n in range(20)]
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(20):
            sent = await client.enqueue_many(jobs, setup.partition)
            for start, queue in enumerate("ab"):
                found = await client.queued_jobs(setup.partition, queue)
                wanted = [each.id for each in sent[start::2] if isinstance(each, roger.Envelope)]
                assert [each.id for each in found] == wanted
            await client.enqueue_many(jobs, setup.partition, queue="default")
            assert len(await client.queued_jobs(setup.partition, "default")) == 20


async def test_an_unreachable_broker_is_told_within_the_timeout(
    partition: str,
) -> None:
    """Nothing listens: the block is entered, and each call says where to it could not get."""
    port = free_port()
    config = roger.Config(broker=f"amqp://u:secret-word@127.0.0.1:{port}/", enqueue_timeout=0.5)
    with trio.fail_after(20):
        async with roger.connect(config) as client:
            calls: dict[str, Any] = {
                "was not confirmed": lambda: client.enqueue(say.job(), partition),
                "2 jobs were not confirmed": lambda: client.enqueue_many(
                    [say.job(), say.job()], partition
                ),
                "queue 'default': no answer": lambda: client.queued_jobs(partition, "default"),
                f"partition '{partition}'": lambda: client.purge(partition, "default"),
            }
            for text, call in calls.items():
                began = trio.current_time()
                with pytest.raises(roger.BrokerUnavailable, match=text) as caught:
                    await call()
                assert 0.4 < trio.current_time() - began < 2
                assert f"127.0.0.1:{port}" in str(caught.value)
                assert "secret-word" not in str(caught.value)


def _with_wrong_password(setup: Setup) -> roger.Config:
    broker = attrs.evolve(roger.AmqpConfig.from_url(setup.url), password="wrong-word")
    return attrs.evolve(setup.config(), broker=broker)


async def test_a_wrong_password_is_one_bare_error(setup: Setup) -> None:
    """From `connect` and from `serve`: no group, at once, the user named, the password not."""
    config = _with_wrong_password(setup)
    with trio.fail_after(30):
        with pytest.raises(roger.BrokerUnavailable, match="refused user 'guest'") as caught:
            async with roger.connect(config):
                pytest.fail("the block was entered")
        assert "wrong-word" not in repr(caught.value)
        with pytest.raises(roger.BrokerUnavailable, match="refused user 'guest'") as caught:
            await roger.serve(config)
        assert "wrong-word" not in repr(caught.value)


class Odd(BaseException):
    """An exception that is not an `Exception`."""


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("bare"),
        Odd(),
        roger.BrokerUnavailable("x"),
        ExceptionGroup("g", [OSError()]),
    ],
)
async def test_the_error_of_the_block_leaves_connect_as_it_is(
    setup: Setup, error: BaseException
) -> None:
    """The very exception, in no group of ours."""
    with trio.fail_after(10), pytest.raises(type(error)) as caught:
        async with roger.connect(setup.config()):
            raise error
    assert caught.value is error


async def test_cancelling_the_block_and_returning_from_it_end_it(setup: Setup) -> None:
    """A cancelled block ends as cancelled; leaving early by `return` raises nothing."""

    async def leave_early() -> str:
        async with roger.connect(setup.config()):
            return "left"

    with trio.fail_after(10):
        with trio.CancelScope() as scope:
            async with roger.connect(setup.config()):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert await leave_early() == "left"


# The ambient client...


async def test_job_enqueue_needs_a_client_around_it(setup: Setup) -> None:
    """Inside `connect` it has one, also in a nested one and its tasks; outside of it, none."""
    with pytest.raises(roger.RogerError, match=r"found no client; call it inside a job"):
        await say.job().enqueue(setup.partition)
    with trio.fail_after(20):
        async with roger.connect(setup.config()) as outer:
            await say.job("outer").enqueue(setup.partition)
            async with roger.connect(setup.config()):
                await say.job("inner").enqueue(setup.partition, delay=0, id="an id")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say.job("task").enqueue, setup.partition)
            with pytest.raises(roger.InvalidJob, match="delay: expected seconds"):
                await say.job().enqueue(setup.partition, delay=-1)
            found = await outer.queued_jobs(setup.partition, "default")
    assert [each.args["text"] for each in found] == ["outer", "inner", "task"]
    assert found[1].id == "an id"
    with pytest.raises(roger.RogerError, match=r"found no client"):
        await say.job().enqueue(setup.partition)


async def test_job_enqueue_inside_a_job_goes_through_its_node(setup: Setup, hub: Hub) -> None:
    """A job may enqueue others without being handed a client."""
    async with serving(setup.config()) as node:
        with trio.fail_after(20):
            await node.enqueue(pass_on.job("on", hub.name), setup.partition)
            await hub.wait("said", tag="on")
            with pytest.raises(roger.RogerError, match=r"found no client"):
                await say.job().enqueue(setup.partition)


# At the same time...


async def test_two_clients_and_fifty_tasks_at_once(setup: Setup) -> None:
    """Each enqueue returns the envelope of its own job, and all are there once."""
    sent: dict[str, str] = {}

    async def enqueue(client: roger.Client, text: str) -> None:
        envelope = await client.enqueue(say.job(text), setup.partition)
        assert envelope.args["text"] == text
        sent[envelope.id] = text

    with trio.fail_after(30):
        async with roger.connect(setup.config()) as one, roger.connect(setup.config()) as two:
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(enqueue, one, f"one {number}")
                    nursery.start_soon(enqueue, two, f"two {number}")
            for client in (one, two):
                found = await client.queued_jobs(setup.partition, "default", 200)
                assert {each.id: each.args["text"] for each in found} == sent
                assert len(found) == 100


async def test_an_enqueue_that_is_given_up_harms_nobody_else(setup: Setup) -> None:
    """Cancelled at any moment, the client goes on working for the others."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(30):
            for step in range(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.enqueue, say.job("kept"), setup.partition)
                    with trio.move_on_after(step / 2000):
                        await client.enqueue(say.job("given up"), setup.partition)
            found = await client.queued_jobs(setup.partition, "default")
    assert [each.args["text"] for each in found].count("kept") == 20


# Queues that the broker does not have...


async def test_a_queue_that_does_not_exist_is_named(setup: Setup) -> None:
    """With its partition, by all calls that look into a queue; afterwards the client works."""
    partition = setup.partition
    async with roger.connect(setup.config()) as client:
        calls: list[Any] = [
            client.queued_jobs,
            client.buried_jobs,
            client.replay_buried,
            client.purge,
            client.purge_buried,
        ]
        with trio.fail_after(20):
            for call in calls * 2:
                with pytest.raises(roger.RogerError) as caught:
                    await call(partition, "default")
                assert type(caught.value) is roger.RogerError
                assert f"partition '{partition}' has no queue 'default'" in str(caught.value)
        await Untouched(client, partition).check()


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_that_shows_nothing(setup: Setup, limit: int) -> None:
    """A limit of 0 or below shows nothing."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(10):
            await client.enqueue(say.job(), setup.partition)
            assert await client.queued_jobs(setup.partition, "default", limit) == []
            assert await client.buried_jobs(setup.partition, "default", limit) == []


async def test_enqueue_many_refuses_bad_queues_before_any_job_is_enqueued(setup: Setup) -> None:
    """Also the name of the last job's queue is checked before the first job is published."""
    async with roger.connect(setup.config()) as client:
        with trio.fail_after(20):
            for what, bad in BAD_QUEUES.items():
                with pytest.raises(roger.ConfigError, match="queue: expected a queue name"):
                    await client.enqueue_many([say.job()], setup.partition, queue=bad)
                with pytest.raises(roger.ConfigError, match="queue: expected a queue name"):
                    await client.enqueue_many([say.job(), Anywhere(what)], setup.partition)
        await Untouched(client, setup.partition).check()


async def test_numbers_beyond_floats_are_refused_as_delays(setup: Setup) -> None:
    """Python's whole numbers have no end."""
    async with roger.connect(setup.config()) as client:
        with pytest.raises(roger.InvalidJob, match="delay: expected seconds"):
            await client.enqueue(say.job(), setup.partition, delay=10**400)


async def test_an_at_too_late_names_at(setup: Setup) -> None:
    """The message names what was given."""
    async with roger.connect(setup.config()) as client:
        with pytest.raises(roger.InvalidJob, match="at: expected"):
            await client.enqueue(say.job(), setup.partition, at=datetime.max.replace(tzinfo=UTC))
