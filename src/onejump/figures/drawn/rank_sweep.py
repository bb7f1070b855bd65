"""The figure "rank-sweep": what more ranks give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onejump.figures.inputs import Inputs
from onejump.figures.sweep_panels import draw_sweep


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw metrics, mean over levels, by numbers kept: a curve for each method, a point for each rank.

    Parameters
    ----------
    inputs : Inputs
        rank_sweep.
    metrics : sequence of str
        A panel each.
    """
    return draw_sweep(
        inputs,
        inputs.table("rank_sweep"),
        metrics,
        _curve,
        title="What a higher rank gives",
        along="numbers kept at inference",
        notes=["number at each point: its rank r"],
    )


def _curve(ax: Axes, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    points = rows.groupby("rank").agg({"numbers": "first", "value": "mean"})
    (line,) = ax.plot(points["numbers"], points["value"], **style)
    for rank, numbers, value in points.itertuples():
        ax.annotate(
            str(rank),
            (numbers, value),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=line.get_color(),
        )
