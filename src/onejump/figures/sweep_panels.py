"""Panels of the figures that sweep a number: a panel for each metric, a curve for each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from onejump.figures.frame import about, framed, metric_label, samples_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.looks import LOOKS, method_label, methods_of


def draw_sweep(
    inputs: Inputs,
    table: pd.DataFrame,
    metrics: Sequence[str],
    curve: Callable[[Axes, pd.DataFrame, dict[str, Any]], None],
    *,
    title: str,
    along: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw metrics, mean over levels, against a number on a logarithmic axis.

    Parameters
    ----------
    inputs : Inputs
    table : DataFrame
        The sweep's, with columns method, metric, level, value.
    metrics : sequence of str
        A panel each.
    curve : function of the axes, the rows of a method and a metric, and options of `Axes.plot`
        Draws a method.
    title, along : str
        Of the figure, and of the axis of the number.
    notes : sequence of str
        What the subtitle says besides.
    """
    shown = measured(inputs, table, metrics)
    methods = methods_of(table)
    levels = f"mean over {table['level'].nunique()} exit levels"
    subtitle = [about(table), levels, samples_of(table), *notes]
    figure = framed(title, subtitle, max(6.6, 4.7 * len(shown)), 4.0)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, metric in zip(axes, shown, strict=True):
        for method in methods:
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            curve(ax, rows, {"label": method_label(method), **LOOKS[method].style()})
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel=f"{along} (log scale)", ylabel=metric_label(metric, inputs.predicts))
        ax.margins(y=0.1)
        if metric.startswith("precision"):
            ax.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure
