"""The supervision tree, outermost first: serve, node, partition, consumer, worker."""
