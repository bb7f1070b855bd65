"""The figure "parameters": the table of numbers kept at inference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator

from onejump.figures.frame import about, framed
from onejump.figures.inputs import Inputs, labels_of
from onejump.figures.looks import LOOKS, QUIET


def draw(inputs: Inputs) -> Figure:
    """Draw the numbers that each method keeps at inference, as a table with bars.

    Parameters
    ----------
    inputs : Inputs
        parameters, and selection to name the level of the selected jump.
    """
    table = inputs.table("parameters")
    kept = dict(zip(table["method"], table["shortcuts"].astype(int), strict=True))
    numbers = dict(zip(table["method"], table["numbers"].astype(int), strict=True))
    fewer = dict(zip(table["method"], table["reduction"].astype(float), strict=True))
    labels = labels_of(inputs, table)
    methods = list(labels)
    # The table compares with the kind that the selected jump comes from: its own factor is 1.
    sets = [f"all {method} jumps" for method in ("n-njtc", "njtc") if fewer.get(method) == 1]
    the_set = sets[0] if sets else "one jump per level"
    row, head, width = 0.32, 0.5, 8.8
    height = head + row * len(methods) + 0.5
    subtitle = [about(table), "in bold: the selected jump"]
    figure = framed("Numbers kept at inference", subtitle, width, height)
    figure.set_layout_engine("none")
    top = figure.get_figheight() - (height - 0.1)  # inches taken by the header
    full = figure.get_figheight()
    bottom = full - top - head - row * len(methods)
    cells = figure.add_axes((0.0, bottom / full, 1.0, row * len(methods) / full))
    cells.set(xlim=(0, width), ylim=(len(methods), 0))
    cells.axis("off")
    bars = figure.add_axes((6.35 / width, bottom / full, 2.25 / width, row * len(methods) / full))
    columns = {
        "method": (0.25, "left"),
        "shortcuts\nkept": (3.0, "right"),
        "numbers\nkept": (4.7, "right"),
        f"compared with\n{the_set}": (6.1, "right"),
    }
    for name, (x, side) in columns.items():
        cells.text(x, -0.15, name, ha=side, va="bottom", fontweight="bold")
    for i, method in enumerate(methods):
        if i % 2 == 0:
            cells.add_patch(Rectangle((0.15, i), width - 0.3, 1, color="#F4F4F4", linewidth=0))
        texts = (labels[method], f"{kept[method]:,}", f"{numbers[method]:,}", _factor(fewer[method]))
        for text, (x, side) in zip(texts, columns.values(), strict=True):
            weight = "bold" if method == "ojfa" else "normal"
            cells.text(x, i + 0.5, text, ha=side, va="center", fontweight=weight)
    cells.plot([0.15, width - 0.15], [0, 0], color=QUIET, linewidth=0.8, clip_on=False)
    _number_bars(bars, {method: numbers[method] for method in methods})
    return figure


def _number_bars(ax: Axes, numbers: Mapping[str, int]) -> None:
    positive = [number for number in numbers.values() if number > 0] or [1]
    low = 10.0 ** np.floor(np.log10(min(positive) / 2))
    high = 10.0 ** np.ceil(np.log10(max(positive) * 1.0001))
    ax.patch.set_visible(False)
    ax.set_xscale("log")
    ax.set(xlim=(low, high), ylim=(len(numbers), 0), yticks=[])
    for i, (method, number) in enumerate(numbers.items()):
        if number > 0:
            ax.barh(i + 0.5, number - low, left=low, height=0.55, color=LOOKS[method].colour)
    ax.xaxis.set_major_locator(LogLocator(numticks=6))
    ax.xaxis.set_minor_locator(LogLocator(subs=(), numticks=6))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("numbers kept (log scale)", fontsize=8)


def _factor(fewer: float) -> str:
    """Say how many times fewer or more numbers."""
    if not np.isfinite(fewer):
        return "none"
    if fewer == 1:
        return "the same"
    return f"{fewer:,.3g}× fewer" if fewer > 1 else f"{1 / fewer:,.3g}× more"
