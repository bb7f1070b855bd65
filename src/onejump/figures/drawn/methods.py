"""The figure "methods": every method by exit level."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from onejump.figures.curves import curves_of
from onejump.figures.inputs import Inputs, labels_of, measured
from onejump.figures.level_panels import level_figure


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw every method by exit level.

    Parameters
    ----------
    inputs : Inputs
        evaluation, and selection to mark the selected jump.
    metrics : sequence of str
        A panel each.
    """
    table = inputs.table("evaluation")
    panels = curves_of(table, measured(inputs, table, metrics), labels_of(inputs, table))
    return level_figure(
        "Shortcuts by exit level", table, panels, mark=inputs.selected(), predicts=inputs.predicts
    )
