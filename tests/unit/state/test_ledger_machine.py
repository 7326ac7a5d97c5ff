"""A partition's ledger in a small world of queues, nodes and crashes, driven at random.

The world knows where each copy of each job is and which attempts truly run; the ledger hears of it
only what commands say, some of them twice. At the end all is performed, and nothing may be held.
"""

from __future__ import annotations

import attrs
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from roger_trio._state.changes import Change
from roger_trio._state.decisions import Decision, Forward
from roger_trio._state.ledger import Ledger
from roger_trio._state.operations import (
    Answer,
    Cancel,
    Cancelled,
    Claim,
    Claimed,
    Conclude,
    Duplicate,
    Elsewhere,
    Finished,
    First,
    FreeKey,
    Fresh,
    Gone,
    HeldBy,
    Keys,
    ListKeys,
    ListPaused,
    Operation,
    Pause,
    PausedQueues,
    Published,
    Purged,
    PurgeWaiting,
    Recorded,
    Release,
    ReplayClaim,
    Requeue,
    Resume,
    Run,
    Start,
    Sync,
    Wait,
    Withdraw,
)

from .ledgers import rebuilt

NODES = ("a", "b", "c")
keys = st.sampled_from([None, "k1", "k2"])
turns = st.sampled_from([None, "e1", "e2"])
picks = st.integers(0, 1_000)


@attrs.define(eq=False)
class Model:
    """A job, as its sender and its performers know it."""

    id: str
    queue_key: str | None
    execution_key: str | None
    is_confirmed: bool = True
    is_over: bool = False
    is_cancelled: bool = False
    is_waived: bool = False
    """Whether its queue key was freed by hand."""
    is_let_go: bool = False
    """Whether its execution key was, while it ran."""
    is_known_over: bool = False
    """Whether the ledger knows that it was performed."""
    concluded: int = 0


@attrs.define(eq=False)
class Attempt:
    """A delivery of a job that runs on a node."""

    id: str
    job: Model
    node: str


