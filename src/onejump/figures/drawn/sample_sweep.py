"""The figure "sample-sweep": what more training samples give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onejump.figures.inputs import Inputs
from onejump.figures.sweep_panels import draw_sweep


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw metrics, mean over levels, by training samples: a curve for each method.

    Parameters
    ----------
    inputs : Inputs
        sample_sweep.
    metrics : sequence of str
        A panel each.
    """
    return draw_sweep(
        inputs,
        inputs.table("sample_sweep"),
        metrics,
        _curve,
        title="What more training samples give",
        along="training samples",
    )


def _curve(ax: Axes, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    points = rows.groupby("samples")["value"].mean()
    ax.plot(points.index, points, **style)
