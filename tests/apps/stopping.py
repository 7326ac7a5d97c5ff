"""The program of `tests.apps.node` with its log on stdout, for a test to wait for."""

from __future__ import annotations

import logging
import sys

from tests.apps import node

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="log %(message)s")
    node.main()
