"""What a partition remembers: decided in memory, kept by a persister. Nothing here speaks AMQP."""
