"""How Sphinx builds the documentation: ``nox -s docs``."""

from __future__ import annotations

from typing import Any

import roger_trio

project = "roger_trio"
author = "roger_trio contributors"
copyright = author
release = version = roger_trio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"roger_trio {release}"
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# In docstrings `Name` is a reference, which has to lead somewhere.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
maximum_signature_line_length = 88

# A build needs no network, so names of other projects are not linked. Neither are those that only
# signatures mention: type variables, and what texts like "sqlite:PATH" become.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|contextlib|datetime|logging|os|pathlib|ssl|trio|typing)(\..+)?"),
    (r"py:class", r"P|roger_trio\._jobs\.function\.R"),
    (r"py:class", r"roger_trio\._config\.broker\.(Sqlite|Memory)Config"),
]


# Napoleon takes "Seconds: at least 0." below a field for a type and a text; we never write those.
fields: dict[str, list[str]] = {}


def set_aside(_app: Any, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Remember the docstring of a field before napoleon gets it."""
    if what in {"attribute", "property"}:
        fields[name] = lines.copy()


def bring_back(
    _app: Any, _what: str, name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Bring it back as it was."""
    lines[:] = fields.pop(name, lines)


def tidy_defaults(*event: Any) -> tuple[str | None, str | None]:
    """Write ``...`` for a default that attrs makes anew for each object."""
    signature, returns = event[-2:]
    return signature and signature.replace("= NOTHING", "= ..."), returns


def setup(app: Any) -> None:
    """Run one hook before napoleon, whose priority is 500, and one after it."""
    app.connect("autodoc-process-signature", tidy_defaults)
    app.connect("autodoc-process-docstring", set_aside, priority=400)
    app.connect("autodoc-process-docstring", bring_back, priority=600)
