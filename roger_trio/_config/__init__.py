"""Configuration: plain frozen values, checked when they are made.

checks      the rules of single values; also for names given at run time
tls         `SslOptions`: certificates
url         ``amqp://…`` taken apart
properties  what the broker is told about the client
amqp        `AmqpConfig`
broker      which broker is meant: `BrokerConfig`
toml        a file taken apart
config      `Config`
"""

from __future__ import annotations

from .amqp import AmqpConfig
from .broker import BrokerConfig, MemoryConfig, SqliteConfig, parse_broker
from .checks import (
    MAX_DELAY,
    MAX_WORKERS,
    check_max_workers,
    check_partition_name,
    check_queue_name,
    check_queues,
    check_retry_levels,
)
from .config import BROKER_VARIABLE, RETRY_LEVELS, Config, default_node_name
from .tls import SslOptions

__all__ = [
    "BROKER_VARIABLE",
    "MAX_DELAY",
    "MAX_WORKERS",
    "RETRY_LEVELS",
    "AmqpConfig",
    "BrokerConfig",
    "Config",
    "MemoryConfig",
    "SqliteConfig",
    "SslOptions",
    "check_max_workers",
    "check_partition_name",
    "check_queue_name",
    "check_queues",
    "check_retry_levels",
    "default_node_name",
    "parse_broker",
]
