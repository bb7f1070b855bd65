"""The table below the figure of the selected jump: every method, mean over levels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from onejump.figures.parts import Inputs, evaluated_labels, measured_metrics


def selected_table(inputs: Inputs, options: dict[str, Any]) -> pd.DataFrame:
    """Numbers kept and metrics, mean over levels, as text; the selected jump first.

    Parameters
    ----------
    inputs : Inputs
        evaluation, parameters and selection.
    options : dict
        The study's options of the figure: its metrics are the columns.

    Returns
    -------
    DataFrame
        Columns "shortcut", "numbers kept" and a column a metric. Empty where a method has no such value.
    """
    table, counts = inputs.table("evaluation"), inputs.table("parameters")
    numbers = dict(zip(counts["method"], counts["numbers"].astype(int), strict=True))
    metrics = measured_metrics(table, inputs.figure, options)
    means = table.groupby(["method", "metric"])["value"].mean()
    labels = evaluated_labels(inputs, table)
    rows = []
    for method in sorted(labels, key=lambda method: method != "ojfa"):
        values = [means.get((method, metric)) for metric in metrics]
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append([labels[method], f"{numbers[method]:,}" if method in numbers else "", *shown])
    return pd.DataFrame(rows, columns=["shortcut", "numbers kept", *metrics])
