"""The documentation as a site: `make docs` builds it, warnings being errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

project = "onejump"
author = "The onejump authors"
copyright = "The onejump authors, MIT licence"
extensions = [
    "study_keys",  # beside this file
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "onejump"
html_static_path, html_css_files = ["_static"], ["onejump.css"]
# Types stand in the signatures; the docstrings say what types cannot (shapes, units).
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_numpy_docstring, napoleon_google_docstring = True, False
napoleon_use_rtype = False
# A prompt or a comment is not copied with a command.
copybutton_prompt_text = "$ "


def setup(app: Any) -> None:
    """Write an array's type in signatures as ndarray; the docstrings have its shape and number format."""

    def shorter(*arguments: Any) -> tuple[str | None, ...]:
        signature_and_returns = arguments[-2:]
        long = "ndarray[tuple[Any, ...], dtype[Any]]"
        return tuple(part and part.replace(long, "ndarray") for part in signature_and_returns)

    app.connect("autodoc-process-signature", shorter)
