"""The figure "selected": OJFA Fig. 1, and the table below it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from onejump.figures.curves import curves_of
from onejump.figures.inputs import Inputs, labels_of, measured
from onejump.figures.level_panels import level_figure
from onejump.figures.looks import method_label


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw a jump for each level, the selected jump and identity, by exit level.

    Parameters
    ----------
    inputs : Inputs
        evaluation and selection.
    metrics : sequence of str
        A panel each.
    """
    table, chosen = inputs.table("evaluation"), inputs.selection()
    jump, source = chosen["jump"], chosen["computed_from"]
    count = source["levels"]
    labels = {
        source["method"]: f"{source['method']}, a jump per level ({count} jump{'s' if count > 1 else ''})",
        "ojfa": f"{method_label('ojfa')}, fitted at level {jump}",
        "identity": "identity",
    }
    evaluated = set(table["method"])
    present = {method: label for method, label in labels.items() if method in evaluated}
    panels = curves_of(table, measured(inputs, table, metrics), present)
    return level_figure(
        "The selected jump in place of a jump per level", table, panels, mark=jump, predicts=inputs.predicts
    )


def table(inputs: Inputs, *, metrics: Sequence[str]) -> pd.DataFrame:
    """Tell each method's numbers kept and its metrics, mean over levels.

    Parameters
    ----------
    inputs : Inputs
        evaluation, parameters and selection.
    metrics : sequence of str
        A column each.

    Returns
    -------
    DataFrame
        Text in the columns "shortcut", "numbers kept" and one for each metric; the selected jump is first.
        A cell is empty where a method has no such value.
    """
    evaluation, counts = inputs.table("evaluation"), inputs.table("parameters")
    numbers = dict(zip(counts["method"], counts["numbers"].astype(int), strict=True))
    shown = measured(inputs, evaluation, metrics)
    means = evaluation.groupby(["method", "metric"])["value"].mean()
    labels = labels_of(inputs, evaluation)
    rows = []
    for method in sorted(labels, key=lambda method: method != "ojfa"):
        values = [means.get((method, metric)) for metric in shown]
        texts = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append([labels[method], f"{numbers[method]:,}" if method in numbers else "", *texts])
    return pd.DataFrame(rows, columns=["shortcut", "numbers kept", *shown])
