"""Commands to a partition's coordinator, and questions to all nodes of the cluster."""
