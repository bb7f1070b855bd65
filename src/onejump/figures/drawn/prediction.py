"""The figure "prediction": JTC Fig. 3 and 4, N-NJTC Fig. 3."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from onejump.figures.curves import curves_of
from onejump.figures.inputs import Inputs, labels_of, measured
from onejump.figures.level_panels import level_figure


def draw(inputs: Inputs, *, methods: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Draw the quality of prediction of some methods by exit level.

    Parameters
    ----------
    inputs : Inputs
        evaluation, and selection to mark the selected jump.
    methods : sequence of str
        The methods to draw.
    metrics : sequence of str
        A panel each.
    """
    table = inputs.table("evaluation")
    labels = {method: label for method, label in labels_of(inputs, table).items() if method in methods}
    panels = curves_of(table, measured(inputs, table, metrics), labels)
    return level_figure(
        "Quality of prediction", table, panels, mark=inputs.selected(), predicts=inputs.predicts
    )
