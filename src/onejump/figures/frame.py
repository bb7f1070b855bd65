"""The frame of a figure: its title, its subtitle, the names and the ticks of its axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from onejump.figures.looks import QUIET

Floats = NDArray[np.float64]

_METRIC_LABELS = {
    "surprisal": "surprisal −ln p(w*) (nats)",
    "kl": "KL(p ‖ p̂) (nats)",
    "r2": "r² of the last level's states",
}


def metric_label(metric: str) -> str:
    """Give the name of a metric's axis."""
    return _METRIC_LABELS.get(metric, metric)


def whole_numbers(*axes: Axis) -> None:
    """Set ticks of levels, jumps and ranks, even where there is a single one."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_numbers() -> FuncFormatter:
    """Write ticks of a log axis as 0.1, 1, 10: matplotlib's own are formulas, which the style turns off."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e"))


def about(table: pd.DataFrame) -> str:
    """Name the model and the corpus of a table."""
    return f"{table['model'].iloc[0]} on {table['corpus'].iloc[0]}"


def framed(title: str, subtitle: Sequence[str], width: float, height: float) -> Figure:
    """Make an empty figure below a title and a small subtitle.

    Parameters
    ----------
    title : str
    subtitle : sequence of str
        Parts, put on as few lines as hold them.
    width, height : float
        Inches, without title and subtitle.
    """
    lines = _flow(subtitle, int((width - 0.4) / 0.0765))
    header = 0.42 + 0.17 * len(lines)
    figure = Figure(figsize=(width, height + header), layout="constrained")
    full = height + header
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, height / full), w_pad=0.08, h_pad=0.06)  # type: ignore[call-arg]
    figure.text(0.15 / width, 1 - 0.1 / full, title, va="top", fontsize=12, fontweight="bold")
    for i, line in enumerate(lines):
        y = 1 - (0.36 + 0.17 * i) / full
        figure.text(0.15 / width, y, line, va="top", fontsize=8.5, color=QUIET)
    return figure


def _flow(parts: Sequence[str], width: int) -> list[str]:
    """Put parts on as few lines as hold them; a part too long for a line is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f" · {part}"
        else:
            lines += textwrap.wrap(part, width)
    return lines
