"""The version that runs."""

from __future__ import annotations

import importlib
from typing import Final

# The package's door stands above this layer and is loaded first, whoever asks for us.
VERSION: Final[str] = importlib.import_module("roger_trio").__version__