class World(RuleBasedStateMachine):
    """Queues, nodes and senders around one ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.journal: list[Change] = []
        self.unacked: list[Operation] = []
        self.now = 0.0
        self.count = 0
        self.jobs: dict[str, Model] = {}
        self.claims: list[tuple[Model, str]] = []  # claimed, and not published yet
        self.queued: list[Model] = []  # copies that can be delivered
        self.parked: list[Model] = []  # on the way to the coordinator, to wait
        self.held: list[Model] = []  # waiting, in the hands of the coordinator
        self.running: list[Attempt] = []
        self.orders: dict[str, list[str]] = {"e1": [], "e2": []}  # who waits, first come first
        self.buried: list[Model] = []
        self.paused: set[str] = set()
        self.inboxes: dict[str, str] = {}

    # The coordinator...

    def number(self) -> int:
        """Return a number that was not used before."""
        self.count += 1
        return self.count

    def new(self, what: str) -> str:
        """Return a name that was not used before."""
        return f"{what}{self.number()}"

    def ask(self, operation: Operation) -> Answer | None:
        """Have the ledger decide; save, and do what it says."""
        self.unacked.append(operation)
        self.now += 1
        return self.follow(self.ledger.handle(operation, self.now)).answer

    def follow(self, decision: Decision) -> Decision:
        """Save a decision, and move waiting deliveries."""
        self.journal += decision.changes
        for move in decision.moves:
            job = self.jobs[move.job]
            if isinstance(move, Forward) and not job.is_cancelled:
                for order in self.orders.values():
                    assert job.id not in order or order[0] == job.id, "not first come, first served"
            self.stop_waiting(job)
            if job in self.held:
                self.held.remove(job)
                if isinstance(move, Forward):
                    self.queued.append(job)
        return decision

    def stop_waiting(self, job: Model) -> None:
        """A job waits no more."""
        for order in self.orders.values():
            if job.id in order:
                order.remove(job.id)

    @initialize()
    def start_nodes(self) -> None:
        """All nodes run the partition."""
        for node in NODES:
            self.sync(node)

    def sync(self, node: str) -> None:
        """A node starts, or starts again."""
        self.inboxes[node] = self.new("@")
        self.ask(Sync(node, self.inboxes[node], "host"))

    @rule()
    def settle_commands(self) -> None:
        """The broker has heard that all commands so far are handled."""
        self.unacked.clear()

    @rule(pick=picks)
    def fail_over(self, pick: int) -> None:
        """Another coordinator takes over: it gets the unsettled commands and deliveries again."""
        self.ledger = rebuilt(self.journal)
        if pick % 2:
            self.journal = list(self.ledger.snapshot())  # compaction
        self.parked += self.held
        self.held.clear()
        unacked, self.unacked = self.unacked, []
        for operation in unacked[pick % (len(unacked) + 1) :]:
            self.ask(operation)

    @rule(pick=picks)
    @precondition(lambda self: self.parked)
    def arrive(self, pick: int) -> None:
        """A waiting job's delivery reaches the coordinator."""
        job = self.parked.pop(pick % len(self.parked))
        assert job.execution_key is not None
        if job in self.held:  # a second copy
            return
        self.held.append(job)
        decision = self.ledger.arrive(job.id, "q", job.execution_key, self.now)
        if not decision.moves:
            self.wait(job)
        self.follow(decision)

    def wait(self, job: Model) -> None:
        """A job waits for its execution key, if it does not do so yet."""
        order = self.orders[job.execution_key or ""]
        if job.id not in order:
            order.append(job.id)

    # Senders...

    @rule(queue_key=keys, execution_key=turns)
    def enqueue(self, queue_key: str | None, execution_key: str | None) -> None:
        """Someone is about to enqueue a job."""
        job = Model(self.new("j"), queue_key, execution_key)
        self.jobs[job.id] = job
        if queue_key is None:
            self.queued.append(job)
            return
        nonce = self.new("n")
        answer = self.ask(Claim(job.id, queue_key, "q", nonce, f"inbox of {job.id}"))
        if isinstance(answer, HeldBy):
            assert self.can_hold_queue_key(self.jobs[answer.job])
            job.is_over = True
        else:
            assert answer == Claimed()
            job.is_confirmed = False
            self.claims.append((job, nonce))

    @rule(pick=picks, how=st.sampled_from(["published", "died after it", "withdrawn", "died"]))
    @precondition(lambda self: self.claims)
    def settle_claim(self, pick: int, how: str) -> None:
        """Its publish succeeds or fails, or its sender dies."""
        job, nonce = self.claims.pop(pick % len(self.claims))
        match how:
            case "published":
                self.queued.append(job)
                self.ask(Published(job.id, nonce))
                job.is_confirmed = True
            case "died after it":
                self.queued.append(job)
                self.ask(Gone(f"inbox of {job.id}"))
            case "withdrawn":
                self.ask(Withdraw(job.id, nonce))
                job.is_over = True
            case _:
                self.ask(Gone(f"inbox of {job.id}"))
                job.is_over = True

    @rule(pick=picks, is_confirmed=st.booleans())
    @precondition(lambda self: self.buried)
    def replay(self, pick: int, is_confirmed: bool) -> None:
        """A buried job is enqueued again, or stays buried."""
        job = self.buried.pop(pick % len(self.buried))
        nonce = self.new("n")
        if not (is_confirmed or job in self.copies()):
            self.ask(ReplayClaim(job.id, job.queue_key, "q", nonce, "client"))
            self.ask(Withdraw(job.id, nonce))
            self.buried.append(job)
            return
        answer = self.ask(ReplayClaim(job.id, job.queue_key, "q", nonce, "client"))
        if answer == Claimed():
            job.is_over = job.is_cancelled = job.is_waived = False
            job.concluded = 0
            self.queued.append(job)
            self.ask(Published(job.id, nonce))

    @rule(pick=picks)
    @precondition(lambda self: self.queued)
    def send_again(self, pick: int) -> None:
        """A confirmation is lost, and a job is in its queue twice."""
        job = self.queued[pick % len(self.queued)]
        if self.has_keys(job) and job.is_confirmed:
            self.queued.append(job)

    # Performers...

    @rule(pick=picks, node=st.sampled_from(NODES), dies=st.booleans())
    @precondition(lambda self: self.queued)
    def deliver(self, pick: int, node: str, dies: bool) -> None:
        """A node meets a job; it may die before it has settled a delivery that ends at once."""
        job = self.queued.pop(pick % len(self.queued))
        if self.begin(job, node, dies=dies) and dies:
            self.queued.append(job)

    def begin(self, job: Model, node: str, *, dies: bool) -> bool:
        """Ask whether a job may start; return whether its delivery is settled at once."""
        attempt, inbox = self.new("t"), self.inboxes[node]
        answer = self.ask(self.question(job, node, attempt))
        if isinstance(answer, Elsewhere):
            if any(other.job is job for other in self.running):
                self.queued.append(job)
                return False
            answer = self.ask(self.question(job, node, attempt, answer.attempt))
        match answer:
            case Run():
                self.run(Attempt(attempt, job, node))
                return False
            case Wait():
                self.wait(job)
                self.parked.append(job)
            case Cancelled():
                assert job.is_cancelled
                self.conclude(job, inbox)
            case Duplicate(other):
                assert not job.is_confirmed, "a confirmed job lost its key"
                assert self.jobs[other].queue_key == job.queue_key
                job.is_over = not dies  # a copy that comes again may find the key free
            case _:
                assert answer == Finished()
                assert job.is_over
        return True

    def question(self, job: Model, node: str, attempt: str, instead_of: str = "") -> Start:
        """Return the question whether a job may start."""
        keys = (job.queue_key, job.execution_key)
        return Start(job.id, "q", *keys, node, self.inboxes[node], instead_of, attempt)

    def run(self, attempt: Attempt) -> None:
        """A job starts: none that must not run beside it does."""
        job = attempt.job
        job.is_let_go = False
        assert not (job.is_cancelled and self.has_keys(job)), "a cancelled job was started"
        self.stop_waiting(job)
        if self.has_keys(job):
            assert not job.is_over, "a finished job was started again"
            assert all(other.job is not job for other in self.running), "it runs already"
        for other in self.running:
            both = {other.job.execution_key, job.execution_key}
            is_alone = len(both) > 1 or None in both or other.job.is_let_go
            assert is_alone, "two run with one execution key"
        self.running.append(attempt)

    @rule(
        pick=picks,
        how=st.sampled_from(["done", "done", "buried", "retried", "given back"]),
        dies=st.booleans(),
    )
    @precondition(lambda self: self.running)
    def end(self, pick: int, how: str, dies: bool) -> None:
        """An attempt ends; its node may die before it has settled the delivery."""
        attempt = self.running.pop(pick % len(self.running))
        job = attempt.job
        if how == "given back":
            self.queued.append(job)
            return
        if job.is_cancelled:
            self.conclude(job, self.inboxes[attempt.node])
        elif how == "retried":
            self.queued.append(job)
            self.tell_end(Requeue(job.id, attempt.id), job)
            dies = False  # then there are two copies of a job that is not over: performed twice
        else:
            job.is_over = job.is_known_over = True
            self.tell_end(Release(job.id, attempt.id), job)
            if how == "buried" and job.is_confirmed and not dies:
                self.buried.append(job)
        if dies:
            self.queued.append(job)

    def tell_end(self, operation: Operation, job: Model) -> None:
        """Say how an attempt has ended, if the job has keys."""
        if self.has_keys(job):
            self.ask(operation)

    def conclude(self, job: Model, inbox: str) -> None:
        """A cancelled job has been met or has ended."""
        answer = self.ask(Conclude(job.id, inbox, self.new("x")))
        assert isinstance(answer, First)
        job.concluded += answer.is_first
        job.is_over = True
        self.stop_waiting(job)

    @rule(node=st.sampled_from(NODES), is_noticed=st.booleans())
    def crash(self, node: str, is_noticed: bool) -> None:
        """A node dies: its deliveries come again; it comes back with another inbox."""
        for attempt in [each for each in self.running if each.node == node]:
            self.running.remove(attempt)
            self.queued.append(attempt.job)
        if is_noticed:
            self.ask(Gone(self.inboxes[node]))
        self.sync(node)

    # Operators...

    @rule(pick=picks)
    @precondition(lambda self: self.jobs)
    def cancel(self, pick: int) -> None:
        """Somebody cancels a job, in whatever state it is."""
        job = list(self.jobs.values())[pick % len(self.jobs)]
        if not (self.is_alive(job) or (job.is_known_over and self.has_keys(job))):
            return  # nodes remember the ends of plain jobs, not the ledger
        answer = self.ask(Cancel(job.id, "client", self.number()))
        if isinstance(answer, Recorded):
            job.is_cancelled = True
            if job not in [attempt.job for attempt in self.running]:
                self.stop_waiting(job)
        else:
            assert job.is_over

    @rule(key=st.sampled_from(["k1", "k2", "e1", "e2"]))
    def free_key(self, key: str) -> None:
        """A key is freed by hand: whoever held it goes on without it."""
        holder = {each.key: self.jobs[each.job] for each in self.listed().keys}.get(key)
        if holder is None:
            return
        if key == holder.queue_key:
            holder.is_waived = True
        elif any(attempt.job is holder for attempt in self.running):
            holder.is_let_go = True
        freed = self.ask(FreeKey(key, "client", self.number()))
        assert isinstance(freed, Keys)
        assert [each.job for each in freed.keys] == [holder.id]

    @rule()
    def purge_waiting(self) -> None:
        """The jobs that wait for an execution key are deleted."""
        waiting = {job for order in self.orders.values() for job in order}
        for job in waiting:
            self.jobs[job].is_over = True
        assert self.ask(PurgeWaiting("q", "client", self.number())) == Purged(len(waiting))
        assert not any(self.orders.values())

    @rule(pick=picks)
    def begin_afresh(self, pick: int) -> None:
        """Now and then the broker loses all that it had."""
        if pick % 4:
            return
        for job in [*self.copies(), *(job for job, _ in self.claims)]:
            job.is_over, job.is_cancelled = True, job.concluded > 0
        for each in (self.queued, self.parked, self.held, self.running, self.claims, self.buried):
            each.clear()
        for order in self.orders.values():
            order.clear()
        self.unacked.clear()
        self.forget_ends()
        self.now += 1
        self.ask(Fresh(self.now))
        assert self.listed() == Keys(())

    def forget_ends(self) -> None:
        """The ledger does not know any more which jobs are over."""
        for job in self.jobs.values():
            job.is_known_over = False

    @rule()
    @precondition(lambda self: not any(job.is_over for job in self.copies()))
    def forget(self) -> None:
        """Ten minutes pass; whatever comes again has done so by then."""
        self.unacked.clear()
        self.now += 700
        self.forget_ends()
        self.follow(self.ledger.expire(self.now, 700))

    @rule(queue=st.sampled_from(["q", "r"]), is_paused=st.booleans())
    def pause(self, queue: str, is_paused: bool) -> None:
        """A queue is paused or resumed."""
        if is_paused:
            self.ask(Pause(queue, "client", self.number()))
            self.paused.add(queue)
        else:
            self.ask(Resume(queue, "client", self.number()))
            self.paused.discard(queue)

    # What always holds...

    def has_keys(self, job: Model) -> bool:
        """Whether the ledger hears of all starts and ends of a job."""
        return job.queue_key is not None or job.execution_key is not None

    def can_hold_queue_key(self, job: Model) -> bool:
        """Whether a job is about to be published, or lives."""
        return self.is_alive(job) or any(job is claimed for claimed, _ in self.claims)

    def copies(self) -> list[Model]:
        """Return the job of each delivery there is."""
        running = [attempt.job for attempt in self.running]
        return [*self.queued, *self.parked, *self.held, *running]

    def is_alive(self, job: Model) -> bool:
        """Whether a copy of a job is left that is to be performed."""
        return not job.is_over and job in self.copies()

    def listed(self) -> Keys:
        """Return the keys that are held."""
        answer = self.ledger.handle(ListKeys(), self.now).answer
        assert isinstance(answer, Keys)
        return answer

    @invariant()
    def keys_are_held_by_the_living(self) -> None:
        """No key is held by a job that does not exist, and each key by one job."""
        held = self.listed().keys
        assert len({(key.kind, key.key) for key in held}) == len(held)
        for key in held:
            job = self.jobs[key.job]
            assert self.can_hold_queue_key(job), f"{key} is leaked"
            assert key.key == (job.queue_key if key.kind == "queue" else job.execution_key)

    @invariant()
    def running_jobs_hold_their_keys(self) -> None:
        """Whatever runs holds both of its keys."""
        held = {(key.kind, key.key): key.job for key in self.listed().keys}
        for attempt in self.running:
            job = attempt.job
            if job.queue_key is not None and not job.is_waived:
                assert held["queue", job.queue_key] == job.id
            if job.execution_key is not None and not job.is_let_go:
                assert held["execution", job.execution_key] == job.id

    @invariant()
    def confirmed_jobs_hold_their_queue_keys(self) -> None:
        """What was enqueued holds its key until it is over or cancelled."""
        held = {key.key: key.job for key in self.listed().keys if key.kind == "queue"}
        for job in self.jobs.values():
            is_without = job.is_over or job.is_cancelled or job.is_waived
            if job.queue_key and job.is_confirmed and not is_without:
                assert held[job.queue_key] == job.id

    @invariant()
    def waiters_are_counted(self) -> None:
        """As many wait for a key as the world knows of."""
        for key in self.listed().keys:
            if key.kind == "execution":
                assert key.waiting == len(self.orders[key.key])

    @invariant()
    def on_cancel_is_called_once_at_most(self) -> None:
        """However often a cancelled job is met."""
        assert all(job.concluded <= 1 for job in self.jobs.values())

    @invariant()
    def replaying_gives_the_same(self) -> None:
        """The journal, and a snapshot, rebuild the ledger."""
        assert rebuilt(self.journal) == self.ledger
        assert rebuilt(list(self.ledger.snapshot())) == self.ledger

    @invariant()
    def pauses_are_remembered(self) -> None:
        """The ledger knows which queues are paused."""
        answer = self.ledger.handle(ListPaused(), self.now).answer
        assert answer == PausedQueues(tuple(sorted(self.paused)))

    def teardown(self) -> None:
        """At last all is performed: nothing is lost, and nothing is held."""
        while self.claims:
            self.settle_claim(0, "published")
        while self.running or self.queued or self.parked:
            while self.running:
                self.end(0, "done", dies=False)
            while self.parked:
                self.arrive(0)
            if self.queued:
                self.deliver(0, "a", dies=False)
        assert self.listed() == Keys(())
        assert self.held == []
        for job in self.jobs.values():
            assert job.is_over
            assert job.concluded == job.is_cancelled


# Not shrunk: that takes minutes, and the steps that failed are printed anyway.
World.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
)
TestWorld = World.TestCase
