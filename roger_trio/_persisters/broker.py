"""`BrokerPersister`: the word that the broker shall keep the state."""

from __future__ import annotations

from typing import NoReturn

import attrs


@attrs.frozen
class BrokerPersister:
    """Has the broker keep the state, in a queue beside the partition's others.

    For nodes on several hosts, which share nothing but the broker. It works on every broker.
    """

    async def load(self, partition: str) -> NoReturn:
        """Refuse: only a node, which has a broker, can load the state."""
        self._refuse(partition)

    async def save(self, partition: str, data: bytes) -> NoReturn:
        """Refuse: only a node, which has a broker, can save the state."""
        self._refuse(partition)

    def _refuse(self, partition: str) -> NoReturn:
        raise RuntimeError(
            f"BrokerPersister() knows no broker, and so no state of partition {partition!r}: "
            "give it to Config(persister=...), and the node will use its own broker"
        )
