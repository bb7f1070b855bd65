"""The style of all figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

import matplotlib.style


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the one style of onejump's figures, whatever a reader's own matplotlibrc says."""
    style = files("onejump.figures") / "onejump.mplstyle"
    with as_file(style) as style_file, matplotlib.style.context(style_file, after_reset=True):
        yield
