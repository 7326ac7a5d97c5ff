"""What is enqueued, what is buried, and what failing assertions say."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import roger_trio as roger
from roger_trio._brokers.base import Message
from roger_trio.testing import (
    assert_enqueued,
    buried,
    enqueued,
    perform_job,
    refute_enqueued,
    running_node,
)

from .jobs import Animal, Bird, chain, fail, note, sleep


def names(jobs: list[roger.Envelope]) -> list[str]:
    """Return the names of jobs without their common beginning."""
    return [job.name.removeprefix("kit:") for job in jobs]


# enqueued, buried...


async def test_oldest_first(autojump_clock: MockClock) -> None:
    """Jobs come in the order they were enqueued in, delayed or not."""
    async with running_node(partitions={}):
        await note.job("1").enqueue("a", delay=60)
        await note.job("2").enqueue("b")
        await note.job("3").enqueue("a", delay=30)
        await note.job("4").enqueue("a")
        assert [job.args["text"] for job in enqueued()] == ["1", "2", "3", "4"]


async def test_filters() -> None:
    """Class, function, partition and queue narrow it down; subclasses are of their class."""
    async with running_node(partitions={}):
        await note.job("a").enqueue("x")
        await chain.job(1).enqueue("x", queue="other")
        await Animal("cat").enqueue("y")
        await Bird("owl").enqueue("y", queue="default")
        assert names(enqueued()) == ["note", "chain", "Animal", "Bird"]
        assert names(enqueued(note)) == ["note"]
        assert names(enqueued(Animal)) == ["Animal", "Bird"]
        assert names(enqueued(Bird)) == ["Bird"]
        assert names(enqueued(partition="x")) == ["note", "chain"]
        assert names(enqueued(queue="default")) == ["note", "Bird"]
        assert names(enqueued(Animal, partition="y", queue="zoo")) == ["Animal"]
        assert enqueued(note, partition="y") == []


async def test_running_and_buried_jobs_are_not_enqueued(autojump_clock: MockClock) -> None:
    """A running job has left the queue; one that waits for its retry is back."""
    async with running_node(roger.Config(retry_levels=(60,))) as node:
        await sleep.job(5).enqueue("test")
        await wait_all_tasks_blocked()
        assert enqueued() == []
        await fail.job().enqueue("test")
        await trio.sleep(10)
        assert [job.retry_count for job in enqueued()] == [1]
        assert buried() == []
        await node.run_until_idle()
        assert enqueued() == []
        [job] = buried(fail, partition="test", queue="default")
        assert job.error is not None
        assert (job.error.type, job.error.message) == ("ValueError", "no luck")
        assert buried(note) == buried(partition="x") == buried(queue="x") == []


async def test_partition_names_with_dashes_and_prefixes() -> None:
    """Partition and queue are told apart whatever the names look like."""
    async with running_node(roger.Config(prefix="p-"), partitions={}):
        await note.job("a").enqueue("my-app-a.buried", queue="q_1")
        [job] = enqueued()
        assert (job.partition, job.queue) == ("my-app-a.buried", "q_1")
        async with running_node(roger.Config(prefix="p-x-"), partitions={}):
            assert enqueued() == []
        async with running_node(partitions={}):
            [job] = enqueued()
            assert job.partition == "p-my-app-a.buried"


async def test_a_payload_that_is_no_job_is_seen() -> None:
    """It has no name, and does not keep others from being seen."""
    async with running_node(partitions={}) as node:
        await note.job("a").enqueue("test")
        await node._broker.publish("test-default", Message(b"{}", "x"))
        assert [job.name for job in enqueued()] == ["kit:note", ""]
        with pytest.raises(AssertionError, match=r"not a job \{\} in test/default"):
            assert_enqueued(note, text="b")


async def test_without_a_broker_in_memory() -> None:
    """A test whose jobs go elsewhere is told so, rather than that nothing is enqueued."""
    with pytest.raises(roger.RogerError, match="nothing in this run uses the broker in memory"):
        enqueued()
    with pytest.raises(roger.RogerError, match="running_node"):
        refute_enqueued(note)


def test_outside_of_trio() -> None:
    """Without a run there is no broker in memory."""
    with pytest.raises(RuntimeError):
        enqueued()


async def test_a_client_is_enough() -> None:
    """What a program enqueues through a client of its own is seen as well."""
    async with roger.connect(roger.Config(broker="memory:", prefix="p")) as client:
        await client.enqueue(note.job("a"), "test")
        assert_enqueued(note, partition="test")
    refute_enqueued(note, partition="test")  # No client, no prefix: another cluster.


async def test_what_a_performed_job_enqueues() -> None:
    """A job performed without a node leaves what it enqueues to be looked at."""
    await perform_job(chain.job(2, 5.0))
    assert_enqueued(chain, partition="test", links=1)


# assert_enqueued, refute_enqueued...


async def test_assertions_that_hold() -> None:
    """A class, a function or a whole job is found, by the arguments that are given."""
    async with running_node(partitions={}):
        first = await note.job("a", 1).enqueue("x")
        await note.job("a", 2).enqueue("x")
        await Bird("owl").enqueue("y")
        assert assert_enqueued(note) == first
        assert assert_enqueued(note, text="a") == first
        assert assert_enqueued(note, number=2).args["number"] == 2
        assert assert_enqueued(note.job("a", 1)) == first
        assert_enqueued(Animal, partition="y", queue="zoo", name="owl")
        assert_enqueued(Bird, name="owl", wingspan=0.5)
        assert_enqueued(Bird("owl"))
        refute_enqueued(chain)
        refute_enqueued(note, number=3)
        refute_enqueued(note, partition="y")
        refute_enqueued(note.job("a"))
        refute_enqueued(Animal("owl"))
        refute_enqueued(Bird, queue="default")


async def test_a_failure_with_nothing_enqueued() -> None:
    """The message says that there is nothing."""
    async with running_node(partitions={}):
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(note, partition="x", queue="q", text="a")
    assert str(caught.value) == (
        "expected that kit:note(text='a') in partition 'x' in queue 'q' is enqueued, but nothing is"
    )


async def test_a_failure_says_what_differs(autojump_clock: MockClock) -> None:
    """The message lists what is enqueued, and what differs in each."""
    async with running_node(partitions={}):
        await note.job("b", 2).enqueue("x", delay=90)
        await chain.job(1).enqueue("y")
        await note.job("a").enqueue("y")
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(note, partition="x", text="a")
    assert str(caught.value).splitlines() == [
        "expected that kit:note(text='a') in partition 'x' is enqueued, but only 3 jobs are:",
        "  note(text='b', number=2) in x/default, due in 90 s: text: expected 'a', got 'b'",
        "  chain(links=1, delay=0.0) in y/default: another job",
        "  note(text='a', number=0) in y/default: partition: expected 'x', got 'y'",
    ]


async def test_a_failure_for_a_queue_and_a_whole_job() -> None:
    """Queues are compared, and each argument of a whole job."""
    async with running_node(partitions={}):
        await Animal("cat").enqueue("x")
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(Animal("dog"), queue="default")
    assert str(caught.value).splitlines() == [
        "expected that kit:Animal(name='dog') in queue 'default' is enqueued, but only 1 job is:",
        (
            "  Animal(name='cat') in x/zoo: "
            "queue: expected 'default', got 'zoo'; name: expected 'dog', got 'cat'"
        ),
    ]


async def test_a_failure_where_a_node_consumes(log: list[str]) -> None:
    """The message says that the job may have been taken, and how to keep it."""
    async with running_node() as node:
        await note.job("a").enqueue("test")
        await node.run_until_idle()
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(note)
    assert str(caught.value).splitlines() == [
        "expected that kit:note is enqueued, but nothing is",
        (
            "(a node of this run consumes test/default and may have taken it; "
            "running_node(partitions={}) leaves jobs alone)"
        ),
    ]


async def test_a_failure_lists_no_more_than_twenty() -> None:
    """A long list is cut."""
    async with running_node(partitions={}) as node:
        await node.enqueue_many([note.job(str(number)) for number in range(25)], "x")
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(chain)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


async def test_arguments_that_do_not_fit_their_class() -> None:
    """A job that cannot be loaded is listed with the reason."""
    async with running_node(partitions={}) as node:
        body = b'{"roger": 1, "id": "1", "name": "kit:note", "args": {"text": 5}}'
        await note.job("a").enqueue("x")
        await node._broker.publish("x-default", Message(body, "1"))
        with pytest.raises(AssertionError) as caught:
            assert_enqueued(note, text="b")
    assert "kit:note {'text': 5} in x/default: job kit:note: text: expected text, got 5" in str(
        caught.value
    )


async def test_a_subclass_without_the_argument() -> None:
    """A base class's search names what each job lacks."""
    async with running_node(partitions={}):
        await Bird("owl").enqueue("x")
        with pytest.raises(AssertionError, match="name: expected 'cat', got 'owl'"):
            assert_enqueued(Animal, name="cat")


