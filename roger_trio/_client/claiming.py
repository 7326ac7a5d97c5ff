"""Hold the keys of jobs that are about to be published, until they are, or are not."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import trio

from .._state.operations import Answer, Claim, ReplayClaim, Withdraw
from .base import ClientBase


class Held:
    """Claims of jobs that are about to be published."""

    def __init__(self) -> None:
        self.is_confirmed = False

    def confirm(self) -> None:
        """Note that the broker has confirmed the jobs: the claims stand."""
        self.is_confirmed = True


class Claiming(ClientBase):
    """What enqueueing and replaying do about keys."""

    @contextmanager
    def _withdrawing(
        self, partition: str, claims: Sequence[Claim | ReplayClaim]
    ) -> Generator[Held]:
        """Withdraw the claims in the background if the block fails before it confirms."""
        held = Held()
        try:
            yield held
        finally:
            if claims and not held.is_confirmed:
                withdrawn = [Withdraw(each.job, each.nonce) for each in claims]
                self._controls.courier.tell_soon(partition, *withdrawn)

    async def _ask_claims(
        self, partition: str, claims: Sequence[Claim | ReplayClaim]
    ) -> list[Answer]:
        """Ask for keys.

        Raises:
            PartitionNotRunning: No node of the partition answers within ``enqueue_timeout``.
            BrokerUnavailable: The broker cannot be reached.
        """
        answers: list[Answer] = []
        if claims:
            with trio.move_on_after(self._config.enqueue_timeout):
                answers = await self._controls.courier.ask_many(partition, claims)
            if not answers:
                raise await self._not_running(partition)
        return answers
