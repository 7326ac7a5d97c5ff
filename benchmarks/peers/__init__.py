"""roger_trio beside its peers, on one RabbitMQ: ``python -m benchmarks peers``."""
