"""The figure "sub-modules": JTC section 6."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from onejump.figures.curves import curve_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.level_panels import level_figure
from onejump.figures.looks import Look

_LOOKS = {
    "attention": Look("#CC3311", (0, (5, 2)), "P", "attention linear"),
    "feed-forward": Look("#117733", "-", "D", "feed-forward linear"),
    "norms": Look("#332288", (0, (8, 2)), "h", "norms linear"),
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
    of_parts = table.rename(columns={"part": "method"})
    parts = list(dict.fromkeys(table["part"]))
    jumps = [method for method in ("identity", "jtc") if (evaluation["method"] == method).any()]
    panels = {
        metric: [
            *(curve_of(of_parts, metric, part, _LOOKS[part].meaning, _LOOKS[part].style()) for part in parts),
            *(curve_of(evaluation, metric, method, method) for method in jumps),
        ]
        for metric in measured(inputs, table, metrics)
    }
    title = "Parts of the blocks above a level made linear"
    return level_figure(title, table, panels, mark=inputs.selected(), predicts=inputs.predicts)
