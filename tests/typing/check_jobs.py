"""What type checkers know about jobs. Checked by mypy and pyright, never run.

A line with an ignore comment must be an error: both checkers report an ignore that ignores nothing.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, assert_type

import attrs

import roger_trio as roger


class ResizeImage(
    roger.Job, queue="images", retryable=True, max_execution_time=60, retry_levels=(1, 2)
):
    path: str
    width: int = 640
    tags: list[str] = attrs.field(factory=list[str])

    async def perform(self) -> str:
        assert_type(self.path, str)
        assert_type(self.width, int)
        return self.path

    def queue_key(self) -> str:
        return self.path


class Sync(ResizeImage, name="sync", aliases=["old"]):
    quality: float = 0.5

    async def perform(self) -> str:
        return self.path


class Count(roger.Job):
    numbers: list[int]

    def perform(self) -> int:
        return sum(self.numbers)


def check_classes() -> None:
    assert_type(ResizeImage("cat.png", width=100), ResizeImage)
    assert_type(ResizeImage("cat.png").width, int)
    assert_type(ResizeImage("cat.png").tags, list[str])
    assert_type(Sync("cat.png", 5, [], 0.9).quality, float)
    assert_type(ResizeImage.options, roger.JobOptions)
    assert_type(Count([1]).perform(), int)

    ResizeImage()  # type: ignore[call-arg]
    ResizeImage(5)  # type: ignore[arg-type]
    ResizeImage("cat.png", height=5)  # type: ignore[call-arg]
    ResizeImage("cat.png").width = 5  # type: ignore[misc]
    Count(["1"])  # type: ignore[list-item]


class WrongOption(roger.Job, queue=5):  # type: ignore[arg-type]
    async def perform(self) -> None: ...


@roger.job
async def send_mail(to: str, subject: str = "hi", *, copies: int = 1) -> bytes:
    return to.encode()


@roger.job(
    queue="mail", retryable=True, max_execution_time=1.5, retry_levels=[1], name="a", aliases=()
)
async def with_options(to: str) -> None: ...


@roger.job()
def plain(a: int, b: int = 2) -> int:
    return a + b


@roger.job(process=True, retryable=True)
def crunch(numbers: list[int], *, scale: float = 1.0) -> float:
    return sum(numbers) * scale


class Crunch(roger.Job, process=True):
    numbers: list[int]

    def perform(self) -> int:
        return sum(self.numbers)


def check_processes() -> None:
    assert_type(crunch([1], scale=2.0), float)
    assert_type(crunch.job([1], scale=2.0), roger.Job)
    assert_type(Crunch([1]).perform(), int)
    assert_type(Crunch.options.process, bool)
    assert_type(roger.JobCrashed(3).exitcode, int | None)
    roger.Config(max_job_processes=4)

    crunch.job(["1"])  # type: ignore[list-item]
    crunch.job([1], 2.0)  # type: ignore[call-arg]
    roger.job(process="yes")  # type: ignore[call-overload]


class WrongProcess(roger.Job, process=1):  # type: ignore[arg-type]
    def perform(self) -> None: ...


async def check_functions() -> None:
    assert_type(await send_mail("ada", copies=2), bytes)
    assert_type(await with_options("ada"), None)
    assert_type(plain(1), int)
    assert_type(plain, roger.JobFunction[[int, int], int])  # type: ignore[assert-type]  # keeps names too
    assert_type(send_mail.job("ada", subject="x", copies=2), roger.Job)
    assert_type(plain.job(1, b=3), roger.Job)
    assert_type(send_mail.options, roger.JobOptions)
    assert_type(send_mail.job_type, type[roger.Job])
    as_function: Callable[[str], Coroutine[Any, Any, bytes]] = send_mail
    await as_function("ada")

    send_mail.job()  # type: ignore[call-arg]
    send_mail.job(5)  # type: ignore[arg-type]
    send_mail.job("ada", cc="bob")  # type: ignore[call-arg]
    await send_mail("ada", "x", 2)  # type: ignore[call-arg]
    plain.job("1")  # type: ignore[arg-type]


def check_wrong_decorator_options() -> None:
    roger.job(retryable="yes")  # type: ignore[call-overload]


async def check_enqueue(when: datetime) -> None:
    envelope = await send_mail.job("ada").enqueue("myapp", queue="mail", delay=5, id="1")
    assert_type(envelope, roger.Envelope)
    assert_type(await ResizeImage("cat.png").enqueue("myapp", at=when), roger.Envelope)

    await ResizeImage("cat.png").enqueue()  # type: ignore[call-arg]
    await ResizeImage("cat.png").enqueue("myapp", delay="5")  # type: ignore[arg-type]


def check_envelope() -> None:
    envelope = roger.current_job()
    assert_type(envelope, roger.Envelope)
    assert_type(envelope.id, str)
    assert_type(envelope.args, Mapping[str, Any])
    assert_type(envelope.queue_key, str | None)
    assert_type(envelope.retry_count, int)
    assert_type(envelope.queued_at, datetime)
    assert_type(envelope.started_at, datetime | None)
    assert_type(envelope.max_execution_time, float | None)
    assert_type(envelope.redelivered, bool)
    assert_type(envelope.load(), roger.Job)
    assert_type(envelope.as_json(), dict[str, Any])
    envelope.retry_count = 5  # type: ignore[misc]


def check_signals() -> None:
    assert_type(roger.Retry(5).after, float | None)
    assert_type(roger.Snooze(5).seconds, float)
    assert_type(roger.Bury("no").reason, str)
    assert_type(roger.Discard().reason, str)
    roger.Snooze()  # type: ignore[call-arg]
    roger.Bury()  # type: ignore[call-arg]


class Timing(roger.Callbacks):
    async def before_run(self, partition: str, job: roger.Envelope) -> float:
        return 1.0

    async def after_run(
        self, partition: str, job: roger.Envelope, result: Any, state: float
    ) -> None: ...

    async def on_error(
        self, partition: str, job: roger.Envelope, error: BaseException, state: float
    ) -> None: ...

    async def on_cancel(self, partition: str, job: roger.Envelope) -> None: ...

    async def on_buried(
        self, partition: str, job: roger.Envelope, error: BaseException, state: float
    ) -> None: ...
