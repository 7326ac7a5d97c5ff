"""``python -m roger_trio``: the same as the command ``roger``."""

from __future__ import annotations

from ._cli import main

if __name__ == "__main__":
    main()