async def test_a_refutation_that_fails(autojump_clock: MockClock) -> None:
    """The message lists all jobs that should not be there, and no others."""
    async with running_node(partitions={}):
        await note.job("a").enqueue("x")
        await note.job("b").enqueue("x", delay=1.5)
        await chain.job(1).enqueue("x")
        with pytest.raises(AssertionError) as caught:
            refute_enqueued(note, partition="x")
    assert str(caught.value).splitlines() == [
        "expected that kit:note in partition 'x' is not enqueued, but 2 jobs are:",
        "  note(text='a', number=0) in x/default",
        "  note(text='b', number=0) in x/default, due in 1.5 s",
    ]


async def test_mistakes_of_the_test_are_told() -> None:
    """An argument the job does not have, or something that is no job, never passes silently."""
    async with running_node(partitions={}):
        with pytest.raises(TypeError, match="job kit:note has no argument 'txt'; it has: text, n"):
            refute_enqueued(note, txt="a")
        with pytest.raises(TypeError, match="job kit:fail has no argument 'a'; it has: none"):
            refute_enqueued(fail, a=1)
        with pytest.raises(TypeError, match="expected a job, or a class and arguments"):
            refute_enqueued(note.job("a"), number=1)
        with pytest.raises(TypeError, match=r"expected a Job class or a function with @roger\.job"):
            refute_enqueued(str)  # type: ignore[arg-type]
        with pytest.raises(roger.InvalidJob, match="text: expected text, got 5"):
            refute_enqueued(note.job(5))  # type: ignore[arg-type]
