"""``roger demo``: a complete run that a newcomer watches, and may read.

jobs     a handful of jobs of different kinds
story    the run: a node, its jobs, one that fails and is retried, one buried and replayed
"""
