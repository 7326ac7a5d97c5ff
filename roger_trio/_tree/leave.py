"""Leave to start: what the coordinator is asked of a job, and what is done about its answer."""

from __future__ import annotations

import logging
from typing import assert_never

from .._errors import DuplicateJob
from .._jobs import outcome as o
from .._logs import log_job
from .._state import operations as op
from .concluding import Concluder
from .control import Verdict, new_attempt
from .ending import waiting_message
from .performing import Running
from .settings import WorkerSettings
from .settling import Settler

logger = logging.getLogger("roger_trio.jobs")


class Leave:
    """Gets leave to start jobs, and sees to those that get none.

    Args:
        settings: Of the queue.
        settler: Settles and publishes.
        concluder: Does what follows from outcomes.
    """

    def __init__(self, settings: WorkerSettings, settler: Settler, concluder: Concluder) -> None:
        self._settings = settings
        self._control = settings.control
        self._settler = settler
        self._concluder = concluder

    async def ask(self, running: Running, *, to_forget: bool = False) -> Verdict:
        """Ask whether a job may start, for as long as it takes.

        Args:
            running: The job.
            to_forget: Whether it has ended before, and only what it still may hold is asked for.

        Raises:
            BrokerError: The broker will never take the question.
        """
        envelope = running.envelope
        if running.wait_turn is not None:
            await running.wait_turn()
        await self._control.view.freshen()
        if not self._control.needs_leave(envelope):
            return op.Run()
        running.attempt = new_attempt()
        return await self._control.ask_leave(
            envelope, running.attempt, running.arrival, to_forget=to_forget
        )

    async def follow(self, running: Running, verdict: Verdict) -> bool:
        """Do what the coordinator has said; return whether the job is to be started."""
        envelope, settler = running.envelope, self._settler
        match verdict:
            case op.Run():
                self._control.finished.discard(envelope.id)
                return True
            case op.Wait():
                message = waiting_message(envelope, self._settings.names.redelivered)
                if await settler.publish(running, self._settings.waiting, message):
                    settler.pass_on(running)
            case op.Cancelled():
                await self._concluder.conclude(running, o.Cancelled())
            case op.Finished():
                text = "it has ended before; this copy of it is forgotten"
                log_job(logger, logging.DEBUG, envelope, text)
                settler.ack(running)
            case op.Duplicate(job):
                # Mostly its enqueue was never confirmed; but the state may have been lost, too.
                error = DuplicateJob(envelope.queue_key or "", job)
                await self._concluder.conclude(running, o.BuryRequested(error))
            case _:
                assert_never(verdict)
        return False
