"""From the persister of a configuration to the one that a node uses."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from .._brokers.base import Broker
from .._config import AmqpConfig, Config
from .._persisters import BrokerPersister, FilePersister, MemoryPersister, Persister
from .._persisters.file import default_directory
from .broker_state import BrokerState

_THIS_HOST: Final = {"localhost", "127.0.0.1", "::1"}


def bind_persister(persister: Persister, config: Config, broker: Broker) -> Persister:
    """Decide where the state is kept that a configuration leaves open.

    Args:
        persister: `Config.persister`.
        config: The configuration it belongs to: clusters of different prefixes are kept apart.
        broker: The broker in use, for the state that it keeps itself.

    Returns:
        A persister of its own for each call, where it is one of ours: two of them own what they
        keep as two processes would. A user's object is returned as it is.
    """
    if isinstance(persister, BrokerPersister):
        return BrokerState(broker, config.prefix)
    if isinstance(persister, FilePersister) and persister.path is None:
        address = config.broker_config()
        if not isinstance(address, AmqpConfig):
            return BrokerState(broker, config.prefix)
        persister = FilePersister(default_directory() / cluster_name(address, config.prefix))
    if isinstance(persister, FilePersister | MemoryPersister):
        return persister.scoped(config.prefix)
    return persister


def cluster_name(address: AmqpConfig, prefix: str) -> str:
    """Return what a cluster's directory is called: the same for all nodes, of whatever user."""
    host = address.host.lower()
    host = "localhost" if host in _THIS_HOST else host
    known = [host, address.port, address.virtual_host, prefix]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
