"""The figure "sub-modules": JTC section 6."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from onejump.figures.curves import curve_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.level_panels import level_figure

_PARTS = {
    "attention": ("#CC3311", (0, (5, 2)), "P"),
    "feed-forward": ("#117733", "-", "D"),
    "norms": ("#332288", (0, (8, 2)), "h"),
}


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw the model with a part of its blocks made linear above a level, beside jumps from that level.

    Parameters
    ----------
    inputs : Inputs
        sub_modules and evaluation, and selection to mark the selected jump.
    metrics : sequence of str
        A panel each.
    """
    table, evaluation = inputs.table("sub_modules"), inputs.table("evaluation")
    together = pd.concat([table.rename(columns={"part": "method"}), evaluation], ignore_index=True)
    jumps = [method for method in ("identity", "jtc") if (evaluation["method"] == method).any()]
    panels = {}
    for metric in measured(inputs, table, metrics):
        curves = [curve_of(together, metric, part, f"{part} linear") for part in dict.fromkeys(table["part"])]
        styled = [
            curve._replace(style=dict(zip(("color", "linestyle", "marker"), _PARTS[curve.name], strict=True)))
            for curve in curves
        ]
        panels[metric] = [*styled, *(curve_of(together, metric, method, method) for method in jumps)]
    title = "Parts of the blocks above a level made linear"
    return level_figure(title, table, panels, mark=inputs.selected())
