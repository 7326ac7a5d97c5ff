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
        self, partition: str, claims: Sequence[Claim | ReplayClaim], deadline: float | None = None
    ) -> list[Answer]:
        """Ask for keys.

        Args:
            partition: Whose keys they are.
            claims: What to ask for.
            deadline: Until when to wait. Default: for ``enqueue_timeout`` seconds.

        Raises:
            PartitionNotRunning: No node of the partition answers in time.
            BrokerUnavailable: The broker cannot be reached.
        """
        if not claims:
            return []
        if deadline is None:
            deadline = trio.current_time() + self._config.enqueue_timeout
        return await self._ask_all(partition, claims, deadline)
