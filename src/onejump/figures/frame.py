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
    "precision@1": "precision@1\n({predicts} is the full model's own)",
    "surprisal": "surprisal of the full model's\nlikeliest {predicts} (nats)",
    "kl": "KL divergence from the full\nmodel's prediction (nats)",
    "r2": "r² of the last level's states",
    "accuracy": "accuracy\n(label is the text's own)",
}


def metric_label(metric: str, predicts: str = "token") -> str:
    """Give the name of a metric's axis: what it measures, in two lines at most.

    Parameters
    ----------
    metric : str
    predicts : str
        What the model predicts: token, or label.
    """
    if metric in _METRIC_LABELS:
        return _METRIC_LABELS[metric].format(predicts=predicts)
    return f"{metric}\n({predicts} is in the full model's top {metric.removeprefix('precision@')})"


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


def samples_of(table: pd.DataFrame, split: str = "validation ") -> str:
    """Say how many samples a table rests on, and how many documents they come from.

    Parameters
    ----------
    table : DataFrame
        Columns n and documents, the same in each row.
    split : str
        The samples' split and a space, or nothing.
    """
    samples, documents = int(table["n"].iloc[0]), int(table["documents"].iloc[0])
    return f"{samples:,} {split}samples from {documents:,} document{'s' if documents > 1 else ''}"


def legend_size(labels: Sequence[str], width: float) -> tuple[int, float]:
    """Plan a legend below all panels.

    Parameters
    ----------
    labels : sequence of str
    width : float
        Width of the figure in inches.

    Returns
    -------
    columns : int
        As many as the figure holds.
    height : float
        Inches.
    """
    columns = max(1, min(len(labels), int(width / (0.75 + 0.075 * max(map(len, labels))))))
    return columns, 0.2 * -(-len(labels) // columns)


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
