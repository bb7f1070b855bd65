"""The figure "sample-sweep": what more training samples give."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from onejump.figures.frame import about, framed, metric_label, samples_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.looks import LOOKS, method_label, methods_of


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw metrics, mean over levels, by training samples: a curve for each method.

    Parameters
    ----------
    inputs : Inputs
        sample_sweep.
    metrics : sequence of str
        A panel each.
    """
    table = inputs.table("sample_sweep")
    shown = measured(inputs, table, metrics)
    methods = methods_of(table)
    subtitle = [about(table), f"mean over {table['level'].nunique()} exit levels", samples_of(table)]
    figure = framed("What more training samples give", subtitle, max(6.6, 4.7 * len(shown)), 4.0)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, metric in zip(axes, shown, strict=True):
        for method in methods:
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            points = rows.groupby("samples")["value"].mean()
            ax.plot(points.index, points, label=method_label(method), **LOOKS[method].style())
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="training samples (log scale)", ylabel=metric_label(metric))
        ax.margins(y=0.1)
        if metric.startswith("precision"):
            ax.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure
