"""The jobs of the demo. A program of yours would define its jobs just so, by ``roger.job``."""

from __future__ import annotations

import hashlib
from datetime import date

import trio

from .._jobs.context import current_job
from .._jobs.function import job
from .._jobs.job import Job


class ResizeImage(Job, queue="images"):
    """A job as a class: its annotated fields are its arguments."""

    path: str
    width: int = 640

    async def perform(self) -> str:
        """Pretend to resize an image."""
        await trio.sleep(0.6 + self.width / 1000)
        return f"{self.path} is {self.width} wide"


@job(queue="mail")
async def send_mail(to: str, subject: str = "Welcome") -> str:
    """A job as a function."""
    await trio.sleep(0.8)
    return f"{subject!r} went to {to}"


@job(queue="mail")
def checksum(text: str) -> str:
    """A plain function runs in a thread and holds nobody up."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@job(retryable=True, retry_levels=(1, 2))
async def fetch_feed(url: str) -> str:
    """A job that fails at first: it is retried after one second, then after two."""
    await trio.sleep(0.1)
    if current_job().retry_count < 2:
        raise ConnectionError(f"{url} does not answer")
    return f"{url} had 12 entries"


@job(max_execution_time=1.5)
async def export_everything() -> None:
    """A job that takes too long: it is stopped, child tasks and all."""
    await trio.sleep_forever()


@job
async def nightly_report(day: date) -> str:
    """A job that is enqueued to run later."""
    return f"the report of {day:%d %B} is ready"


class PaymentService:
    """What `charge_card` depends on; the story repairs it."""

    is_up = False


@job(retryable=True, retry_levels=(0.5, 1))
async def charge_card(order: int) -> str:
    """A job that fails until somebody mends something: buried, then replayed."""
    await trio.sleep(0.1)
    if not PaymentService.is_up:
        raise RuntimeError("the payment service is down")
    return f"order {order} is paid"
